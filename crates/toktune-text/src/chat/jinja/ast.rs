//! A parsed template.

use std::sync::Arc;

use super::value::Value;

/// A statement and the line that it begins in.
#[derive(Debug)]
pub(crate) struct Stmt {
    pub(crate) line: u32,
    pub(crate) kind: StmtKind,
}

pub(crate) type Body = Vec<Stmt>;

#[derive(Debug)]
pub(crate) enum StmtKind {
    Text(Arc<str>),
    Print(Expr),
    /// Tests with their bodies, and what comes when none holds.
    If(Vec<(Expr, Body)>, Body),
    For(Arc<For>),
    Set(Target, Expr),
    /// A block whose text becomes a value, after filters.
    SetBlock(Target, Vec<Post>, Body),
    Macro(Arc<MacroDef>),
    /// A call whose `caller` is the macro.
    CallBlock(Expr, Arc<MacroDef>),
    Filter(Vec<Post>, Body),
    With(Vec<(Target, Expr)>, Body),
    Block(Body),
    Generation(Body),
    Break,
    Continue,
    /// What fails when it is reached.
    Refuse(&'static str),
}

#[derive(Debug)]
pub(crate) struct For {
    pub(crate) target: Target,
    pub(crate) over: Expr,
    pub(crate) test: Option<Expr>,
    pub(crate) recursive: bool,
    pub(crate) body: Body,
    pub(crate) otherwise: Body,
}

#[derive(Debug)]
pub(crate) struct MacroDef {
    pub(crate) name: Arc<str>,
    pub(crate) parameters: Vec<(Arc<str>, Option<Expr>)>,
    pub(crate) body: Body,
    /// Which of the [`EXTRAS`] the body looks at: only then may a call give them.
    pub(crate) extras: [bool; 3],
}

/// What a macro is given besides its parameters.
pub(crate) const EXTRAS: [&str; 3] = ["varargs", "kwargs", "caller"];

/// What is assigned to.
#[derive(Debug)]
pub(crate) enum Target {
    Name(Arc<str>),
    Attribute(Arc<str>, Arc<str>),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(crate) enum Expr {
    Const(Value),
    Name(Arc<str>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// Operators of one rank, from the left.
    Chain(Box<Expr>, Vec<(Operator, Expr)>),
    Concat(Vec<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// Value, test, and the other value.
    If(Box<(Expr, Expr, Option<Expr>)>),
    /// Attributes, items, calls, filters and tests of a value, in their order.
    Post(Box<Expr>, Vec<Post>),
}

#[derive(Debug)]
pub(crate) enum Post {
    Attribute(Arc<str>),
    Item(Expr),
    Slice(Box<[Option<Expr>; 3]>),
    Call(Arguments),
    Filter(Arc<str>, Arguments),
    /// A test, and whether it is asked for the contrary.
    Test(Arc<str>, Arguments, bool),
}

#[derive(Debug, Default)]
pub(crate) struct Arguments {
    pub(crate) positional: Vec<Expr>,
    pub(crate) named: Vec<(Arc<str>, Expr)>,
    /// `*list` and `**dict`.
    pub(crate) rest: Option<Box<Expr>>,
    pub(crate) named_rest: Option<Box<Expr>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}
