//! Runs statements: scopes, loops, macros, output.

use std::ops::Range;
use std::sync::Arc;

use super::ast::{EXTRAS, Expr, For, MacroDef, Post, Stmt, StmtKind, Target};
use super::budget::{Budget, DEPTH, LONGEST};
use super::call::Call;
use super::fault::{Fault, Result};
use super::print::display;
use super::value::{LoopState, Macro, Missing, Seq, SeqKind, Space, Value};
use super::{CLOSE, OPEN, functions};

/// One rendering.
pub(crate) struct Machine {
    pub(super) budget: Budget,
    pub(super) now: u64,
    depth: usize,
    scopes: Vec<Scope>,
    scope: usize,
    out: String,
    /// Blocks around whose text becomes a value instead of output.
    captures: usize,
    generations: Vec<Range<usize>>,
    /// Whether a generation block was in such a block, and its text has marks around it.
    marked: bool,
    /// Every namespace, so that they can be taken apart at the end: they may hold each other in a circle.
    spaces: Vec<Arc<Space>>,
    /// What `loop.changed` was last called with, for each loop that runs.
    changed: Vec<Option<Value>>,
}

/// Names and the scope around them.
struct Scope {
    names: Vec<(Arc<str>, Value)>,
    parent: Option<usize>,
    /// A macro was defined here and looks its names up here.
    kept: bool,
}

/// Whether a loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

/// Text, the places of generation blocks, and whether those of some are marked in the text.
pub(super) struct Output {
    pub(super) text: String,
    pub(super) generations: Vec<Range<usize>>,
    pub(super) marked: bool,
}

impl Machine {
    pub(super) fn new(names: Vec<(Arc<str>, Value)>, now: u64) -> Self {
        let context = Scope { names, parent: None, kept: true };
        let root = Scope { names: Vec::new(), parent: Some(0), kept: true };
        Machine {
            budget: Budget::new(),
            now,
            depth: 0,
            scopes: vec![context, root],
            scope: 1,
            out: String::new(),
            captures: 0,
            generations: Vec::new(),
            marked: false,
            spaces: Vec::new(),
            changed: Vec::new(),
        }
    }

    pub(super) fn run(&mut self, body: &[Stmt]) -> Result<Output> {
        self.body(body)?;
        let (text, generations) = (std::mem::take(&mut self.out), std::mem::take(&mut self.generations));
        Ok(Output { text, generations, marked: self.marked })
    }

    /// Runs a part one level deeper.
    pub(super) fn deeper<T>(&mut self, part: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= DEPTH {
            return Err(Fault::limit(format!(
                "expressions, blocks and macros nested more than {DEPTH} deep"
            )));
        }
        self.depth += 1;
        let done = part(self);
        self.depth -= 1;
        done
    }

    pub(super) fn lookup(&mut self, name: &Arc<str>) -> Result<Value> {
        self.budget.step(1)?;
        let mut scope = Some(self.scope);
        while let Some(index) = scope {
            let Scope { names, parent, .. } = &self.scopes[index];
            if let Some((_, value)) = names.iter().rev().find(|(found, _)| found == name) {
                return Ok(value.clone());
            }
            scope = *parent;
        }
        Ok(functions::find(name).unwrap_or_else(|| Value::Undefined(Missing::Name(name.clone()))))
    }

    fn define(&mut self, name: &Arc<str>, value: Value) {
        let names = &mut self.scopes[self.scope].names;
        match names.iter_mut().find(|(found, _)| found == name) {
            Some(slot) => slot.1 = value,
            None => names.push((name.clone(), value)),
        }
    }

    /// Runs a part in a scope of its own inside another.
    fn scoped<T>(&mut self, parent: usize, part: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let (outer, scope) = (self.scope, self.scopes.len());
        self.scopes.push(Scope { names: Vec::new(), parent: Some(parent), kept: false });
        self.scope = scope;
        let done = part(self);
        self.scope = outer;
        if self.scopes.len() == scope + 1 && !self.scopes[scope].kept {
            self.scopes.pop();
        }
        done
    }

    /// Runs a part whose text becomes a value.
    pub(super) fn captured(&mut self, part: impl FnOnce(&mut Self) -> Result<()>) -> Result<Value> {
        let outer = std::mem::take(&mut self.out);
        self.captures += 1;
        let done = part(self);
        self.captures -= 1;
        let text = std::mem::replace(&mut self.out, outer);
        done?;
        self.budget.make(text.len())?;
        Ok(Value::str(text))
    }

    fn write(&mut self, text: &str) -> Result<()> {
        if self.out.len() + text.len() > LONGEST {
            return Err(Fault::limit(format!("more than {LONGEST} bytes of output")));
        }
        match self.captures {
            0 => self.budget.scan(text.len())?,
            _ => self.budget.make(text.len())?,
        }
        self.out.push_str(text);
        Ok(())
    }

    fn body(&mut self, body: &[Stmt]) -> Result<Flow> {
        for stmt in body {
            self.budget.step(1)?;
            match self.statement(&stmt.kind).map_err(|fault| fault.at(stmt.line))? {
                Flow::On => {}
                flow => return Ok(flow),
            }
        }
        Ok(Flow::On)
    }

    fn statement(&mut self, kind: &StmtKind) -> Result<Flow> {
        match kind {
            StmtKind::Text(text) => self.write(text)?,
            StmtKind::Print(value) => {
                let value = self.eval(value)?;
                let text = display(&value, &mut self.budget)?;
                self.write(&text)?;
            }
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
            StmtKind::Set(target, value) => {
                let value = self.eval(value)?;
                self.assign(target, value)?;
            }
            StmtKind::Refuse(reason) => return Err(Fault::failed(*reason)),
            other => return self.deeper(|machine| machine.block(other)),
        }
        Ok(Flow::On)
    }

    fn block(&mut self, kind: &StmtKind) -> Result<Flow> {
        match kind {
            StmtKind::If(tests, otherwise) => {
                for (test, body) in tests {
                    if self.eval(test)?.truth() {
                        return self.body(body);
                    }
                }
                return self.body(otherwise);
            }
            StmtKind::For(inner) => {
                let over = self.eval(&inner.over)?;
                self.for_loop(inner, &over, 0, self.scope)?;
            }
            StmtKind::SetBlock(target, filters, body) => {
                let text = self.text_of(body)?;
                let value = self.filtered(text, filters)?;
                self.assign(target, value)?;
            }
            StmtKind::Filter(filters, body) => {
                let text = self.text_of(body)?;
                let value = self.filtered(text, filters)?;
                let text = display(&value, &mut self.budget)?;
                self.write(&text)?;
            }
            StmtKind::Macro(def) => {
                let value = self.make_macro(def)?;
                self.define(&def.name, value);
            }
            StmtKind::CallBlock(call, def) => {
                let caller = self.make_macro(def)?;
                let value = self.eval_call_block(call, caller)?;
                let text = display(&value, &mut self.budget)?;
                self.write(&text)?;
            }
            StmtKind::With(bindings, body) => return self.with(bindings, body),
            StmtKind::Block(body) => {
                self.scoped(self.scope, |machine| machine.body(body))?;
            }
            StmtKind::Generation(body) => self.generation(body)?,
            _ => {}
        }
        Ok(Flow::On)
    }

    fn with(&mut self, bindings: &[(Target, Expr)], body: &[Stmt]) -> Result<Flow> {
        let mut values = Vec::with_capacity(bindings.len());
        for (_, value) in bindings {
            values.push(self.eval(value)?);
        }
        self.scoped(self.scope, |machine| {
            for ((target, _), value) in bindings.iter().zip(values) {
                machine.assign(target, value)?;
            }
            machine.body(body)
        })
    }

    fn text_of(&mut self, body: &[Stmt]) -> Result<Value> {
        self.scoped(self.scope, |machine| machine.captured(|machine| machine.body(body).map(|_| ())))
    }

    fn filtered(&mut self, value: Value, filters: &[Post]) -> Result<Value> {
        self.eval_posts(value, filters, None)
    }

    /// A generation block's text is the assistant's.
    fn generation(&mut self, body: &[Stmt]) -> Result<()> {
        if self.captures > 0 {
            self.marked = true;
            self.write(OPEN)?;
            self.scoped(self.scope, |machine| machine.body(body))?;
            return self.write(CLOSE);
        }
        let start = self.out.len();
        self.scoped(self.scope, |machine| machine.body(body))?;
        self.generations.push(start..self.out.len());
        Ok(())
    }

    fn assign(&mut self, target: &Target, value: Value) -> Result<()> {
        match target {
            Target::Name(name) => self.define(name, value),
            Target::Attribute(name, attribute) => match self.lookup(name)? {
                Value::Space(space) if space.kind == "namespace" => {
                    self.budget.make(64)?;
                    functions::check_field(attribute)?;
                    space.set(attribute, value);
                }
                other => {
                    other.defined()?;
                    let found = other.type_name();
                    return Err(Fault::failed(format!("cannot assign to an attribute of a {found}")));
                }
            },
            Target::Tuple(targets) => {
                let values = value.iterate(&mut self.budget)?;
                if values.len() != targets.len() {
                    let (found, expected) = (values.len(), targets.len());
                    return Err(Fault::failed(format!("{found} values for {expected} names")));
                }
                for (target, value) in targets.iter().zip(values) {
                    self.assign(target, value)?;
                }
            }
        }
        Ok(())
    }

    fn for_loop(&mut self, inner: &Arc<For>, over: &Value, depth: usize, scope: usize) -> Result<()> {
        let mut items = over.iterate(&mut self.budget)?;
        if let Some(test) = &inner.test {
            let mut kept = Vec::new();
            for item in items {
                let holds = self.scoped(scope, |machine| {
                    machine.assign(&inner.target, item.clone())?;
                    machine.eval(test)
                })?;
                if holds.truth() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        if items.is_empty() {
            self.scoped(scope, |machine| machine.body(&inner.otherwise))?;
            return Ok(());
        }
        let items = Arc::new(Seq::new(SeqKind::List, items)?);
        let number = self.changed.len();
        self.changed.push(None);
        let recursive = inner.recursive.then(|| inner.clone());
        let name: Arc<str> = "loop".into();
        for index in 0..items.items.len() {
            let recursive = recursive.clone();
            let state = LoopState { items: items.clone(), index, depth, number, recursive, scope };
            let flow = self.scoped(scope, |machine| {
                let kept = machine.scope;
                machine.scopes[kept].names.push((name.clone(), Value::Loop(Arc::new(state))));
                machine.assign(&inner.target, items.items[index].clone())?;
                machine.body(&inner.body)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        self.changed.truncate(number);
        Ok(())
    }

    /// `loop(items)` of a recursive loop.
    pub(super) fn recurse(&mut self, state: &LoopState, call: Call) -> Result<Value> {
        let [over] = call.bind("loop", ["iterable"])?;
        let (Some(over), Some(inner)) = (over, state.recursive.clone()) else {
            return Err(Fault::failed("`loop(…)` needs a list, and `recursive` in the loop's tag"));
        };
        let (depth, scope) = (state.depth + 1, state.scope);
        self.deeper(|machine| machine.captured(|machine| machine.for_loop(&inner, &over, depth, scope)))
    }

    /// Whether the arguments are others than at the last call in this loop.
    pub(super) fn changed(&mut self, state: &LoopState, call: Call) -> Result<Value> {
        let now = Value::seq(SeqKind::Tuple, call.positional)?;
        let Some(slot) = self.changed.get(state.number) else {
            return Err(Fault::failed("`loop.changed` outside of its loop"));
        };
        let same = match slot {
            Some(last) => last.equals(&now, &mut self.budget)?,
            None => false,
        };
        self.changed[state.number] = Some(now);
        Ok(Value::Bool(!same))
    }

    fn make_macro(&mut self, def: &Arc<MacroDef>) -> Result<Value> {
        self.budget.make(size_of::<Scope>() * 4)?;
        self.scopes[self.scope].kept = true;
        Ok(Value::Macro(Arc::new(Macro { def: def.clone(), scope: self.scope })))
    }

    pub(super) fn call_macro(&mut self, this: &Macro, call: Call) -> Result<Value> {
        let def = &this.def;
        let Call { positional, mut named } = call;
        let mut values: Vec<Option<Value>> = positional.into_iter().map(Some).collect();
        let more = values.split_off(values.len().min(def.parameters.len()));
        values.resize(def.parameters.len(), None);
        for ((name, _), slot) in def.parameters.iter().zip(&mut values) {
            if let Some(place) = named.iter().position(|(found, _)| found == name) {
                if slot.is_some() {
                    return Err(Fault::failed(format!("{}: `{name}` is given twice", def.name)));
                }
                *slot = Some(named.remove(place).1);
            }
        }
        let caller =
            named.iter().position(|(name, _)| **name == *EXTRAS[2]).map(|place| named.remove(place).1);
        let [takes_more, takes_named, takes_caller] = def.extras;
        let unexpected = (!more.is_empty() && !takes_more).then_some("arguments than it has parameters");
        let unexpected =
            unexpected.or((!named.is_empty() && !takes_named).then_some("names than it has parameters"));
        let unexpected =
            unexpected.or((caller.is_some() && !takes_caller).then_some("than it uses: a `caller`"));
        if let Some(what) = unexpected {
            return Err(Fault::failed(format!("the macro `{}` is given more {what}", def.name)));
        }
        let more = Value::seq(SeqKind::Tuple, more.into_iter().flatten().collect())?;
        let named = Value::dict(named.into_iter().map(|(name, value)| (Value::Str(name), value)).collect())?;
        let caller = caller.unwrap_or(Value::Undefined(Missing::Other("no caller is defined")));
        self.deeper(|machine| {
            machine.scoped(this.scope, |machine| {
                for (name, value) in EXTRAS.into_iter().zip([more, named, caller]) {
                    machine.define(&name.into(), value);
                }
                for ((name, default), value) in def.parameters.iter().zip(values) {
                    let value = match (value, default) {
                        (Some(value), _) => value,
                        (None, Some(default)) => machine.eval(default)?,
                        (None, None) => Value::Undefined(Missing::Name(name.clone())),
                    };
                    machine.define(name, value);
                }
                machine.captured(|machine| machine.body(&def.body).map(|_| ()))
            })
        })
    }

    /// Makes a namespace or another value with a state.
    pub(super) fn make_space(&mut self, kind: &'static str, fields: Vec<(Arc<str>, Value)>) -> Result<Value> {
        self.budget.make(256 + fields.len() * 64)?;
        let space = Arc::new(Space { kind, fields: std::sync::Mutex::new(fields) });
        self.spaces.push(space.clone());
        Ok(Value::Space(space))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let mut held = Vec::new();
        for space in &self.spaces {
            held.append(&mut space.fields.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        }
    }
}
