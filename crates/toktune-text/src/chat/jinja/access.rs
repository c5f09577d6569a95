//! Attributes, items and slices, as jinja2's sandbox finds them.

use std::sync::Arc;

use super::budget::Budget;
use super::fault::{Fault, Result};
use super::methods;
use super::value::{Missing, SeqKind, Value};

/// `value.name`: an attribute or method, then an item.
pub(crate) fn attribute(value: &Value, name: &Arc<str>) -> Value {
    match value {
        Value::Dict(dict) if !methods::exists(value, name) => {
            if let Some(found) = dict.get_str(name) {
                return found.clone();
            }
        }
        Value::Space(space) if space.kind == "namespace" => {
            if let Some(found) = space.get(name) {
                return found;
            }
        }
        Value::Seq(seq) if seq.kind == SeqKind::Group => match &**name {
            "grouper" => return seq.items.first().cloned().unwrap_or(Value::None),
            "list" => return seq.items.get(1).cloned().unwrap_or(Value::None),
            _ => {}
        },
        Value::Loop(state) => {
            if let Some(found) = loop_attribute(state, name) {
                return found;
            }
        }
        Value::Space(space) if space.kind == "cycler" && &**name == "current" => {
            return super::functions::current(space);
        }
        Value::Macro(found) if &**name == "name" => return Value::Str(found.def.name.clone()),
        _ => {}
    }
    match methods::exists(value, name) {
        true => Value::Method(Arc::new((value.clone(), name.clone()))),
        false => Value::Undefined(Missing::Attribute(value.type_name(), name.clone())),
    }
}

fn loop_attribute(state: &super::value::LoopState, name: &str) -> Option<Value> {
    let (index, length) = (state.index, state.items.items.len());
    let number = |number: usize| Some(Value::Int(number as i128));
    let neighbour = |index: Option<usize>, what| {
        let found = index.and_then(|index| state.items.items.get(index)).cloned();
        Some(found.unwrap_or(Value::Undefined(Missing::Other(what))))
    };
    match name {
        "index" => number(index + 1),
        "index0" => number(index),
        "revindex" => number(length - index),
        "revindex0" => number(length - index - 1),
        "first" => Some(Value::Bool(index == 0)),
        "last" => Some(Value::Bool(index + 1 == length)),
        "length" => number(length),
        "depth" => number(state.depth + 1),
        "depth0" => number(state.depth),
        "previtem" => neighbour(index.checked_sub(1), "there is no previous item"),
        "nextitem" => neighbour(Some(index + 1), "there is no next item"),
        _ => None,
    }
}

/// `value[key]`: an item, then an attribute or method.
pub(crate) fn item(value: &Value, key: &Value, budget: &mut Budget) -> Result<Value> {
    value.defined()?;
    budget.step(1)?;
    let missing = || match key {
        Value::Str(name) => Value::Undefined(Missing::Attribute(value.type_name(), name.clone())),
        _ => Value::Undefined(Missing::Other("an item that is not there")),
    };
    let found = match (value, key) {
        (Value::Dict(dict), Value::Str(name)) => dict.get_str(name).cloned(),
        // What cannot be a key is in no dict.
        (Value::Dict(dict), key) => match key.key(budget) {
            Ok(_) => dict.get(key, budget)?.cloned(),
            Err(_) => None,
        },
        (Value::Str(text), key) => match key.as_int() {
            Some(index) => {
                let length = if text.is_ascii() { text.len() } else { text.chars().count() };
                budget.scan(text.len())?;
                place(index, length).and_then(|place| match text.is_ascii() {
                    true => text.get(place..=place).map(Value::str),
                    false => text.chars().nth(place).map(|letter| Value::str(letter.to_string())),
                })
            }
            None => None,
        },
        (Value::Seq(seq), key) if seq.kind.indexed() => {
            let place = key.as_int().and_then(|index| place(index, seq.items.len()));
            place.and_then(|place| seq.items.get(place)).cloned()
        }
        _ => None,
    };
    Ok(match (found, key) {
        (Some(found), _) => found,
        (None, Value::Str(name)) if !matches!(value, Value::Dict(_)) || methods::exists(value, name) => {
            attribute(value, name)
        }
        (None, _) => missing(),
    })
}

/// A place counted from the front, or from the back where negative.
fn place(index: i128, length: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(length as i128)? } else { index };
    usize::try_from(index).ok().filter(|index| *index < length)
}

/// `value[start:stop:step]`.
pub(crate) fn slice(value: &Value, parts: [Option<Value>; 3], budget: &mut Budget) -> Result<Value> {
    value.defined()?;
    let mut numbers = [None; 3];
    for (number, part) in numbers.iter_mut().zip(&parts) {
        *number = match part {
            None | Some(Value::None) => None,
            Some(part) => match part.as_int() {
                Some(number) => Some(number),
                None => {
                    part.defined()?;
                    return Err(Fault::failed(format!("a slice needs ints, not {}", part.type_name())));
                }
            },
        };
    }
    let [start, stop, step] = numbers;
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(Fault::failed("a slice with step 0"));
    }
    match value {
        Value::Str(text) if text.is_ascii() => {
            budget.make(text.len())?;
            let bytes = text.as_bytes();
            let places = places(start, stop, step, bytes.len());
            Ok(Value::str(places.map(|place| char::from(bytes[place])).collect::<String>()))
        }
        Value::Str(text) => {
            budget.make(text.len() * 4)?;
            let letters: Vec<char> = text.chars().collect();
            let places = places(start, stop, step, letters.len());
            Ok(Value::str(places.map(|place| letters[place]).collect::<String>()))
        }
        Value::Seq(seq) if seq.kind.indexed() => {
            let places: Vec<usize> = places(start, stop, step, seq.items.len()).collect();
            budget.make_list(places.len())?;
            let kind = if seq.kind == SeqKind::Group { SeqKind::Tuple } else { seq.kind };
            Value::seq(kind, places.into_iter().map(|place| seq.items[place].clone()).collect())
        }
        other => Ok(Value::Undefined(Missing::Attribute(other.type_name(), "slice".into()))),
    }
}

/// The places of a slice, as Python's `slice.indices` gives them.
fn places(start: Option<i128>, stop: Option<i128>, step: i128, length: usize) -> impl Iterator<Item = usize> {
    let length = length as i128;
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let bound = |index: Option<i128>, default: i128| match index {
        None => default,
        Some(index) if index < 0 => index.saturating_add(length).max(low),
        Some(index) => index.min(high),
    };
    let (start, stop) = match step > 0 {
        true => (bound(start, low), bound(stop, high)),
        false => (bound(start, high), bound(stop, low)),
    };
    let inside = move |place: &i128| if step > 0 { *place < stop } else { *place > stop };
    std::iter::successors(Some(start), move |place| place.checked_add(step))
        .take_while(inside)
        .map(|place| place as usize)
}
