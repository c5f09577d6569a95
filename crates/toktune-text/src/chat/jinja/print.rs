//! Values as Python writes them: `str()` and `repr()`.

use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use regex::Regex;

use super::budget::Budget;
use super::fault::{Fault, Result};
use super::value::{SeqKind, Value};

/// Python's `str()`; what is undefined is empty.
pub(crate) fn display(value: &Value, budget: &mut Budget) -> Result<Arc<str>> {
    match value {
        Value::Str(text) => Ok(text.clone()),
        Value::Undefined(_) => Ok("".into()),
        other => Ok(repr(other, budget)?.into()),
    }
}

/// Python's `repr()`.
pub(crate) fn repr(value: &Value, budget: &mut Budget) -> Result<String> {
    let mut out = String::new();
    write(value, &mut out, budget)?;
    Ok(out)
}

fn write(value: &Value, out: &mut String, budget: &mut Budget) -> Result<()> {
    let before = out.len();
    match value {
        Value::Undefined(_) => out.push_str("Undefined"),
        Value::None => out.push_str("None"),
        Value::Bool(flag) => out.push_str(if *flag { "True" } else { "False" }),
        Value::Int(number) => _ = write!(out, "{number}"),
        Value::Float(number) => out.push_str(&float(*number)),
        Value::Str(text) => {
            budget.make(text.len())?;
            quote(text, out);
        }
        Value::Seq(seq) => return write_seq(seq.kind, &seq.items, out, budget),
        Value::Dict(dict) => {
            out.push('{');
            for (index, (key, value)) in dict.entries.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write(key, out, budget)?;
                out.push_str(": ");
                write(value, out, budget)?;
            }
            out.push('}');
            return budget.make(4);
        }
        // Python writes an address here, which is another in every run.
        other => return Err(Fault::failed(format!("cannot print a {}", other.type_name()))),
    }
    budget.make(out.len() - before)
}

fn write_seq(kind: SeqKind, items: &[Value], out: &mut String, budget: &mut Budget) -> Result<()> {
    let (open, close) = match kind {
        SeqKind::List => ("[", "]"),
        SeqKind::Tuple | SeqKind::Group if items.len() == 1 => ("(", ",)"),
        SeqKind::Tuple | SeqKind::Group => ("(", ")"),
        SeqKind::Keys => ("dict_keys([", "])"),
        SeqKind::Values => ("dict_values([", "])"),
        SeqKind::Items => ("dict_items([", "])"),
        SeqKind::Range | SeqKind::Iterator => {
            let name = if kind == SeqKind::Range { "range" } else { "generator" };
            return Err(Fault::failed(format!("cannot print a {name}; make a list of it")));
        }
    };
    out.push_str(open);
    for (index, item) in items.iter().enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        write(item, out, budget)?;
    }
    out.push_str(close);
    budget.make(open.len() + close.len())
}

/// Python's `repr()` of a float: the shortest digits that give it back, with an exponent below 1e-4 and from 1e16 on.
pub(crate) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        exponent if number != 0.0 && !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{number:?}"),
    }
}

/// Python's quotes: single ones, unless the text has those and no double ones.
fn quote(text: &str, out: &mut String) {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(mark);
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if letter == mark => out.extend(['\\', mark]),
            _ if printable(letter) => out.push(letter),
            _ => {
                let code = u32::from(letter);
                _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(mark);
}

/// Python's `str.isprintable()` of a letter.
pub(crate) fn printable(letter: char) -> bool {
    static HIDDEN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\p{C}\p{Z}]").ok());
    if letter.is_ascii() {
        return (' '..='~').contains(&letter);
    }
    let mut buffer = [0; 4];
    HIDDEN.as_ref().is_some_and(|hidden| !hidden.is_match(letter.encode_utf8(&mut buffer)))
}
