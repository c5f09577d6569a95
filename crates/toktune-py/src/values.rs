//! Python's objects as JSON values: rows of data, messages, settings.

use crate::errors::argument;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyMapping, PyString, PyTuple};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Lists within lists that are followed; what refers to itself has no end.
const DEEPEST: usize = 64;

/// An object as a JSON value. Arrays and tensors are taken as the lists that they hold.
///
/// # Errors
/// It has no such form; a number is not finite or too large.
pub(crate) fn value(of: &Bound<'_, PyAny>) -> PyResult<Value> {
    nested(of, 0)
}

fn nested(of: &Bound<'_, PyAny>, depth: usize) -> PyResult<Value> {
    if depth > DEEPEST {
        return Err(argument("rows", "values that end", format!("more than {DEEPEST} levels of them")));
    }
    if of.is_none() {
        return Ok(Value::Null);
    }
    // before the integers, which they are too
    if let Ok(flag) = of.cast::<PyBool>() {
        return Ok(Value::Bool(flag.is_true()));
    }
    if let Ok(text) = of.cast::<PyString>() {
        return Ok(Value::String(text.to_string()));
    }
    if of.is_instance_of::<PyInt>() {
        let small = of.extract::<i64>().map(Value::from).or_else(|_| of.extract::<u64>().map(Value::from));
        return small.map_err(|_| argument("rows", "integers of 64 bits", of));
    }
    if let Ok(number) = of.cast::<PyFloat>() {
        let number = number.value();
        return serde_json::Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| argument("rows", "finite numbers", number));
    }
    if let Ok(list) = of.cast::<PyList>() {
        return list.iter().map(|of| nested(&of, depth + 1)).collect::<PyResult<_>>().map(Value::Array);
    }
    if let Ok(list) = of.cast::<PyTuple>() {
        return list.iter().map(|of| nested(&of, depth + 1)).collect::<PyResult<_>>().map(Value::Array);
    }
    if of.is_instance_of::<PyDict>() || of.cast::<PyMapping>().is_ok() {
        return fields_of(of, depth).map(Value::Object);
    }
    // numpy's and torch's arrays and numbers
    if of.hasattr("tolist")? {
        return nested(&of.call_method0("tolist")?, depth + 1);
    }
    let kind = of.get_type().name()?.to_string();
    Err(argument("rows", "text, numbers, lists and dicts of them", format!("an object of type {kind}")))
}

fn fields_of(of: &Bound<'_, PyAny>, depth: usize) -> PyResult<Map<String, Value>> {
    let mut fields = Map::new();
    for item in of.cast::<PyMapping>()?.items()?.iter() {
        let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        let key = key.extract::<String>().map_err(|_| argument("rows", "keys that are text", &key))?;
        fields.insert(key, nested(&value, depth + 1)?);
    }
    Ok(fields)
}

/// A mapping as the fields of a JSON object; what of it cannot be one is left out where its key is none of `read`.
///
/// # Errors
/// It is none; as [`value`], of a key that is read.
pub(crate) fn fields(of: &Bound<'_, PyAny>, read: &dyn Fn(&str) -> bool) -> PyResult<Map<String, Value>> {
    if of.cast::<PyMapping>().is_err() {
        let kind = of.get_type().name()?.to_string();
        return Err(argument("rows", "a dict each", format!("an object of type {kind}")));
    }
    let mut fields = Map::new();
    for item in of.cast::<PyMapping>()?.items()?.iter() {
        let (key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        let key = key.extract::<String>().map_err(|_| argument("rows", "keys that are text", &key))?;
        match nested(&value, 1) {
            Ok(value) => drop(fields.insert(key, value)),
            Err(error) if read(&key) => return Err(error),
            Err(_) => {}
        }
    }
    Ok(fields)
}

/// Settings that crossed as JSON.
///
/// # Errors
/// They are not what `what` has.
pub(crate) fn parsed<T: DeserializeOwned>(what: &str, json: &str) -> PyResult<T> {
    serde_json::from_str(json).map_err(|error| argument(what, "its fields in their types", error))
}

/// A report, to cross as JSON.
pub(crate) fn written(of: &impl Serialize) -> PyResult<String> {
    serde_json::to_string(of).map_err(|error| argument("a report", "what JSON can hold", error))
}
