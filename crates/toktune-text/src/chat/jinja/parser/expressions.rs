//! Expressions, by jinja2's ranks of operators.

use std::sync::Arc;

use super::super::ast::{Arguments, Comparison, EXTRAS, Expr, Operator, Post};
use super::super::fault::Result;
use super::super::lexer::TokenKind;
use super::super::value::Value;
use super::Parser;

impl Parser {
    /// An expression, or several with commas between: a tuple.
    pub(super) fn tuple(&mut self, with_condition: bool) -> Result<Expr> {
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
    pub(super) fn expression(&mut self) -> Result<Expr> {
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

    pub(super) fn filter(&mut self) -> Result<Post> {
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
