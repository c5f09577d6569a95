//! Filters that give numbers.

use std::cmp::Ordering;

use super::super::ast::Operator;
use super::super::budget::Budget;
use super::super::call::{Call, integer, required};
use super::super::fault::{Fault, Result};
use super::super::text::is_space;
use super::super::value::{Missing, Value};
use super::super::{methods, operators};
use super::sequences::folded;

pub(super) const NAMES: [&str; 7] = ["abs", "int", "float", "round", "sum", "min", "max"];

pub(super) fn apply(name: &str, arguments: Call, budget: &mut Budget) -> Result<Value> {
    match name {
        "abs" => {
            let [value] = arguments.bind(name, ["x"])?;
            match required(value, name)? {
                Value::Float(number) => Ok(Value::Float(number.abs())),
                value => {
                    value.defined()?;
                    let number = integer(&value, name)?;
                    number
                        .checked_abs()
                        .map(Value::Int)
                        .ok_or_else(|| Fault::limit("an integer that is too large"))
                }
            }
        }
        "int" => {
            let [value, default, base] = arguments.bind(name, ["value", "default", "base"])?;
            let base = base.map_or(Ok(10), |base| integer(&base, name))?;
            let value = required(value, name)?;
            value.defined()?;
            Ok(to_int(&value, base)?.unwrap_or_else(|| default.unwrap_or(Value::Int(0))))
        }
        "float" => {
            let [value, default] = arguments.bind(name, ["value", "default"])?;
            let value = required(value, name)?;
            value.defined()?;
            let number = match &value {
                Value::Str(text) => parse_float(text),
                other => other.as_float(),
            };
            Ok(number.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
        }
        "round" => round(arguments),
        "sum" => {
            let [items, attribute, start] = arguments.bind(name, ["iterable", "attribute", "start"])?;
            let mut sum = start.unwrap_or(Value::Int(0));
            if sum.as_str().is_some() {
                return Err(Fault::failed("sum: texts are put together with `join`"));
            }
            for item in required(items, name)?.iterate(budget)? {
                let item = match &attribute {
                    None | Some(Value::None) => item,
                    Some(attribute) => methods::path(&item, attribute, budget)?,
                };
                sum = operators::binary(Operator::Add, &sum, &item, budget)?;
            }
            Ok(sum)
        }
        _ => {
            let [items, case, attribute] = arguments.bind(name, ["value", "case_sensitive", "attribute"])?;
            let case = case.is_some_and(|case| case.truth());
            let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
            let mut best: Option<(Value, Value)> = None;
            for item in required(items, name)?.iterate(budget)? {
                let key = match &attribute {
                    None | Some(Value::None) => item.clone(),
                    Some(attribute) => methods::path(&item, attribute, budget)?,
                };
                let key = folded(key, case, budget)?;
                match &best {
                    Some((other, _)) if key.compare(other, budget)? != Some(wanted) => {}
                    _ => best = Some((key, item)),
                }
            }
            Ok(best.map_or(Value::Undefined(Missing::Other("no items")), |(_, item)| item))
        }
    }
}

fn parse_int(text: &str, base: i128) -> Option<i128> {
    let text = text.trim_matches(is_space);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefix = |prefixes: [&str; 2]| prefixes.iter().find_map(|prefix| digits.strip_prefix(prefix));
    let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base))?;
    let digits = match base {
        16 => prefix(["0x", "0X"]).unwrap_or(digits),
        8 => prefix(["0o", "0O"]).unwrap_or(digits),
        2 => prefix(["0b", "0B"]).unwrap_or(digits),
        _ => digits,
    };
    let misplaced = digits.starts_with(['_', '+', '-']) || digits.ends_with('_') || digits.contains("__");
    let number = i128::from_str_radix(&digits.replace('_', ""), base).ok().filter(|_| !misplaced)?;
    Some(if negative { -number } else { number })
}

fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    match text.contains('_') {
        true => text.replace('_', "").parse().ok(),
        false => text.parse().ok(),
    }
}

fn to_int(value: &Value, base: i128) -> Result<Option<Value>> {
    let whole = |number: f64| match number.is_finite() && number.abs() < 1e38 {
        true => Ok(Some(Value::Int(number.trunc() as i128))),
        false if number.is_nan() => Ok(None),
        false => Err(Fault::failed("int: a number that is too large")),
    };
    match value {
        Value::Str(text) => match parse_int(text, base) {
            Some(number) => Ok(Some(Value::Int(number))),
            None => parse_float(text).map_or(Ok(None), whole),
        },
        Value::Float(number) => whole(*number),
        other => Ok(other.as_int().map(Value::Int)),
    }
}

fn round(arguments: Call) -> Result<Value> {
    let [value, precision, method] = arguments.bind("round", ["value", "precision", "method"])?;
    let value = required(value, "round")?;
    value.defined()?;
    let precision = precision.map_or(Ok(0), |precision| integer(&precision, "round"))?;
    let precision = i32::try_from(precision.clamp(-400, 400)).unwrap_or(0);
    let Some(number) = value.as_float() else {
        return Err(Fault::failed(format!("round needs a number, not {}", value.type_name())));
    };
    let method = method.as_ref().and_then(Value::as_str).unwrap_or("common");
    let scale = 10f64.powi(precision);
    match (method, value) {
        ("ceil", _) => Ok(Value::Float((number * scale).ceil() / scale)),
        ("floor", _) => Ok(Value::Float((number * scale).floor() / scale)),
        ("common", Value::Float(number)) if precision >= 0 => {
            // Formatting rounds the exact value to even, as Python does.
            let text = format!("{number:.*}", precision as usize);
            Ok(Value::Float(text.parse().unwrap_or(number)))
        }
        ("common", Value::Float(number)) => Ok(Value::Float((number * scale).round_ties_even() / scale)),
        ("common", value) if precision >= 0 => Ok(Value::Int(value.as_int().unwrap_or(0))),
        ("common", _) => Err(Fault::failed("round: a negative precision of an int is not supported")),
        _ => Err(Fault::failed("round: the method must be common, ceil or floor")),
    }
}
