//! Python's ways of writing values, where a template's output would otherwise differ from transformers'.

use std::borrow::Cow;
use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value};

/// The deepest nesting of a value that is written out.
const DEEPEST: usize = 200;

/// The engine's hook for `{{ value }}`.
pub(super) fn format(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    check_depth(value)?;
    out.write_str(&display(value)).map_err(|_| Error::new(ErrorKind::WriteFailure, "cannot write the output"))
}

/// The filter `string`: Python's `str()`.
pub(super) fn string(value: &Value) -> Result<String, Error> {
    check_depth(value)?;
    Ok(display(value).into_owned())
}

/// Python's `str()` of a value whose depth was checked.
fn display(value: &Value) -> Cow<'_, str> {
    match value.as_str() {
        Some(text) => Cow::Borrowed(text),
        None => {
            let mut out = String::new();
            repr(value, &mut out);
            Cow::Owned(out)
        }
    }
}

/// Whether lists and maps lie within each other too deep to be walked by recursion. Messages cannot (the JSON
/// parser stops at 128), but a template can build such values to exhaust the stack.
fn too_deep(value: &Value, left: usize) -> bool {
    match value.kind() {
        _ if left == 0 => true,
        ValueKind::Seq => value.try_iter().into_iter().flatten().any(|item| too_deep(&item, left - 1)),
        ValueKind::Map => {
            let mut keys = value.try_iter().into_iter().flatten();
            keys.any(|key| value.get_item(&key).is_ok_and(|item| too_deep(&item, left - 1)))
        }
        _ => false,
    }
}

/// Refuses a value that is nested deeper than any that means well.
fn check_depth(value: &Value) -> Result<(), Error> {
    match too_deep(value, DEEPEST) {
        true => {
            Err(Error::new(ErrorKind::InvalidOperation, format!("a value nested more than {DEEPEST} deep")))
        }
        false => Ok(()),
    }
}

/// Python's `repr()`; an undefined value is empty, as Jinja prints it.
fn repr(value: &Value, out: &mut String) {
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq => {
            out.push('[');
            for (index, item) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                repr(&item, out);
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                repr(&key, out);
                out.push_str(": ");
                repr(&value.get_item(&key).unwrap_or_default(), out);
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
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
            _ => out.push(letter),
        }
    }
    out.push(mark);
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=..., separators=..., sort_keys=...)`.
pub(super) fn tojson(value: &Value, indent: Option<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let fail = |reason: String| Error::new(ErrorKind::InvalidOperation, reason);
    let indent = indent.filter(|indent| !indent.is_none()).or(kwargs.get::<Option<Value>>("indent")?);
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(given) => match (given.as_str(), given.as_usize()) {
            (Some(text), _) => Some(text.to_owned()),
            // More than this is no layout but an attack on memory.
            (None, Some(width)) if width <= 64 => Some(" ".repeat(width)),
            _ => {
                return Err(fail(format!(
                    "tojson: indent is {given}, expected a number up to 64 or a string"
                )));
            }
        },
    };
    let separators = match kwargs.get::<Option<Vec<String>>>("separators")? {
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(pair) => match <[String; 2]>::try_from(pair) {
            Ok([item, key]) => (item, key),
            Err(pair) => return Err(fail(format!("tojson: {} separators, expected 2", pair.len()))),
        },
    };
    let style = Style {
        indent,
        separators,
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    check_depth(value)?;
    let json = serde_json::to_value(value).map_err(|error| fail(format!("tojson: {error}")))?;
    let mut out = String::new();
    style.write(&json, 0, &mut out);
    Ok(out)
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
    fn write(&self, value: &serde_json::Value, depth: usize, out: &mut String) {
        match value {
            serde_json::Value::Array(items) => {
                self.list(['[', ']'], items.len(), depth, out, |index, out| {
                    self.write(&items[index], depth + 1, out);
                });
            }
            serde_json::Value::Object(fields) => {
                let mut fields: Vec<_> = fields.iter().collect();
                if self.sort_keys {
                    fields.sort_by_key(|(key, _)| *key);
                }
                self.list(['{', '}'], fields.len(), depth, out, |index, out| {
                    let (key, value) = fields[index];
                    self.text(key, out);
                    out.push_str(&self.separators.1);
                    self.write(value, depth + 1, out);
                });
            }
            serde_json::Value::String(text) => self.text(text, out),
            other => out.push_str(&other.to_string()),
        }
    }

    fn list(
        &self,
        ends: [char; 2],
        count: usize,
        depth: usize,
        out: &mut String,
        mut item: impl FnMut(usize, &mut String),
    ) {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                (0..depth).for_each(|_| out.push_str(indent));
            }
        };
        out.push(ends[0]);
        for index in 0..count {
            out.push_str(if index > 0 { &self.separators.0 } else { "" });
            line(depth + 1, out);
            item(index, out);
        }
        if count > 0 {
            line(depth, out);
        }
        out.push(ends[1]);
    }

    fn text(&self, text: &str, out: &mut String) {
        // serde_json escapes exactly what Python does when non-ASCII is left alone.
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ensure_ascii {
            out.push_str(&quoted);
            return;
        }
        let mut units = [0; 2];
        for letter in quoted.chars() {
            if letter.is_ascii() {
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

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Python's `datetime.strftime` for the marks that chat templates use, in UTC. Unknown marks stay as they
/// are.
pub(super) fn strftime(seconds: u64, format: &str) -> String {
    let (days, second) = ((seconds / 86_400) as i64, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[((days + 4) % 7) as usize];
    let twelve = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let piece = match letters.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name[..3].to_owned(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{twelve:02}"),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('-') => match letters.next() {
                Some('d') => day.to_string(),
                Some('m') => month.to_string(),
                Some('H') => hour.to_string(),
                Some('I') => twelve.to_string(),
                other => other.map_or("%-".to_owned(), |other| format!("%-{other}")),
            },
            Some('%') => "%".to_owned(),
            Some(other) => format!("%{other}"),
            None => "%".to_owned(),
        };
        out.push_str(&piece);
    }
    out
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian calendar, by Howard Hinnant's
/// method: years that begin in March put the leap day at the end, and 400 years repeat.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}
