//! Tokens to a syntax tree, by jinja2's grammar: statements here, [`expressions`] apart.

mod expressions;

use std::sync::Arc;

use super::ast::{Body, Expr, For, MacroDef, Stmt, StmtKind, Target};
use super::budget::DEPTH;
use super::fault::{Fault, Result};
use super::lexer::{Token, TokenKind, tokenize};

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
}
