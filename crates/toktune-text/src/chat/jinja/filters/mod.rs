//! jinja2's filters, by what they work on.

mod numbers;
mod sequences;
mod texts;

use super::budget::Budget;
use super::call::{Call, required};
use super::fault::{Fault, Result};
use super::json;
use super::value::{Missing, Value};
use super::{access, methods};

/// Filters of jinja2 that no chat template has a use for, or that give something else in every run.
const REFUSED: [&str; 8] =
    ["filesizeformat", "forceescape", "pprint", "random", "striptags", "urlize", "wordwrap", "xmlattr"];

/// `value|name(arguments)`; the value is the first of the arguments.
pub(crate) fn apply(name: &str, arguments: Call, budget: &mut Budget) -> Result<Value> {
    budget.step(1)?;
    match name {
        "tojson" => json::tojson(arguments, budget),
        "abs" | "int" | "float" | "round" | "sum" | "min" | "max" => numbers::apply(name, arguments, budget),
        "capitalize" | "center" | "e" | "escape" | "format" | "indent" | "lower" | "replace" | "safe"
        | "string" | "title" | "trim" | "truncate" | "upper" | "urlencode" | "wordcount" => {
            texts::apply(name, arguments, budget)
        }
        "batch" | "dictsort" | "first" | "groupby" | "items" | "join" | "last" | "list" | "map"
        | "reject" | "rejectattr" | "reverse" | "select" | "selectattr" | "slice" | "sort" | "unique" => {
            sequences::apply(name, arguments, budget)
        }
        "default" | "d" => {
            let [value, default, boolean] = arguments.bind(name, ["value", "default_value", "boolean"])?;
            let value = required(value, name)?;
            let missing = match boolean.is_some_and(|boolean| boolean.truth()) {
                true => !value.truth(),
                false => matches!(value, Value::Undefined(_)),
            };
            Ok(if missing { default.unwrap_or_else(|| Value::str("")) } else { value })
        }
        "length" | "count" => {
            let [value] = arguments.bind(name, ["value"])?;
            let value = required(value, name)?;
            if let Value::Str(text) = &value {
                budget.scan(text.len())?;
            }
            let length = value.length();
            let length =
                length.ok_or_else(|| Fault::failed(format!("{} has no length", value.type_name())))?;
            Ok(Value::Int(length as i128))
        }
        "attr" => {
            let [value, attribute] = arguments.bind(name, ["value", "name"])?;
            let (value, attribute) = (required(value, name)?, required(attribute, name)?);
            match (&value, &attribute) {
                // What a dict holds is no attribute of it.
                (Value::Dict(_), Value::Str(name)) if !methods::exists(&value, name) => {
                    Ok(Value::Undefined(Missing::Attribute("dict", name.clone())))
                }
                (_, Value::Str(name)) => Ok(access::attribute(&value, name)),
                _ => Ok(Value::Undefined(Missing::Other("an attribute that is not there"))),
            }
        }
        _ if REFUSED.contains(&name) => Err(Fault::failed(format!("the filter `{name}` is not supported"))),
        _ => Err(Fault::failed(format!("no filter `{name}`"))),
    }
}

/// Whether jinja2 has such a filter and so does this engine.
pub(crate) fn exists(name: &str) -> bool {
    const OTHERS: [&str; 6] = ["tojson", "default", "d", "length", "count", "attr"];
    OTHERS.contains(&name)
        || numbers::NAMES.contains(&name)
        || texts::NAMES.contains(&name)
        || sequences::NAMES.contains(&name)
}
