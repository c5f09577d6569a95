//! Computes expressions.

use std::sync::Arc;

use super::ast::{Arguments, Comparison, Expr, Post};
use super::call::Call;
use super::fault::{Fault, Result};
use super::machine::Machine;
use super::print::display;
use super::value::{Missing, SeqKind, Value};
use super::{access, checks, filters, functions, methods, operators};

impl Machine {
    /// The value of an expression.
    pub(super) fn eval(&mut self, expr: &Expr) -> Result<Value> {
        self.budget.step(1)?;
        match expr {
            Expr::Const(value) => Ok(value.clone()),
            Expr::Name(name) => self.lookup(name),
            _ => self.deeper(|machine| machine.eval_deep(expr)),
        }
    }

    fn eval_deep(&mut self, expr: &Expr) -> Result<Value> {
        match expr {
            Expr::Const(_) | Expr::Name(_) => self.eval(expr),
            Expr::Post(value, posts) => {
                let value = self.eval(value)?;
                self.eval_posts(value, posts, None)
            }
            Expr::Chain(first, others) => {
                let mut value = self.eval(first)?;
                for (operator, other) in others {
                    let other = self.eval(other)?;
                    value = operators::binary(*operator, &value, &other, &mut self.budget)?;
                }
                Ok(value)
            }
            Expr::Compare(first, others) => self.eval_comparison(first, others),
            Expr::And(parts) | Expr::Or(parts) => {
                let stop = matches!(expr, Expr::Or(_));
                let mut value = Value::None;
                for part in parts {
                    value = self.eval(part)?;
                    if value.truth() == stop {
                        break;
                    }
                }
                Ok(value)
            }
            Expr::Not(value) => Ok(Value::Bool(!self.eval(value)?.truth())),
            Expr::If(parts) => {
                let (value, test, otherwise) = &**parts;
                match (self.eval(test)?.truth(), otherwise) {
                    (true, _) => self.eval(value),
                    (false, Some(otherwise)) => self.eval(otherwise),
                    (false, None) => {
                        Ok(Value::Undefined(Missing::Other("an `if` without `else` did not hold")))
                    }
                }
            }
            Expr::Negative(value) | Expr::Positive(value) => {
                let value = self.eval(value)?;
                operators::signed(&value, matches!(expr, Expr::Negative(_)))
            }
            Expr::Concat(parts) => self.eval_concat(parts),
            Expr::List(items) => Value::list(self.eval_all(items)?),
            Expr::Tuple(items) => Value::seq(SeqKind::Tuple, self.eval_all(items)?),
            Expr::Dict(entries) => self.eval_dict(entries),
        }
    }

    fn eval_all(&mut self, items: &[Expr]) -> Result<Vec<Value>> {
        self.budget.make_list(items.len() + 1)?;
        items.iter().map(|item| self.eval(item)).collect()
    }

    fn eval_dict(&mut self, entries: &[(Expr, Expr)]) -> Result<Value> {
        self.budget.make_list(entries.len() * 2 + 2)?;
        let mut values = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            values.push((self.eval(key)?, self.eval(value)?));
        }
        Value::dict(values)
    }

    fn eval_concat(&mut self, parts: &[Expr]) -> Result<Value> {
        let mut texts = Vec::with_capacity(parts.len());
        for part in parts {
            let value = self.eval(part)?;
            texts.push(display(&value, &mut self.budget)?);
        }
        methods::join(&texts, "", &mut self.budget)
    }

    fn eval_comparison(&mut self, first: &Expr, others: &[(Comparison, Expr)]) -> Result<Value> {
        let mut left = self.eval(first)?;
        for (comparison, right) in others {
            let right = self.eval(right)?;
            if !operators::compare(*comparison, &left, &right, &mut self.budget)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    /// The call of a call block, which is given one argument more.
    pub(super) fn eval_call_block(&mut self, call: &Expr, caller: Value) -> Result<Value> {
        match call {
            Expr::Post(value, posts) if matches!(posts.last(), Some(Post::Call(_))) => {
                let value = self.eval(value)?;
                self.eval_posts(value, posts, Some(caller))
            }
            _ => Err(Fault::failed("`call` needs a call")),
        }
    }

    /// Attributes, items, calls, filters and tests of a value.
    pub(super) fn eval_posts(
        &mut self,
        mut value: Value,
        posts: &[Post],
        mut caller: Option<Value>,
    ) -> Result<Value> {
        let mut posts = posts.iter().peekable();
        while let Some(post) = posts.next() {
            self.budget.step(1)?;
            value = match post {
                Post::Attribute(name) => match posts.peek() {
                    Some(Post::Call(arguments)) if methods::exists(&value, name) => {
                        posts.next();
                        let call = self.arguments(arguments, None)?;
                        self.call_method(&value, name, call)?
                    }
                    _ => {
                        value.defined()?;
                        access::attribute(&value, name)
                    }
                },
                Post::Item(key) => {
                    let key = self.eval(key)?;
                    access::item(&value, &key, &mut self.budget)?
                }
                Post::Slice(parts) => self.slice(&value, parts)?,
                Post::Call(arguments) => {
                    let mut call = self.arguments(arguments, None)?;
                    if posts.peek().is_none() {
                        call.named.extend(caller.take().map(|caller| ("caller".into(), caller)));
                    }
                    self.call(&value, call)?
                }
                Post::Filter(name, arguments) => {
                    let call = self.arguments(arguments, Some(value))?;
                    filters::apply(name, call, &mut self.budget)?
                }
                Post::Test(name, arguments, negated) => {
                    let call = self.arguments(arguments, Some(value))?;
                    Value::Bool(checks::holds(name, call, &mut self.budget)? != *negated)
                }
            };
        }
        Ok(value)
    }

    fn slice(&mut self, value: &Value, parts: &[Option<Expr>; 3]) -> Result<Value> {
        let mut values = [None, None, None];
        for (value, part) in values.iter_mut().zip(parts) {
            if let Some(part) = part {
                *value = Some(self.eval(part)?);
            }
        }
        access::slice(value, values, &mut self.budget)
    }

    fn arguments(&mut self, arguments: &Arguments, first: Option<Value>) -> Result<Call> {
        let mut call =
            Call { positional: Vec::with_capacity(arguments.positional.len() + 1), named: Vec::new() };
        call.positional.extend(first);
        for argument in &arguments.positional {
            call.positional.push(self.eval(argument)?);
        }
        for (name, argument) in &arguments.named {
            call.named.push((name.clone(), self.eval(argument)?));
        }
        if let Some(rest) = &arguments.rest {
            let rest = self.eval(rest)?;
            call.positional.extend(rest.iterate(&mut self.budget)?);
        }
        if let Some(rest) = &arguments.named_rest {
            let Value::Dict(dict) = self.eval(rest)? else {
                return Err(Fault::failed("`**` needs a dict"));
            };
            for (key, value) in &dict.entries {
                let Value::Str(name) = key else {
                    return Err(Fault::failed("`**` needs a dict with texts as keys"));
                };
                call.named.push((name.clone(), value.clone()));
            }
        }
        Ok(call)
    }

    /// Calls a value.
    fn call(&mut self, value: &Value, call: Call) -> Result<Value> {
        match value {
            Value::Macro(this) => self.call_macro(this, call),
            Value::Method(method) => self.call_method(&method.0, &method.1, call),
            Value::Function(name) => functions::call(self, name, call),
            Value::Loop(state) => self.recurse(state, call),
            Value::Space(space) if space.kind == "joiner" => functions::join(space, call),
            other => {
                other.defined()?;
                Err(Fault::failed(format!("a {} cannot be called", other.type_name())))
            }
        }
    }

    fn call_method(&mut self, value: &Value, name: &Arc<str>, call: Call) -> Result<Value> {
        match value {
            Value::Loop(state) => match &**name {
                "changed" => self.changed(state, call),
                _ if call.positional.is_empty() => Err(Fault::failed("no items for `loop.cycle`")),
                _ => Ok(call.positional[state.index % call.positional.len()].clone()),
            },
            Value::Space(space) => functions::cycle(space, name, call),
            _ => methods::call(value, name, call, &mut self.budget),
        }
    }
}
