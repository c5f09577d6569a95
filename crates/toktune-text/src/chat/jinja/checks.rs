//! jinja2's tests: what follows `is`.

use super::ast::{Comparison, Operator};
use super::budget::Budget;
use super::call::{Call, integer, required};
use super::fault::{Fault, Result};
use super::value::{SeqKind, Value};
use super::{filters, operators, text as strings};

/// Tests of one value.
const PLAIN: [&str; 21] = [
    "boolean",
    "callable",
    "defined",
    "even",
    "false",
    "filter",
    "float",
    "integer",
    "iterable",
    "lower",
    "mapping",
    "none",
    "number",
    "odd",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
    "escaped",
];

/// `value is name(arguments)`; the value is the first of the arguments.
pub(crate) fn holds(name: &str, arguments: Call, budget: &mut Budget) -> Result<bool> {
    budget.step(1)?;
    if PLAIN.contains(&name) {
        let [value] = arguments.bind(name, ["value"])?;
        return plain(name, &required(value, name)?, budget);
    }
    let comparison = match name {
        "eq" | "==" | "equalto" => Comparison::Equal,
        "ne" | "!=" => Comparison::NotEqual,
        "lt" | "<" | "lessthan" => Comparison::Less,
        "le" | "<=" => Comparison::LessEqual,
        "gt" | ">" | "greaterthan" => Comparison::Greater,
        "ge" | ">=" => Comparison::GreaterEqual,
        "in" => Comparison::In,
        "divisibleby" | "sameas" => {
            let [value, other] = arguments.bind(name, ["value", "other"])?;
            let (value, other) = (required(value, name)?, required(other, name)?);
            if name == "sameas" {
                return same(&value, &other, budget);
            }
            let rest = operators::binary(Operator::Remainder, &value, &other, budget)?;
            return rest.equals(&Value::Int(0), budget);
        }
        _ => return Err(Fault::failed(format!("no test `{name}`"))),
    };
    let [value, other] = arguments.bind(name, ["value", "other"])?;
    operators::compare(comparison, &required(value, name)?, &required(other, name)?, budget)
}

/// Whether a test has such a name.
fn exists(name: &str) -> bool {
    PLAIN.contains(&name)
        || matches!(
            name,
            "eq" | "=="
                | "equalto"
                | "ne"
                | "!="
                | "lt"
                | "<"
                | "lessthan"
                | "le"
                | "<="
                | "gt"
                | ">"
                | "greaterthan"
                | "ge"
                | ">="
                | "in"
                | "divisibleby"
                | "sameas"
        )
}

fn plain(name: &str, value: &Value, budget: &mut Budget) -> Result<bool> {
    Ok(match name {
        "boolean" => matches!(value, Value::Bool(_)),
        "callable" => match value {
            // jinja2 asks Python, to which what is undefined has a `__call__`.
            Value::Undefined(_) | Value::Macro(_) | Value::Method(_) | Value::Function(_) => true,
            Value::Loop(_) => true,
            Value::Space(space) => space.kind == "joiner",
            _ => false,
        },
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "even" | "odd" => {
            let number = match value {
                Value::Float(number) => *number % 2.0,
                value => {
                    value.defined()?;
                    integer(value, name)?.rem_euclid(2) as f64
                }
            };
            number.abs() == if name == "even" { 0.0 } else { 1.0 }
        }
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "none" => matches!(value, Value::None),
        "float" => matches!(value, Value::Float(_)),
        "integer" => matches!(value, Value::Int(_)),
        "number" => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
        "string" => matches!(value, Value::Str(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "iterable" => matches!(
            value,
            Value::Undefined(_) | Value::Str(_) | Value::Seq(_) | Value::Dict(_) | Value::Loop(_)
        ),
        "sequence" => match value {
            Value::Undefined(_) | Value::Str(_) | Value::Dict(_) => true,
            Value::Seq(seq) => seq.kind.indexed(),
            _ => false,
        },
        "lower" | "upper" => {
            let text = super::print::display(value, budget)?;
            budget.scan(text.len())?;
            strings::has_case(&text, name == "upper")
        }
        "filter" | "test" => {
            match value {
                Value::Dict(_) => _ = value.key(budget)?,
                Value::Seq(seq) if matches!(seq.kind, SeqKind::List | SeqKind::Keys | SeqKind::Items) => {
                    _ = value.key(budget)?
                }
                _ => {}
            }
            value.as_str().is_some_and(if name == "filter" { filters::exists } else { exists })
        }
        _ => return Err(Fault::failed("the test `escaped` is not supported")),
    })
}

/// Python's `is`.
fn same(a: &Value, b: &Value, budget: &mut Budget) -> Result<bool> {
    match (a, b) {
        (Value::Seq(a), Value::Seq(b)) => {
            let empty =
                a.kind == SeqKind::Tuple && b.kind == SeqKind::Tuple && a.items.len() + b.items.len() == 0;
            Ok(empty || std::sync::Arc::ptr_eq(a, b))
        }
        (Value::Dict(a), Value::Dict(b)) => Ok(std::sync::Arc::ptr_eq(a, b)),
        (a, b) if a.type_name() == b.type_name() => a.equals(b, budget),
        _ => Ok(false),
    }
}
