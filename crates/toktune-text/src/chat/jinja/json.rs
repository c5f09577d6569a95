//! The filter `tojson`: Python's `json.dumps`, as transformers sets it up.

use std::fmt::Write;

use super::budget::Budget;
use super::call::{Call, required};
use super::fault::{Fault, Result};
use super::print::float;
use super::value::{SeqKind, Value};

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(crate) fn tojson(arguments: Call, budget: &mut Budget) -> Result<Value> {
    let names = ["x", "ensure_ascii", "indent", "separators", "sort_keys"];
    let [value, ensure_ascii, indent, separators, sort_keys] = arguments.bind("tojson", names)?;
    let value = required(value, "tojson")?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text.to_string()),
        Some(given) => match given.as_int() {
            // More than this is no layout but an attack on memory.
            Some(width) if width <= 1000 => Some(" ".repeat(usize::try_from(width).unwrap_or(0))),
            Some(width) => return Err(Fault::limit(format!("tojson: an indent of {width}"))),
            None => return Err(Fault::failed("tojson: `indent` must be a number or a str")),
        },
    };
    let separators = match separators {
        None | Some(Value::None) => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(Value::Seq(pair)) => match &pair.items[..] {
            [Value::Str(item), Value::Str(key)] => (item.to_string(), key.to_string()),
            _ => return Err(Fault::failed("tojson: `separators` must be two texts")),
        },
        Some(_) => return Err(Fault::failed("tojson: `separators` must be two texts")),
    };
    let truth = |value: Option<Value>| value.is_some_and(|value| value.truth());
    let style = Style { indent, separators, sort_keys: truth(sort_keys), ensure_ascii: truth(ensure_ascii) };
    let mut out = String::new();
    style.write(&value, 0, &mut out, budget)?;
    Ok(Value::str(out))
}

/// How JSON is laid out.
struct Style {
    indent: Option<String>,
    /// Between items, and between a key and its value.
    separators: (String, String),
    sort_keys: bool,
    ensure_ascii: bool,
}

impl Style {
    fn write(&self, value: &Value, depth: usize, out: &mut String, budget: &mut Budget) -> Result<()> {
        let before = out.len();
        match value {
            Value::None => out.push_str("null"),
            Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
            Value::Int(number) => _ = write!(out, "{number}"),
            Value::Float(number) => out.push_str(&json_float(*number)),
            Value::Str(text) => {
                budget.make(text.len())?;
                self.text(text, out);
            }
            Value::Seq(seq) if matches!(seq.kind, SeqKind::List | SeqKind::Tuple | SeqKind::Group) => {
                out.push('[');
                for (index, item) in seq.items.iter().enumerate() {
                    self.next(index, depth, out, budget)?;
                    self.write(item, depth + 1, out, budget)?;
                }
                return self.close(']', seq.items.len(), depth, out, budget);
            }
            Value::Dict(dict) => {
                let mut entries = Vec::with_capacity(dict.entries.len());
                for (key, value) in &dict.entries {
                    entries.push((key_text(key)?, value));
                }
                if self.sort_keys {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                out.push('{');
                for (index, (key, value)) in entries.iter().enumerate() {
                    self.next(index, depth, out, budget)?;
                    budget.make(key.len())?;
                    self.text(key, out);
                    out.push_str(&self.separators.1);
                    self.write(value, depth + 1, out, budget)?;
                }
                return self.close('}', entries.len(), depth, out, budget);
            }
            other => {
                other.defined()?;
                return Err(Fault::failed(format!("tojson: JSON has no {}", other.type_name())));
            }
        }
        budget.make(out.len() - before)
    }

    /// Before an item.
    fn next(&self, index: usize, depth: usize, out: &mut String, budget: &mut Budget) -> Result<()> {
        if index > 0 {
            budget.make(self.separators.0.len())?;
            out.push_str(&self.separators.0);
        }
        self.line(depth + 1, out, budget)
    }

    fn close(
        &self,
        end: char,
        count: usize,
        depth: usize,
        out: &mut String,
        budget: &mut Budget,
    ) -> Result<()> {
        if count > 0 {
            self.line(depth, out, budget)?;
        }
        out.push(end);
        budget.make(2)
    }

    fn line(&self, depth: usize, out: &mut String, budget: &mut Budget) -> Result<()> {
        if let Some(indent) = &self.indent {
            budget.make((indent.len() + 1).saturating_mul(depth + 1))?;
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
        Ok(())
    }

    fn text(&self, text: &str, out: &mut String) {
        // serde_json escapes exactly what Python does when non-ASCII is left alone, but for the last of ASCII.
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ensure_ascii {
            out.push_str(&quoted);
            return;
        }
        let mut units = [0; 2];
        for letter in quoted.chars() {
            if letter.is_ascii() && letter != '\u{7f}' {
                out.push(letter);
                continue;
            }
            for unit in letter.encode_utf16(&mut units) {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
}

fn json_float(number: f64) -> String {
    match number {
        _ if number.is_nan() => "NaN".to_owned(),
        _ if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        _ => float(number),
    }
}

/// A key of an object: a text, or what `json.dumps` makes one.
fn key_text(key: &Value) -> Result<String> {
    Ok(match key {
        Value::Str(text) => text.to_string(),
        Value::None => "null".to_owned(),
        Value::Bool(flag) => if *flag { "true" } else { "false" }.to_owned(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => json_float(*number),
        other => return Err(Fault::failed(format!("tojson: a {} cannot be a key", other.type_name()))),
    })
}
