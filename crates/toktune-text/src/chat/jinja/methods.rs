//! Methods of Python's `str`, `list`, `tuple` and `dict` that read; those that write are refused by the sandbox.

use std::sync::Arc;

use super::budget::Budget;
use super::call::{Call, count, integer, required, text};
use super::fault::{Fault, Result};
use super::print::{display, printable};
use super::text::{self as strings, is_space};
use super::value::{SeqKind, Value};
use super::{access, format};

const STR: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const LIST: [&str; 11] =
    ["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];
const DICT: [&str; 11] =
    ["clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];
/// What the sandbox keeps from being called.
const WRITING: [&str; 12] = [
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
    "fromkeys",
];

/// Whether Python's type has such a method.
pub(crate) fn exists(value: &Value, name: &str) -> bool {
    match value {
        Value::Str(_) => STR.contains(&name),
        Value::Dict(_) => DICT.contains(&name),
        Value::Seq(seq) => match seq.kind {
            SeqKind::List => LIST.contains(&name),
            SeqKind::Tuple | SeqKind::Group | SeqKind::Range => matches!(name, "count" | "index"),
            _ => false,
        },
        Value::Loop(_) => matches!(name, "cycle" | "changed"),
        Value::Space(space) => match space.kind {
            "cycler" => matches!(name, "next" | "reset"),
            _ => false,
        },
        _ => false,
    }
}

/// Calls a method that [`exists`].
pub(crate) fn call(value: &Value, name: &str, arguments: Call, budget: &mut Budget) -> Result<Value> {
    budget.step(1)?;
    match value {
        Value::Str(text) => {
            budget.scan(text.len())?;
            str_method(text, name, arguments, budget)
        }
        Value::Dict(_) | Value::Seq(_) if WRITING.contains(&name) => Err(Fault::failed(format!(
            "`{name}` would change a {}, which a chat template cannot",
            value.type_name()
        ))),
        Value::Dict(dict) => match name {
            "get" => {
                let [key, default] = arguments.bind("get", ["key", "default"])?;
                let found = dict.get(&required(key, "get")?, budget)?.cloned();
                Ok(found.or(default).unwrap_or(Value::None))
            }
            "items" | "keys" | "values" => {
                arguments.none(name)?;
                budget.make_list(dict.entries.len() * 3)?;
                let pair = |(key, value): &(Value, Value)| match name {
                    "items" => Value::seq(SeqKind::Tuple, vec![key.clone(), value.clone()]),
                    "keys" => Ok(key.clone()),
                    _ => Ok(value.clone()),
                };
                let kind = match name {
                    "items" => SeqKind::Items,
                    "keys" => SeqKind::Keys,
                    _ => SeqKind::Values,
                };
                Value::seq(kind, dict.entries.iter().map(pair).collect::<Result<_>>()?)
            }
            _ => arguments.none(name).map(|()| value.clone()),
        },
        Value::Seq(seq) => match name {
            "copy" => arguments.none(name).map(|()| value.clone()),
            _ => {
                let [item] = arguments.bind(name, ["value"])?;
                let item = required(item, name)?;
                let mut found = 0;
                for (place, other) in seq.items.iter().enumerate() {
                    if other.equals(&item, budget)? {
                        if name == "index" {
                            return Ok(Value::Int(place as i128));
                        }
                        found += 1;
                    }
                }
                match name {
                    "count" => Ok(Value::Int(found)),
                    _ => Err(Fault::failed("index: the value is not in the list")),
                }
            }
        },
        other => Err(Fault::failed(format!("{} has no method `{name}`", other.type_name()))),
    }
}

fn str_method(this: &Arc<str>, name: &str, arguments: Call, budget: &mut Budget) -> Result<Value> {
    if let Some(answer) = question(this, name) {
        return arguments.none(name).map(|()| Value::Bool(answer));
    }
    match name {
        "capitalize" | "casefold" | "lower" | "swapcase" | "title" | "upper" => {
            arguments.none(name)?;
            // Letters can grow when their case changes.
            budget.make(this.len().saturating_mul(2))?;
            Ok(Value::str(match name {
                "capitalize" => strings::capitalize(this),
                "title" => strings::title(this),
                "upper" => this.to_uppercase(),
                "swapcase" => this.chars().flat_map(swapped).collect(),
                "casefold" if !this.is_ascii() => {
                    return Err(Fault::failed("casefold of a text that is not ASCII is not supported"));
                }
                _ => this.to_lowercase(),
            }))
        }
        "strip" | "lstrip" | "rstrip" => {
            let [letters] = arguments.bind(name, ["chars"])?;
            let letters = optional_text(letters, name)?;
            let stripped = strings::strip(this, letters.as_deref(), name != "rstrip", name != "lstrip");
            part(this, stripped, budget)
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = arguments.bind(name, ["affix"])?;
            let affix = text(required(affix, name)?, name)?;
            let rest = match name {
                "removeprefix" => this.strip_prefix(&*affix),
                _ => this.strip_suffix(&*affix),
            };
            part(this, rest.unwrap_or(this), budget)
        }
        "startswith" | "endswith" => {
            let [affix, start, end] = arguments.bind(name, ["prefix", "start", "end"])?;
            let affixes = match required(affix, name)? {
                Value::Seq(seq) if seq.kind == SeqKind::Tuple => seq.items.clone(),
                other => vec![other],
            };
            let (here, _) = within(this, start, end, budget)?;
            for affix in affixes {
                let affix = text(affix, name)?;
                let is =
                    if name == "startswith" { here.starts_with(&*affix) } else { here.ends_with(&*affix) };
                if is {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        "split" | "rsplit" => {
            let [separator, most] = arguments.bind(name, ["sep", "maxsplit"])?;
            let most = most.map(|most| integer(&most, name)).transpose()?;
            let most = most.and_then(|most| usize::try_from(most).ok());
            let parts = match optional_text(separator, name)? {
                None => strings::split_blanks(this, most, name == "rsplit"),
                Some(separator) if separator.is_empty() => {
                    return Err(Fault::failed("split: an empty separator"));
                }
                Some(separator) => strings::split_at(this, &separator, most, name == "rsplit"),
            };
            texts(SeqKind::List, parts, budget)
        }
        "splitlines" => {
            let [keep] = arguments.bind(name, ["keepends"])?;
            texts(SeqKind::List, strings::lines(this, keep.is_some_and(|keep| keep.truth())), budget)
        }
        "partition" | "rpartition" => {
            let [separator] = arguments.bind(name, ["sep"])?;
            let separator = text(required(separator, name)?, name)?;
            if separator.is_empty() {
                return Err(Fault::failed("partition: an empty separator"));
            }
            let found = if name == "partition" { this.find(&*separator) } else { this.rfind(&*separator) };
            let parts = match (found, name) {
                (Some(at), _) => vec![&this[..at], &separator, &this[at + separator.len()..]],
                (None, "partition") => vec![this, "", ""],
                (None, _) => vec!["", "", this],
            };
            texts(SeqKind::Tuple, parts, budget)
        }
        "replace" => {
            let [old, new, most] = arguments.bind(name, ["old", "new", "count"])?;
            let (old, new) = (text(required(old, name)?, name)?, text(required(new, name)?, name)?);
            let most = most.map(|most| integer(&most, name)).transpose()?;
            let most = most.and_then(|most| usize::try_from(most).ok());
            strings::replace(this, &old, &new, most, budget).map(Value::str)
        }
        "join" => {
            let [items] = arguments.bind(name, ["iterable"])?;
            let items = required(items, name)?.iterate(budget)?;
            let items = items.into_iter().map(|item| text(item, name)).collect::<Result<Vec<_>>>()?;
            join(&items, this, budget)
        }
        "find" | "rfind" | "index" | "rindex" | "count" => search(this, name, arguments, budget),
        "center" | "ljust" | "rjust" | "zfill" => justified(this, name, arguments, budget),
        "expandtabs" => expand_tabs(this, arguments, budget),
        "format" => format::format(this, &arguments.positional, &arguments.named, budget).map(Value::str),
        "format_map" => {
            let [mapping] = arguments.bind(name, ["mapping"])?;
            let Some(Value::Dict(dict)) = mapping else {
                return Err(Fault::failed("format_map needs a dict"));
            };
            let named = dict.entries.iter().filter_map(|(key, value)| match key {
                Value::Str(key) => Some((key.clone(), value.clone())),
                _ => None,
            });
            format::format(this, &[], &named.collect::<Vec<_>>(), budget).map(Value::str)
        }
        other => Err(Fault::failed(format!("the method `{other}` of str is not supported"))),
    }
}

/// The `is…` methods.
fn question(this: &str, name: &str) -> Option<bool> {
    let all = |test: fn(char) -> bool| !this.is_empty() && this.chars().all(test);
    Some(match name {
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => this.is_ascii(),
        "isdecimal" | "isdigit" | "isnumeric" if this.is_ascii() => all(|letter| letter.is_ascii_digit()),
        "isdecimal" | "isdigit" | "isnumeric" => all(char::is_numeric),
        "isidentifier" => {
            let first = |letter: char| letter.is_alphabetic() || letter == '_';
            this.starts_with(first) && this.chars().all(|letter| letter.is_alphanumeric() || letter == '_')
        }
        "islower" => strings::has_case(this, false),
        "isupper" => strings::has_case(this, true),
        "isprintable" => this.chars().all(printable),
        "isspace" => all(is_space),
        "istitle" => this.chars().any(strings::is_cased) && strings::title(this) == *this,
        _ => return None,
    })
}

fn swapped(letter: char) -> Vec<char> {
    match letter.is_uppercase() {
        true => letter.to_lowercase().collect(),
        false => letter.to_uppercase().collect(),
    }
}

fn optional_text(value: Option<Value>, name: &str) -> Result<Option<Arc<str>>> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => text(value, name).map(Some),
    }
}

/// A part of a text; the whole is not copied.
fn part(this: &Arc<str>, part: &str, budget: &mut Budget) -> Result<Value> {
    if part.len() == this.len() {
        return Ok(Value::Str(this.clone()));
    }
    budget.make(part.len())?;
    Ok(Value::str(part))
}

pub(crate) fn texts(kind: SeqKind, parts: Vec<&str>, budget: &mut Budget) -> Result<Value> {
    budget.make_list(parts.len() * 2)?;
    budget.make(parts.iter().map(|part| part.len()).sum())?;
    Value::seq(kind, parts.into_iter().map(Value::str).collect())
}

/// Texts with another between them.
pub(crate) fn join(items: &[Arc<str>], between: &str, budget: &mut Budget) -> Result<Value> {
    let between_all = items.len().saturating_sub(1).saturating_mul(between.len());
    budget.step(items.len())?;
    let length = items.iter().fold(between_all, |sum, item| sum.saturating_add(item.len()));
    budget.make(length)?;
    Ok(Value::str(items.join(between)))
}

/// The part that a method looks at, and where it begins in letters.
fn within<'t>(
    this: &'t str,
    start: Option<Value>,
    end: Option<Value>,
    budget: &mut Budget,
) -> Result<(&'t str, usize)> {
    if start.is_none() && end.is_none() {
        return Ok((this, 0));
    }
    budget.scan(this.len())?;
    let length = this.chars().count();
    let place = |value: Option<Value>, default: usize| -> Result<usize> {
        match value {
            None | Some(Value::None) => Ok(default),
            Some(value) => {
                let index = integer(&value, "a text's place")?;
                let index = if index < 0 { index.saturating_add(length as i128).max(0) } else { index };
                Ok(usize::try_from(index).unwrap_or(usize::MAX).min(length))
            }
        }
    };
    let (start, end) = (place(start, 0)?, place(end, length)?);
    let byte = |place: usize| this.char_indices().nth(place).map_or(this.len(), |(at, _)| at);
    match start <= end {
        true => Ok((&this[byte(start)..byte(end)], start)),
        false => Ok(("", start)),
    }
}

fn search(this: &str, name: &str, arguments: Call, budget: &mut Budget) -> Result<Value> {
    let [part, start, end] = arguments.bind(name, ["sub", "start", "end"])?;
    let part = text(required(part, name)?, name)?;
    let (here, offset) = within(this, start, end, budget)?;
    budget.scan(here.len())?;
    if name == "count" {
        let count = if part.is_empty() { here.chars().count() + 1 } else { here.matches(&*part).count() };
        return Ok(Value::Int(count as i128));
    }
    let found = if name.starts_with('r') { here.rfind(&*part) } else { here.find(&*part) };
    match found {
        Some(at) => Ok(Value::Int((offset + here[..at].chars().count()) as i128)),
        None if name.ends_with("find") => Ok(Value::Int(-1)),
        None => Err(Fault::failed(format!("{name}: the text was not found"))),
    }
}

fn justified(this: &str, name: &str, arguments: Call, budget: &mut Budget) -> Result<Value> {
    let [width, fill] = arguments.bind(name, ["width", "fillchar"])?;
    let width = count(Some(required(width, name)?), 0, name)?;
    if name == "zfill" {
        let (sign, digits) = this.split_at(usize::from(this.starts_with(['+', '-'])));
        let digits = strings::justify(digits, width.saturating_sub(sign.len()), '0', 'r', budget)?;
        return Ok(Value::str(format!("{sign}{digits}")));
    }
    let fill = match fill {
        None => ' ',
        Some(fill) => {
            let fill = text(fill, name)?;
            let mut letters = fill.chars();
            match (letters.next(), letters.next()) {
                (Some(letter), None) => letter,
                _ => return Err(Fault::failed(format!("{name}: the fill must be one letter"))),
            }
        }
    };
    let side = match name {
        "ljust" => 'l',
        "rjust" => 'r',
        _ => 'c',
    };
    strings::justify(this, width, fill, side, budget).map(Value::str)
}

fn expand_tabs(this: &str, arguments: Call, budget: &mut Budget) -> Result<Value> {
    let [size] = arguments.bind("expandtabs", ["tabsize"])?;
    let size = count(size, 8, "expandtabs")?;
    budget.make(this.len().saturating_add(this.matches('\t').count().saturating_mul(size)))?;
    let mut out = String::new();
    let mut column = 0;
    for letter in this.chars() {
        match letter {
            '\t' if size > 0 => {
                let missing = size - column % size;
                out.extend(std::iter::repeat_n(' ', missing));
                column += missing;
            }
            '\t' => {}
            _ => {
                out.push(letter);
                column = if matches!(letter, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(Value::str(out))
}

/// The value at `a.b.0` below another, as filters take their `attribute`.
pub(crate) fn path(value: &Value, attribute: &Value, budget: &mut Budget) -> Result<Value> {
    path_or(value, attribute, None, budget)
}

/// As [`path`], with a value for each part of it that is not there.
pub(crate) fn path_or(
    value: &Value,
    attribute: &Value,
    default: Option<&Value>,
    budget: &mut Budget,
) -> Result<Value> {
    let or_default = |found| match (&found, default) {
        (Value::Undefined(_), Some(default)) => default.clone(),
        _ => found,
    };
    let Value::Str(names) = attribute else { return access::item(value, attribute, budget).map(or_default) };
    let mut value = value.clone();
    for name in names.split('.') {
        let key = match name.parse::<i128>() {
            Ok(number) if name.bytes().all(|byte| byte.is_ascii_digit()) => Value::Int(number),
            _ => Value::str(name),
        };
        value = or_default(access::item(&value, &key, budget)?);
    }
    Ok(value)
}

/// Values as texts.
pub(crate) fn displayed(items: &[Value], budget: &mut Budget) -> Result<Vec<Arc<str>>> {
    items.iter().map(|item| display(item, budget)).collect()
}
