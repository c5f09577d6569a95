//! Filters that give texts.

use std::sync::Arc;

use super::super::budget::Budget;
use super::super::call::{Call, count, integer, required, text};
use super::super::fault::{Fault, Result};
use super::super::format;
use super::super::print::display;
use super::super::text as strings;
use super::super::value::{SeqKind, Value};

pub(super) const NAMES: [&str; 16] = [
    "capitalize",
    "center",
    "e",
    "escape",
    "format",
    "indent",
    "lower",
    "replace",
    "safe",
    "string",
    "title",
    "trim",
    "truncate",
    "upper",
    "urlencode",
    "wordcount",
];

pub(super) fn apply(name: &str, mut arguments: Call, budget: &mut Budget) -> Result<Value> {
    if name == "format" {
        return fill(arguments, budget);
    }
    // The first argument becomes a text, whatever it is.
    let value = match arguments.positional.is_empty() {
        true => return Err(Fault::failed(format!("{name} lacks an argument"))),
        false => arguments.positional.remove(0),
    };
    if name == "urlencode" {
        arguments.none(name)?;
        return url_encode(&value, budget);
    }
    let this = match name {
        // These two work on the value as it is.
        "truncate" if value.as_str().is_none() && value.length().is_some_and(|length| length < 5) => {
            return Ok(value);
        }
        "indent" | "truncate" => text(value, name)?,
        _ => display(&value, budget)?,
    };
    budget.scan(this.len())?;
    match name {
        "string" | "safe" => arguments.none(name).map(|()| Value::Str(this)),
        "capitalize" | "lower" | "title" | "upper" | "e" | "escape" => {
            arguments.none(name)?;
            budget.make(this.len().saturating_mul(2))?;
            Ok(Value::str(match name {
                "capitalize" => strings::capitalize(&this),
                "lower" => this.to_lowercase(),
                "title" => title(&this),
                "upper" => this.to_uppercase(),
                _ => escape(&this, budget)?,
            }))
        }
        "trim" => {
            let [letters] = arguments.bind(name, ["chars"])?;
            let letters = match letters {
                None | Some(Value::None) => None,
                Some(letters) => Some(text(letters, name)?),
            };
            let stripped = strings::strip(&this, letters.as_deref(), true, true);
            if stripped.len() == this.len() {
                return Ok(Value::Str(this));
            }
            budget.make(stripped.len())?;
            Ok(Value::str(stripped))
        }
        "center" => {
            let [width] = arguments.bind(name, ["width"])?;
            strings::justify(&this, count(width, 80, name)?, ' ', 'c', budget).map(Value::str)
        }
        "replace" => {
            let [old, new, most] = arguments.bind(name, ["old", "new", "count"])?;
            let (old, new) =
                (display(&required(old, name)?, budget)?, display(&required(new, name)?, budget)?);
            let most = match most {
                None | Some(Value::None) => None,
                Some(most) => usize::try_from(integer(&most, name)?).ok(),
            };
            strings::replace(&this, &old, &new, most, budget).map(Value::str)
        }
        "indent" => indent(&this, arguments, budget),
        "truncate" => truncate(&this, arguments, budget),
        _ => {
            arguments.none(name)?;
            let word = |letter: char| letter.is_alphanumeric() || letter == '_';
            let words = this.split(|letter| !word(letter)).filter(|part| !part.is_empty());
            Ok(Value::Int(words.count() as i128))
        }
    }
}

/// jinja2's own notion of a title: words begin after blanks, hyphens and opening brackets.
fn title(this: &str) -> String {
    let mut begins = true;
    let mut out = String::with_capacity(this.len());
    for letter in this.chars() {
        let divides = letter == '-' || "({[<".contains(letter) || strings::is_space(letter);
        match begins || divides {
            true => out.extend(letter.to_uppercase()),
            false => out.extend(letter.to_lowercase()),
        }
        begins = divides;
    }
    out
}

fn escape(this: &str, budget: &mut Budget) -> Result<String> {
    let special = this.matches(['&', '<', '>', '\'', '"']).count();
    budget.make(this.len().saturating_add(special.saturating_mul(4)))?;
    let mut out = String::new();
    for letter in this.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            _ => out.push(letter),
        }
    }
    Ok(out)
}

fn indent(this: &str, arguments: Call, budget: &mut Budget) -> Result<Value> {
    let [width, first, blank] = arguments.bind("indent", ["width", "first", "blank"])?;
    let indention: Arc<str> = match width {
        Some(Value::Str(text)) => text,
        width => {
            let width = count(width, 4, "indent")?;
            budget.make(width)?;
            " ".repeat(width).into()
        }
    };
    let truth = |value: Option<Value>| value.is_some_and(|value| value.truth());
    let (first, blank) = (truth(first), truth(blank));
    let whole = format!("{this}\n");
    let lines = strings::lines(&whole, false);
    budget.make(this.len().saturating_add(lines.len().saturating_mul(indention.len() + 1)))?;
    let mut out = String::new();
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        if if index == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&indention);
        }
        out.push_str(line);
    }
    Ok(Value::str(out))
}

fn truncate(this: &str, arguments: Call, budget: &mut Budget) -> Result<Value> {
    let [length, kill, end, leeway] = arguments.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let length = count(length, 255, "truncate")?;
    let end = match end {
        None => "...".into(),
        Some(end) => text(end, "truncate")?,
    };
    let leeway = match leeway {
        None | Some(Value::None) => 5,
        leeway => count(leeway, 5, "truncate")?,
    };
    let marks = end.chars().count();
    if length < marks {
        return Err(Fault::failed(format!("truncate: length {length}, expected at least {marks}")));
    }
    if this.chars().count() <= length.saturating_add(leeway) {
        return Ok(Value::str(this));
    }
    let kept = this.char_indices().nth(length - marks).map_or(this, |(at, _)| &this[..at]);
    let kept = match kill.is_some_and(|kill| kill.truth()) {
        true => kept,
        false => kept.rsplit_once(' ').map_or(kept, |(kept, _)| kept),
    };
    budget.make(kept.len() + end.len())?;
    Ok(Value::str(format!("{kept}{end}")))
}

/// `text|format(…)`: Python's `%` with these arguments.
fn fill(mut arguments: Call, budget: &mut Budget) -> Result<Value> {
    if arguments.positional.is_empty() {
        return Err(Fault::failed("format lacks an argument"));
    }
    let this = display(&arguments.positional.remove(0), budget)?;
    if arguments.named.is_empty() {
        let whole = Value::seq(SeqKind::Tuple, arguments.positional.clone())?;
        return format::percent(&this, &arguments.positional, Some(&whole), budget).map(Value::str);
    }
    if !arguments.positional.is_empty() {
        return Err(Fault::failed("format takes arguments with names or without, not both"));
    }
    let named = arguments.named.into_iter().map(|(name, value)| (Value::Str(name), value)).collect();
    let whole = Value::dict(named)?;
    format::percent(&this, std::slice::from_ref(&whole), Some(&whole), budget).map(Value::str)
}

fn url_encode(value: &Value, budget: &mut Budget) -> Result<Value> {
    let quote = |value: &Value, slash: bool, budget: &mut Budget| -> Result<String> {
        let text = display(value, budget)?;
        budget.make(text.len().saturating_mul(3))?;
        let mut out = String::new();
        for byte in text.bytes() {
            match byte {
                b'/' if slash => out.push('/'),
                b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
                _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
                b' ' if !slash => out.push('+'),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
        Ok(out)
    };
    let pairs: Vec<(Value, Value)> = match value {
        Value::Dict(dict) => dict.entries.clone(),
        Value::Seq(_) => {
            let pair = |item: Value| match &item {
                Value::Seq(pair) if pair.items.len() == 2 => {
                    Ok((pair.items[0].clone(), pair.items[1].clone()))
                }
                _ => Err(Fault::failed("urlencode needs pairs")),
            };
            value.iterate(budget)?.into_iter().map(pair).collect::<Result<_>>()?
        }
        other => return quote(other, true, budget).map(Value::str),
    };
    let mut out = Vec::new();
    for (key, value) in &pairs {
        out.push(format!("{}={}", quote(key, false, budget)?, quote(value, false, budget)?));
    }
    budget.make(out.iter().map(String::len).sum::<usize>() + out.len())?;
    Ok(Value::str(out.join("&")))
}
