//! Arguments of a call, and how they reach parameters.

use std::sync::Arc;

use super::fault::{Fault, Result};
use super::value::Value;

/// The arguments of one call.
#[derive(Debug, Default)]
pub(crate) struct Call {
    pub(crate) positional: Vec<Value>,
    pub(crate) named: Vec<(Arc<str>, Value)>,
}

impl Call {
    /// The arguments in the order of a function's parameters.
    pub(crate) fn bind<const N: usize>(self, function: &str, names: [&str; N]) -> Result<[Option<Value>; N]> {
        if self.positional.len() > N {
            let found = self.positional.len();
            return Err(Fault::failed(format!("{function} takes at most {N} arguments, found {found}")));
        }
        let mut bound = [const { None }; N];
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().position(|known| **known == *name) {
                Some(place) if bound[place].is_none() => bound[place] = Some(value),
                Some(_) => return Err(Fault::failed(format!("{function}: `{name}` is given twice"))),
                None => return Err(Fault::failed(format!("{function} has no parameter `{name}`"))),
            }
        }
        Ok(bound)
    }

    /// The arguments of a function without any.
    pub(crate) fn none(self, function: &str) -> Result<()> {
        self.bind::<0>(function, []).map(|_| ())
    }
}

/// An argument that must be there.
pub(crate) fn required(value: Option<Value>, function: &str) -> Result<Value> {
    value.ok_or_else(|| Fault::failed(format!("{function} lacks an argument")))
}

/// An argument that must be a text.
pub(crate) fn text(value: Value, function: &str) -> Result<Arc<str>> {
    match value {
        Value::Str(text) => Ok(text),
        other => {
            other.defined()?;
            Err(Fault::failed(format!("{function} needs a str, not {}", other.type_name())))
        }
    }
}

/// An argument that must be an integer.
pub(crate) fn integer(value: &Value, function: &str) -> Result<i128> {
    value.as_int().ok_or_else(|| Fault::failed(format!("{function} needs an int, not {}", value.type_name())))
}

/// An argument that says how many; negative ones are none.
pub(crate) fn count(value: Option<Value>, default: usize, function: &str) -> Result<usize> {
    match value {
        None => Ok(default),
        Some(value) => Ok(usize::try_from(integer(&value, function)?.max(0)).unwrap_or(usize::MAX)),
    }
}
