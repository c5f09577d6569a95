//! Values as a template sees them: Python's, without what can be changed in place but namespaces.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use super::ast::MacroDef;
use super::budget::{Budget, NESTING};
use super::fault::{Fault, Result};

/// A value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// A name, key or attribute that is not there.
    Undefined(Missing),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
    Seq(Arc<Seq>),
    Dict(Arc<Dict>),
    Space(Arc<Space>),
    Loop(Arc<LoopState>),
    Macro(Arc<Macro>),
    /// A method that was looked up and not called.
    Method(Arc<(Value, Arc<str>)>),
    /// A function that every template knows.
    Function(&'static str),
}

/// What is not there, for messages.
#[derive(Debug, Clone)]
pub(crate) enum Missing {
    Name(Arc<str>),
    Attribute(&'static str, Arc<str>),
    Other(&'static str),
}

/// What Python has a type of its own for, and templates see as a list of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SeqKind {
    List,
    Tuple,
    /// A pair of `groupby`: a tuple with the attributes `grouper` and `list`.
    Group,
    Range,
    Keys,
    Values,
    Items,
    /// What can be walked once: the result of `map`, `select`, `reverse` and such.
    Iterator,
}

/// A list of values.
#[derive(Debug)]
pub(crate) struct Seq {
    pub(crate) kind: SeqKind,
    pub(crate) items: Vec<Value>,
    depth: u32,
    /// How much of an iterator was walked.
    pub(crate) taken: AtomicUsize,
}

/// A dict in the order of its insertions.
#[derive(Debug, Default)]
pub(crate) struct Dict {
    pub(crate) entries: Vec<(Value, Value)>,
    /// Places by key, for dicts that are too large to be searched.
    index: HashMap<Key, usize>,
    depth: u32,
}

/// A `namespace`, `cycler` or `joiner`.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) kind: &'static str,
    pub(crate) fields: Mutex<Vec<(Arc<str>, Value)>>,
}

/// What `loop` tells.
#[derive(Debug)]
pub(crate) struct LoopState {
    pub(crate) items: Arc<Seq>,
    pub(crate) index: usize,
    pub(crate) depth: usize,
    /// Which loop this is, for `loop.changed`.
    pub(crate) number: usize,
    /// The loop itself when it is recursive.
    pub(crate) recursive: Option<Arc<super::ast::For>>,
    /// The scope around the loop.
    pub(crate) scope: usize,
}

/// A macro with the scope that it was written in.
#[derive(Debug)]
pub(crate) struct Macro {
    pub(crate) def: Arc<MacroDef>,
    pub(crate) scope: usize,
}

/// A value by which a dict finds another: equal values have equal keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    None,
    Number(i128),
    Float(u64),
    Str(Arc<str>),
    Tuple(Vec<Key>),
}

/// Dicts up to this size are searched one by one.
const SMALL: usize = 12;

impl Value {
    pub(crate) fn str(text: impl Into<Arc<str>>) -> Value {
        Value::Str(text.into())
    }

    pub(crate) fn seq(kind: SeqKind, items: Vec<Value>) -> Result<Value> {
        Ok(Value::Seq(Arc::new(Seq::new(kind, items)?)))
    }

    pub(crate) fn list(items: Vec<Value>) -> Result<Value> {
        Value::seq(SeqKind::List, items)
    }

    pub(crate) fn dict(entries: Vec<(Value, Value)>) -> Result<Value> {
        Ok(Value::Dict(Arc::new(Dict::new(entries)?)))
    }

    /// The value as JSON has it. JSON is as deep as its parser allows, which is less than [`NESTING`].
    pub(crate) fn from_json(value: &serde_json::Value) -> Result<Value> {
        Ok(match value {
            serde_json::Value::Null => Value::None,
            serde_json::Value::Bool(flag) => Value::Bool(*flag),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Value::Int(number.into()),
                (_, Some(number)) => Value::Int(number.into()),
                _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Value::str(text.as_str()),
            serde_json::Value::Array(items) => {
                Value::list(items.iter().map(Value::from_json).collect::<Result<_>>()?)?
            }
            serde_json::Value::Object(fields) => {
                let entry =
                    |(key, value): (&String, _)| Ok((Value::str(key.as_str()), Value::from_json(value)?));
                Value::dict(fields.iter().map(entry).collect::<Result<_>>()?)?
            }
        })
    }

    /// Python's name of the type.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "None",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::Seq(seq) => match seq.kind {
                SeqKind::List => "list",
                SeqKind::Tuple | SeqKind::Group => "tuple",
                SeqKind::Range => "range",
                SeqKind::Keys => "dict_keys",
                SeqKind::Values => "dict_values",
                SeqKind::Items => "dict_items",
                SeqKind::Iterator => "generator",
            },
            Value::Dict(_) => "dict",
            Value::Space(space) => space.kind,
            Value::Loop(_) => "loop",
            Value::Macro(_) => "macro",
            Value::Method(_) => "method",
            Value::Function(_) => "function",
        }
    }

    pub(crate) fn depth(&self) -> u32 {
        match self {
            Value::Seq(seq) => seq.depth,
            Value::Dict(dict) => dict.depth,
            Value::Method(method) => method.0.depth() + 1,
            Value::Loop(state) => state.items.depth + 1,
            _ => 0,
        }
    }

    /// Python's `bool()`.
    pub(crate) fn truth(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(flag) => *flag,
            Value::Int(number) => *number != 0,
            Value::Float(number) => *number != 0.0,
            Value::Str(text) => !text.is_empty(),
            Value::Seq(seq) => seq.kind == SeqKind::Iterator || !seq.items.is_empty(),
            Value::Dict(dict) => !dict.entries.is_empty(),
            _ => true,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The value of an `int` or `bool`.
    pub(crate) fn as_int(&self) -> Option<i128> {
        match self {
            Value::Bool(flag) => Some((*flag).into()),
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The value of a number.
    pub(crate) fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(number) => Some(*number),
            other => other.as_int().map(|number| number as f64),
        }
    }

    /// The fault of using what is not there.
    pub(crate) fn defined(&self) -> Result<()> {
        match self {
            Value::Undefined(missing) => Err(missing.fault()),
            _ => Ok(()),
        }
    }

    /// Python's `len()`, where there is one.
    pub(crate) fn length(&self) -> Option<usize> {
        match self {
            Value::Undefined(_) => Some(0),
            Value::Str(text) => Some(text.chars().count()),
            Value::Seq(seq) if seq.kind != SeqKind::Iterator => Some(seq.items.len()),
            Value::Dict(dict) => Some(dict.entries.len()),
            _ => None,
        }
    }

    /// What a loop over the value sees.
    pub(crate) fn iterate(&self, budget: &mut Budget) -> Result<Vec<Value>> {
        match self {
            Value::Undefined(_) => Ok(Vec::new()),
            Value::Str(text) => {
                budget.make_list(text.chars().count())?;
                let mut buffer = [0; 4];
                Ok(text.chars().map(|letter| Value::str(&*letter.encode_utf8(&mut buffer))).collect())
            }
            Value::Seq(seq) => {
                budget.make_list(seq.items.len())?;
                Ok(seq.rest().to_vec())
            }
            Value::Dict(dict) => {
                budget.make_list(dict.entries.len())?;
                Ok(dict.entries.iter().map(|(key, _)| key.clone()).collect())
            }
            other => Err(Fault::failed(format!("{} is not iterable", other.type_name()))),
        }
    }

    /// Python's `==`.
    pub(crate) fn equals(&self, other: &Value, budget: &mut Budget) -> Result<bool> {
        budget.step(1)?;
        Ok(match (self, other) {
            (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
            (Value::Str(a), Value::Str(b)) => {
                if a.len() == b.len() {
                    budget.scan(a.len())?;
                }
                a == b
            }
            (Value::Seq(a), Value::Seq(b)) => {
                if !a.kind.comparable(b.kind) || a.items.len() != b.items.len() {
                    return Ok(Arc::ptr_eq(a, b));
                }
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.equals(b, budget)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Dict(a), Value::Dict(b)) => {
                if a.entries.len() != b.entries.len() {
                    return Ok(false);
                }
                for (key, value) in &a.entries {
                    match b.get(key, budget)? {
                        Some(found) if value.equals(found, budget)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Value::Space(a), Value::Space(b)) => Arc::ptr_eq(a, b),
            (Value::Macro(a), Value::Macro(b)) => Arc::ptr_eq(a, b),
            (Value::Function(a), Value::Function(b)) => a == b,
            (a, b) => match (a.as_int(), b.as_int()) {
                (Some(a), Some(b)) => a == b,
                _ => a.as_float().zip(b.as_float()).is_some_and(|(a, b)| a == b),
            },
        })
    }

    /// Python's `<` and `>`; nothing for NaN.
    pub(crate) fn compare(&self, other: &Value, budget: &mut Budget) -> Result<Option<Ordering>> {
        budget.step(1)?;
        match (self, other) {
            (Value::Str(a), Value::Str(b)) => {
                budget.scan(a.len().min(b.len()))?;
                return Ok(Some(a.cmp(b)));
            }
            (Value::Seq(a), Value::Seq(b))
                if a.kind.comparable(b.kind) && a.kind != SeqKind::Range && a.kind != SeqKind::Keys =>
            {
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.equals(b, budget)? {
                        return a.compare(b, budget);
                    }
                }
                return Ok(Some(a.items.len().cmp(&b.items.len())));
            }
            _ => {}
        }
        if let (Some(a), Some(b)) = (self.as_int(), other.as_int()) {
            return Ok(Some(a.cmp(&b)));
        }
        match self.as_float().zip(other.as_float()) {
            Some((a, b)) => Ok(a.partial_cmp(&b)),
            None => {
                self.defined()?;
                other.defined()?;
                Err(Fault::failed(format!("cannot order {} and {}", self.type_name(), other.type_name())))
            }
        }
    }

    /// Python's `in`.
    pub(crate) fn contains(&self, item: &Value, budget: &mut Budget) -> Result<bool> {
        match self {
            Value::Str(text) => match item {
                Value::Str(part) => {
                    budget.scan(text.len())?;
                    Ok(text.contains(&**part))
                }
                other => {
                    other.defined()?;
                    Err(Fault::failed(format!("`in` of a str needs a str, not {}", other.type_name())))
                }
            },
            Value::Dict(dict) => Ok(dict.get(item, budget)?.is_some()),
            Value::Seq(seq) => {
                for other in seq.rest() {
                    if other.equals(item, budget)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Value::Undefined(_) => Ok(false),
            other => Err(Fault::failed(format!("{} is not iterable", other.type_name()))),
        }
    }

    /// The key of a hashable value.
    pub(crate) fn key(&self, budget: &mut Budget) -> Result<Key> {
        budget.step(1)?;
        match self {
            Value::None => Ok(Key::None),
            Value::Str(text) => {
                budget.scan(text.len())?;
                Ok(Key::Str(text.clone()))
            }
            // A float that is a whole number is the int's key, as in Python.
            Value::Float(number) if number.fract() == 0.0 && number.abs() < 1e30 => {
                Ok(Key::Number(*number as i128))
            }
            Value::Float(number) => Ok(Key::Float(number.to_bits())),
            Value::Seq(seq) if matches!(seq.kind, SeqKind::Tuple | SeqKind::Group) => {
                Ok(Key::Tuple(seq.items.iter().map(|item| item.key(budget)).collect::<Result<_>>()?))
            }
            other => match other.as_int() {
                Some(number) => Ok(Key::Number(number)),
                None => {
                    other.defined()?;
                    Err(Fault::failed(format!("{} cannot be a key", other.type_name())))
                }
            },
        }
    }
}

impl Missing {
    pub(crate) fn fault(&self) -> Fault {
        Fault::failed(match self {
            Missing::Name(name) => format!("`{name}` is undefined"),
            Missing::Attribute(owner, name) => format!("{owner} has no attribute `{name}`"),
            Missing::Other(what) => (*what).to_owned(),
        })
    }
}

impl SeqKind {
    /// Whether two kinds are compared item by item.
    fn comparable(self, other: SeqKind) -> bool {
        let family = |kind| match kind {
            SeqKind::List => 0,
            SeqKind::Tuple | SeqKind::Group => 1,
            SeqKind::Range => 2,
            SeqKind::Keys | SeqKind::Items => 3,
            SeqKind::Values | SeqKind::Iterator => 4,
        };
        family(self) == family(other) && family(self) != 4
    }

    /// Whether items are reached by their number.
    pub(crate) fn indexed(self) -> bool {
        matches!(self, SeqKind::List | SeqKind::Tuple | SeqKind::Group | SeqKind::Range)
    }
}

impl Seq {
    pub(crate) fn new(kind: SeqKind, items: Vec<Value>) -> Result<Self> {
        let depth = deeper(items.iter().map(Value::depth))?;
        Ok(Seq { kind, items, depth, taken: AtomicUsize::new(0) })
    }

    /// The items; of an iterator those that were not walked, which then count as walked.
    pub(crate) fn rest(&self) -> &[Value] {
        if self.kind != SeqKind::Iterator {
            return &self.items;
        }
        let taken = self.taken.swap(self.items.len(), std::sync::atomic::Ordering::Relaxed);
        &self.items[taken.min(self.items.len())..]
    }
}

impl Dict {
    /// A dict of entries; of several with one key the last value stays, at the first one's place.
    pub(crate) fn new(entries: Vec<(Value, Value)>) -> Result<Self> {
        let depth = deeper(entries.iter().flat_map(|(key, value)| [key.depth(), value.depth()]))?;
        let mut dict = Dict { entries: Vec::with_capacity(entries.len()), index: HashMap::new(), depth };
        let mut budget = Budget::new();
        let indexed = entries.len() > SMALL;
        for (key, value) in entries {
            let place = match indexed {
                true => dict.index.get(&key.key(&mut budget)?).copied(),
                false => {
                    // Only what can be hashed can be a key.
                    key.key(&mut budget)?;
                    dict.find(&key, &mut budget)?
                }
            };
            match place {
                Some(place) => dict.entries[place].1 = value,
                None => {
                    if indexed {
                        dict.index.insert(key.key(&mut budget)?, dict.entries.len());
                    }
                    dict.entries.push((key, value));
                }
            }
        }
        Ok(dict)
    }

    fn find(&self, key: &Value, budget: &mut Budget) -> Result<Option<usize>> {
        for (place, (found, _)) in self.entries.iter().enumerate() {
            if found.equals(key, budget)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    pub(crate) fn get(&self, key: &Value, budget: &mut Budget) -> Result<Option<&Value>> {
        let place = match self.index.is_empty() {
            true => self.find(key, budget)?,
            false => self.index.get(&key.key(budget)?).copied(),
        };
        Ok(place.map(|place| &self.entries[place].1))
    }

    /// The value of a text; what templates look up most.
    pub(crate) fn get_str(&self, key: &str) -> Option<&Value> {
        if !self.index.is_empty() {
            return self.index.get(&Key::Str(key.into())).map(|place| &self.entries[*place].1);
        }
        self.entries.iter().find(|(found, _)| found.as_str() == Some(key)).map(|(_, value)| value)
    }
}

impl Space {
    pub(crate) fn get(&self, name: &str) -> Option<Value> {
        let fields = self.fields.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        fields.iter().find(|(found, _)| **found == *name).map(|(_, value)| value.clone())
    }

    pub(crate) fn set(&self, name: &Arc<str>, value: Value) {
        let mut fields = self.fields.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match fields.iter_mut().find(|(found, _)| found == name) {
            Some(field) => field.1 = value,
            None => fields.push((name.clone(), value)),
        }
    }
}

/// One level above the deepest of these, unless that is too deep: values are walked and dropped by recursion.
fn deeper(depths: impl Iterator<Item = u32>) -> Result<u32> {
    let depth = 1 + depths.max().unwrap_or(0);
    match depth > NESTING {
        true => Err(Fault::limit(format!("a value nested more than {NESTING} deep"))),
        false => Ok(depth),
    }
}
