//! Tokens to a syntax tree, by jinja2's grammar.

use std::sync::Arc;

use super::ast::{
    Arguments, Body, Comparison, EXTRAS, Expr, For, MacroDef, Operator, Post, Stmt, StmtKind, Target,
};
use super::budget::DEPTH;
use super::fault::{Fault, Result};
use super::lexer::{Token, TokenKind, tokenize};
use super::value::Value;

/// Bytes of a source; the longest templates of known models have a tenth.
const LONGEST_SOURCE: usize = 1 << 20;

/// Parses a template; its statements, and whether generation blocks are among them.
pub(crate) fn parse(source: &str) -> Result<(Body, bool)> {
    if source.len() > LONGEST_SOURCE {
        return Err(Fault::syntax(0, format!("{} bytes, expected at most {LONGEST_SOURCE}", source.len())));
    }
    let mut parser = Parser {
        tokens: tokenize(source)?,
        at: 0,
        depth: 0,
        loops: 0,
        extras: [false; 3],
        generation: false,
    };
    let body = parser.body(&[])?;
    match parser.kind() {
        TokenKind::End => Ok((body, parser.generation)),
        _ => Err(parser.unexpected()),
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// Loops around, for `break`.
    loops: usize,
    /// Which of the macros' extra names were met.
    extras: [bool; 3],
    generation: bool,
}

impl Parser {
    fn kind(&self) -> &TokenKind {
        self.tokens.get(self.at).map_or(&TokenKind::End, |token| &token.kind)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |token| token.line)
    }

    fn fault(&self, reason: impl Into<String>) -> Fault {
        Fault::syntax(self.line(), reason)
    }

    fn unexpected(&self) -> Fault {
        let found = match self.kind() {
            TokenKind::Text(_) => "text".to_owned(),
            TokenKind::PrintBegin => "`{{`".to_owned(),
            TokenKind::PrintEnd => "`}}`".to_owned(),
            TokenKind::TagBegin => match self.tokens.get(self.at + 1).map(|token| &token.kind) {
                Some(TokenKind::Name(name)) => format!("tag `{name}`"),
                _ => "`{%`".to_owned(),
            },
            TokenKind::TagEnd => "`%}`".to_owned(),
            TokenKind::Name(name) => format!("`{name}`"),
            TokenKind::Str(_) => "a text".to_owned(),
            TokenKind::Int(_) | TokenKind::Float(_) => "a number".to_owned(),
            TokenKind::Operator(operator) => format!("`{operator}`"),
            TokenKind::End => "the end of the template".to_owned(),
        };
        self.fault(format!("unexpected {found}"))
    }

    fn is(&self, operator: &str) -> bool {
        matches!(self.kind(), TokenKind::Operator(found) if *found == operator)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.kind(), TokenKind::Name(found) if **found == *name)
    }

    fn take(&mut self, operator: &str) -> bool {
        let found = self.is(operator);
        self.at += usize::from(found);
        found
    }

    fn take_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, operator: &str) -> Result<()> {
        match self.take(operator) {
            true => Ok(()),
            false => Err(self.unexpected()),
        }
    }

    fn expect_kind(&mut self, kind: &TokenKind) -> Result<()> {
        match self.kind() == kind {
            true => {
                self.at += 1;
                Ok(())
            }
            false => Err(self.unexpected()),
        }
    }

    fn name(&mut self) -> Result<Arc<str>> {
        match self.kind() {
            TokenKind::Name(name) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.unexpected()),
        }
    }

    /// Runs a part one level deeper.
    fn deeper<T>(&mut self, part: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= DEPTH {
            return Err(self.fault(format!("expressions or tags nested more than {DEPTH} deep")));
        }
        self.depth += 1;
        let parsed = part(self);
        self.depth -= 1;
        parsed
    }

    /// Statements up to a tag of one of these names, which stays.
    fn body(&mut self, ends: &[&str]) -> Result<Body> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            let kind = match self.kind() {
                TokenKind::Text(text) => {
                    let kind = StmtKind::Text(text.clone());
                    self.at += 1;
                    kind
                }
                TokenKind::PrintBegin => {
                    self.at += 1;
                    let value = self.tuple(true)?;
                    self.expect_kind(&TokenKind::PrintEnd)?;
                    StmtKind::Print(value)
                }
                TokenKind::TagBegin => {
                    let ended = matches!(
                        self.tokens.get(self.at + 1).map(|token| &token.kind),
                        Some(TokenKind::Name(name)) if ends.contains(&&**name)
                    );
                    if ended {
                        return Ok(body);
                    }
                    self.at += 1;
                    let name = self.name()?;
                    self.deeper(|parser| parser.tag(&name))?
                }
                TokenKind::End if ends.is_empty() => return Ok(body),
                TokenKind::End => {
                    return Err(self.fault(format!(
                        "unexpected end of the template, expected `{}`",
                        ends.join("` or `")
                    )));
                }
                _ => return Err(self.unexpected()),
            };
            body.push(Stmt { line, kind });
        }
    }

    /// The end of a tag.
    fn tag_end(&mut self) -> Result<()> {
        self.expect_kind(&TokenKind::TagEnd)
    }

    /// The rest of an opening tag, then statements, then the tag that ends them.
    fn block(&mut self, end: &str) -> Result<Body> {
        self.tag_end()?;
        let body = self.body(&[end])?;
        self.at += 2;
        Ok(body)
    }

    fn tag(&mut self, name: &str) -> Result<StmtKind> {
        let kind = match name {
            "if" => self.if_tag()?,
            "for" => self.for_tag()?,
            "set" => self.set_tag()?,
            "macro" => {
                let name = self.name()?;
                let parameters = self.parameters()?;
                StmtKind::Macro(Arc::new(self.macro_body(name, parameters, "endmacro")?))
            }
            "call" => {
                let parameters = if self.is("(") { self.parameters()? } else { Vec::new() };
                let call = self.expression()?;
                StmtKind::CallBlock(call, Arc::new(self.macro_body("caller".into(), parameters, "endcall")?))
            }
            "filter" => {
                let mut filters = vec![self.filter()?];
                while self.take("|") {
                    filters.push(self.filter()?);
                }
                StmtKind::Filter(filters, self.block("endfilter")?)
            }
            "with" => {
                let mut bindings = Vec::new();
                while *self.kind() != TokenKind::TagEnd {
                    if !bindings.is_empty() {
                        self.expect(",")?;
                    }
                    let target = self.target(false)?;
                    self.expect("=")?;
                    bindings.push((target, self.expression()?));
                }
                StmtKind::With(bindings, self.block("endwith")?)
            }
            "block" => {
                self.name()?;
                while self.take_name("scoped") || self.take_name("required") {}
                let body = self.block("endblock")?;
                if matches!(self.kind(), TokenKind::Name(_)) {
                    self.at += 1;
                }
                StmtKind::Block(body)
            }
            "autoescape" => {
                let on = self.expression()?;
                let body = self.block("endautoescape")?;
                match on {
                    Expr::Const(on) if !on.truth() => StmtKind::With(Vec::new(), body),
                    _ => StmtKind::Refuse("`autoescape` is not supported"),
                }
            }
            // transformers' own block is a call block, which is to say that its body has a scope of its own.
            "generation" => {
                self.generation = true;
                StmtKind::Generation(self.without_loops("endgeneration")?)
            }
            "break" | "continue" if self.loops == 0 => {
                return Err(self.fault(format!("`{name}` outside of a loop")));
            }
            "break" => StmtKind::Break,
            "continue" => StmtKind::Continue,
            "include" | "import" | "from" | "extends" => {
                while !matches!(self.kind(), TokenKind::TagEnd | TokenKind::End) {
                    self.at += 1;
                }
                StmtKind::Refuse("a chat template cannot load another one")
            }
            _ => return Err(self.fault(format!("unknown tag `{name}`"))),
        };
        self.tag_end()?;
        Ok(kind)
    }

    fn without_loops(&mut self, end: &str) -> Result<Body> {
        let loops = std::mem::take(&mut self.loops);
        let body = self.block(end);
        self.loops = loops;
        body
    }

    fn if_tag(&mut self) -> Result<StmtKind> {
        let mut tests = Vec::new();
        loop {
            let test = self.tuple(false)?;
            self.tag_end()?;
            tests.push((test, self.body(&["elif", "else", "endif"])?));
            self.at += 1;
            if !self.take_name("elif") {
                break;
            }
        }
        let otherwise = match self.take_name("else") {
            true => self.block("endif")?,
            false => {
                self.at += 1;
                Vec::new()
            }
        };
        Ok(StmtKind::If(tests, otherwise))
    }

    fn for_tag(&mut self) -> Result<StmtKind> {
        let target = self.target(false)?;
        if !self.take_name("in") {
            return Err(self.unexpected());
        }
        let over = self.tuple(false)?;
        let test = if self.take_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.take_name("recursive");
        self.tag_end()?;
        self.loops += 1;
        let body = self.body(&["else", "endfor"]);
        self.loops -= 1;
        let body = body?;
        self.at += 1;
        let otherwise = match self.take_name("else") {
            true => self.block("endfor")?,
            false => {
                self.at += 1;
                Vec::new()
            }
        };
        Ok(StmtKind::For(Arc::new(For { target, over, test, recursive, body, otherwise })))
    }

    fn set_tag(&mut self) -> Result<StmtKind> {
        let target = self.target(true)?;
        if self.take("=") {
            return Ok(StmtKind::Set(target, self.tuple(true)?));
        }
        let mut filters = Vec::new();
        while self.take("|") {
            filters.push(self.filter()?);
        }
        Ok(StmtKind::SetBlock(target, filters, self.block("endset")?))
    }

    /// One name, or several with commas between.
    fn target(&mut self, with_attribute: bool) -> Result<Target> {
        let mut targets = Vec::new();
        let mut comma = false;
        loop {
            targets.push(self.one_target(with_attribute)?);
            if !self.take(",") {
                break;
            }
            comma = true;
            if !matches!(self.kind(), TokenKind::Name(_)) && !self.is("(") || self.is_name("in") {
                break;
            }
        }
        Ok(match targets.len() {
            1 if !comma => targets.remove(0),
            _ => Target::Tuple(targets),
        })
    }

    fn one_target(&mut self, with_attribute: bool) -> Result<Target> {
        if self.take("(") {
            let target = self.deeper(|parser| parser.target(with_attribute))?;
            self.expect(")")?;
            return Ok(target);
        }
        let name = self.name()?;
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return Err(self.fault(format!("cannot assign to `{name}`")));
        }
        if with_attribute && self.take(".") {
            return Ok(Target::Attribute(name, self.name()?));
        }
        Ok(Target::Name(name))
    }

    fn parameters(&mut self) -> Result<Vec<(Arc<str>, Option<Expr>)>> {
        self.expect("(")?;
        let mut parameters = Vec::new();
        while !self.take(")") {
            if !parameters.is_empty() {
                self.expect(",")?;
            }
            let name = self.name()?;
            let default = if self.take("=") { Some(self.expression()?) } else { None };
            parameters.push((name, default));
        }
        Ok(parameters)
    }

    fn macro_body(
        &mut self,
        name: Arc<str>,
        parameters: Vec<(Arc<str>, Option<Expr>)>,
        end: &str,
    ) -> Result<MacroDef> {
        let outer = std::mem::take(&mut self.extras);
        let body = self.without_loops(end)?;
        let extras = std::mem::replace(&mut self.extras, outer);
        Ok(MacroDef { name, parameters, body, extras })
    }

    /// An expression, or several with commas between: a tuple.
    fn tuple(&mut self, with_condition: bool) -> Result<Expr> {
        let mut items = Vec::new();
        let mut comma = false;
        loop {
            let ended = matches!(self.kind(), TokenKind::PrintEnd | TokenKind::TagEnd) || self.is(")");
            if ended || (comma && self.is_name("recursive")) {
                break;
            }
            items.push(if with_condition { self.expression()? } else { self.plain_expression()? });
            if !self.take(",") {
                break;
            }
            comma = true;
        }
        match items.len() {
            0 => Err(self.unexpected()),
            1 if !comma => Ok(items.remove(0)),
            _ => Ok(Expr::Tuple(items)),
        }
    }

    /// An expression with `a if b else c`.
    fn expression(&mut self) -> Result<Expr> {
        self.deeper(|parser| {
            let mut value = parser.or()?;
            while parser.take_name("if") {
                let test = parser.or()?;
                let otherwise = if parser.take_name("else") { Some(parser.expression()?) } else { None };
                value = Expr::If(Box::new((value, test, otherwise)));
                parser.depth_of_chain()?;
            }
            Ok(value)
        })
    }

    /// `a if b if c …` nests to the left without a call; it is no template's.
    fn depth_of_chain(&self) -> Result<()> {
        match self.is_name("if") {
            true => Err(self.fault("`if` after `if … else`: put it into parentheses")),
            false => Ok(()),
        }
    }

    fn plain_expression(&mut self) -> Result<Expr> {
        self.deeper(Self::or)
    }

    fn or(&mut self) -> Result<Expr> {
        let mut parts = vec![self.and()?];
        while self.take_name("or") {
            parts.push(self.and()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expr::Or(parts) })
    }

    fn and(&mut self) -> Result<Expr> {
        let mut parts = vec![self.not()?];
        while self.take_name("and") {
            parts.push(self.not()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expr::And(parts) })
    }

    fn not(&mut self) -> Result<Expr> {
        match self.take_name("not") {
            true => Ok(Expr::Not(Box::new(self.deeper(Self::not)?))),
            false => self.comparison(),
        }
    }

    fn comparison(&mut self) -> Result<Expr> {
        let first = self.sum()?;
        let mut others = Vec::new();
        loop {
            let comparison = match self.kind() {
                TokenKind::Operator("==") => Comparison::Equal,
                TokenKind::Operator("!=") => Comparison::NotEqual,
                TokenKind::Operator("<") => Comparison::Less,
                TokenKind::Operator("<=") => Comparison::LessEqual,
                TokenKind::Operator(">") => Comparison::Greater,
                TokenKind::Operator(">=") => Comparison::GreaterEqual,
                TokenKind::Name(name) if &**name == "in" => Comparison::In,
                TokenKind::Name(name) if &**name == "not" => {
                    let next = self.tokens.get(self.at + 1).map(|token| &token.kind);
                    if !matches!(next, Some(TokenKind::Name(name)) if &**name == "in") {
                        break;
                    }
                    self.at += 1;
                    Comparison::NotIn
                }
                _ => break,
            };
            self.at += 1;
            others.push((comparison, self.sum()?));
        }
        Ok(if others.is_empty() { first } else { Expr::Compare(Box::new(first), others) })
    }

    fn sum(&mut self) -> Result<Expr> {
        self.chain(Self::concat, &[("+", Operator::Add), ("-", Operator::Subtract)])
    }

    fn concat(&mut self) -> Result<Expr> {
        let mut parts = vec![self.product()?];
        while self.take("~") {
            parts.push(self.product()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expr::Concat(parts) })
    }

    fn product(&mut self) -> Result<Expr> {
        let operators = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Remainder),
        ];
        self.chain(Self::power, &operators)
    }

    fn power(&mut self) -> Result<Expr> {
        self.chain(|parser| parser.unary(true), &[("**", Operator::Power)])
    }

    fn chain(
        &mut self,
        part: impl Fn(&mut Self) -> Result<Expr>,
        operators: &[(&'static str, Operator)],
    ) -> Result<Expr> {
        let first = part(self)?;
        let mut others = Vec::new();
        while let Some((_, operator)) = operators.iter().find(|(sign, _)| self.is(sign)) {
            self.at += 1;
            others.push((*operator, part(self)?));
        }
        Ok(if others.is_empty() { first } else { Expr::Chain(Box::new(first), others) })
    }

    fn unary(&mut self, with_filter: bool) -> Result<Expr> {
        let value = if self.take("-") {
            Expr::Negative(Box::new(self.deeper(|parser| parser.unary(false))?))
        } else if self.take("+") {
            Expr::Positive(Box::new(self.deeper(|parser| parser.unary(false))?))
        } else {
            self.primary()?
        };
        let mut posts = Vec::new();
        self.postfix(&mut posts)?;
        if with_filter {
            self.filters(&mut posts)?;
        }
        Ok(if posts.is_empty() { value } else { Expr::Post(Box::new(value), posts) })
    }

    fn primary(&mut self) -> Result<Expr> {
        let kind = self.kind().clone();
        match kind {
            TokenKind::Name(name) => {
                self.at += 1;
                Ok(match &*name {
                    "true" | "True" => Expr::Const(Value::Bool(true)),
                    "false" | "False" => Expr::Const(Value::Bool(false)),
                    "none" | "None" => Expr::Const(Value::None),
                    _ => {
                        for (extra, seen) in EXTRAS.iter().zip(&mut self.extras) {
                            *seen |= **extra == *name;
                        }
                        Expr::Name(name)
                    }
                })
            }
            TokenKind::Str(first) => {
                self.at += 1;
                let mut text = first.to_string();
                while let TokenKind::Str(more) = self.kind() {
                    text.push_str(more);
                    self.at += 1;
                }
                Ok(Expr::Const(Value::str(text)))
            }
            TokenKind::Int(number) => {
                self.at += 1;
                Ok(Expr::Const(Value::Int(number)))
            }
            TokenKind::Float(number) => {
                self.at += 1;
                Ok(Expr::Const(Value::Float(number)))
            }
            TokenKind::Operator("(") => {
                self.at += 1;
                if self.take(")") {
                    return Ok(Expr::Tuple(Vec::new()));
                }
                let value = self.deeper(|parser| parser.tuple(true))?;
                self.expect(")")?;
                Ok(value)
            }
            TokenKind::Operator("[") => {
                self.at += 1;
                Ok(Expr::List(self.items("]")?))
            }
            TokenKind::Operator("{") => {
                self.at += 1;
                let mut entries = Vec::new();
                while !self.take("}") {
                    if !entries.is_empty() {
                        self.expect(",")?;
                        if self.take("}") {
                            break;
                        }
                    }
                    let key = self.expression()?;
                    self.expect(":")?;
                    entries.push((key, self.expression()?));
                }
                Ok(Expr::Dict(entries))
            }
            _ => Err(self.unexpected()),
        }
    }

    fn items(&mut self, end: &str) -> Result<Vec<Expr>> {
        let mut items = Vec::new();
        while !self.take(end) {
            if !items.is_empty() {
                self.expect(",")?;
                if self.take(end) {
                    break;
                }
            }
            items.push(self.expression()?);
        }
        Ok(items)
    }

    /// Attributes, items and calls.
    fn postfix(&mut self, posts: &mut Vec<Post>) -> Result<()> {
        loop {
            if self.take(".") {
                let kind = self.kind().clone();
                self.at += 1;
                posts.push(match kind {
                    TokenKind::Name(name) => Post::Attribute(name),
                    TokenKind::Int(number) => Post::Item(Expr::Const(Value::Int(number))),
                    _ => {
                        self.at -= 1;
                        return Err(self.unexpected());
                    }
                });
            } else if self.take("[") {
                let post = self.deeper(Self::subscript)?;
                self.expect("]")?;
                posts.push(post);
            } else if self.is("(") {
                posts.push(Post::Call(self.deeper(Self::arguments)?));
            } else {
                return Ok(());
            }
        }
    }

    fn subscript(&mut self) -> Result<Post> {
        let mut parts: [Option<Expr>; 3] = [None, None, None];
        let mut colons = 0;
        let mut items = Vec::new();
        loop {
            if self.is("]") {
                break;
            }
            if self.take(":") {
                colons += 1;
                if colons > 2 || !items.is_empty() {
                    return Err(self.unexpected());
                }
            } else if self.take(",") {
                match parts[0].take().filter(|_| colons == 0) {
                    Some(item) => items.push(item),
                    None => return Err(self.unexpected()),
                }
            } else if parts[colons].is_none() {
                parts[colons] = Some(self.expression()?);
            } else {
                return Err(self.unexpected());
            }
        }
        if colons > 0 {
            return Ok(Post::Slice(Box::new(parts)));
        }
        let [item, ..] = parts;
        if !items.is_empty() {
            items.extend(item);
            return Ok(Post::Item(Expr::Tuple(items)));
        }
        item.map(Post::Item).ok_or_else(|| self.unexpected())
    }

    /// Filters and tests, and calls of what they give.
    fn filters(&mut self, posts: &mut Vec<Post>) -> Result<()> {
        loop {
            if self.take("|") {
                posts.push(self.filter()?);
            } else if self.take_name("is") {
                posts.push(self.test()?);
            } else if self.is("(") {
                posts.push(Post::Call(self.deeper(Self::arguments)?));
            } else {
                return Ok(());
            }
        }
    }

    fn dotted_name(&mut self) -> Result<Arc<str>> {
        let mut name = self.name()?;
        while self.take(".") {
            name = format!("{name}.{}", self.name()?).into();
        }
        Ok(name)
    }

    fn filter(&mut self) -> Result<Post> {
        let name = self.dotted_name()?;
        let arguments = if self.is("(") { self.deeper(Self::arguments)? } else { Arguments::default() };
        Ok(Post::Filter(name, arguments))
    }

    fn test(&mut self) -> Result<Post> {
        let negated = self.take_name("not");
        let name = self.dotted_name()?;
        let arguments = if self.is("(") {
            self.deeper(Self::arguments)?
        } else {
            let argument = match self.kind() {
                TokenKind::Name(name) => {
                    if &**name == "is" {
                        return Err(self.fault("tests cannot be chained with `is`"));
                    }
                    !matches!(&**name, "else" | "or" | "and")
                }
                TokenKind::Str(_) | TokenKind::Int(_) | TokenKind::Float(_) => true,
                TokenKind::Operator(operator) => matches!(*operator, "[" | "{"),
                _ => false,
            };
            // `x is defined if …` and `x is string in …`: jinja2 too takes a name here for the test's argument,
            // except that these words cannot begin a value.
            if argument && !self.is_name("if") && !self.is_name("in") && !self.is_name("not") {
                let value = self.deeper(Self::primary)?;
                let mut posts = Vec::new();
                self.postfix(&mut posts)?;
                let value = if posts.is_empty() { value } else { Expr::Post(Box::new(value), posts) };
                Arguments { positional: vec![value], ..Arguments::default() }
            } else {
                Arguments::default()
            }
        };
        Ok(Post::Test(name, arguments, negated))
    }

    fn arguments(&mut self) -> Result<Arguments> {
        self.expect("(")?;
        let mut arguments = Arguments::default();
        let mut first = true;
        while !self.take(")") {
            if !first {
                self.expect(",")?;
                if self.take(")") {
                    break;
                }
            }
            first = false;
            let equals = self.tokens.get(self.at + 1).is_some_and(|t| t.kind == TokenKind::Operator("="));
            if self.take("*") {
                arguments.rest = Some(Box::new(self.expression()?));
            } else if self.take("**") {
                arguments.named_rest = Some(Box::new(self.expression()?));
            } else if let TokenKind::Name(name) = self.kind()
                && equals
            {
                let name = name.clone();
                self.at += 2;
                arguments.named.push((name, self.expression()?));
            } else if !arguments.named.is_empty() || arguments.named_rest.is_some() {
                return Err(self.fault("an argument without a name after one with a name"));
            } else {
                arguments.positional.push(self.expression()?);
            }
        }
        Ok(arguments)
    }
}
