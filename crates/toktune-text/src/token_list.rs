//! Tokens from a file: a text with one a line, JSON lines, or TOML with descriptions.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::{NewToken, Result, TextError};
use toktune_weights::nearest;

/// A token of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedToken {
    /// The token.
    pub token: NewToken,
    /// What it means, in words.
    pub description: Option<String>,
    /// What its row starts from, as it is written: who makes rows reads it.
    pub init: Option<String>,
}

impl ListedToken {
    /// A token of which nothing else is said.
    pub fn new(token: NewToken) -> Self {
        ListedToken { token, description: None, init: None }
    }
}

/// What a token's object may hold.
const FIELDS: [&str; 4] = ["token", "special", "description", "init"];
const ENTRY: &str = r#"a string or {"token", "special", "description", "init"}"#;

/// A token as JSON and TOML have it: in a list, or under its name.
fn entry(place: &str, name: Option<&str>, value: Value) -> Result<ListedToken, String> {
    let fields = match (value, name) {
        (Value::String(token), None) => {
            return Ok(ListedToken::new(NewToken::new(token)));
        }
        (Value::String(text), Some(name)) => {
            let described = ListedToken { description: Some(text), ..ListedToken::new(NewToken::new(name)) };
            return Ok(described);
        }
        (Value::Object(fields), _) => fields,
        (_, None) => return Err(format!("{place}: expected {ENTRY}")),
        (_, Some(name)) => {
            let expected = "a description, or a table of `special`, `description` and `init`";
            return Err(format!("{place}, `{name}`: expected {expected}"));
        }
    };
    let named = name.or_else(|| fields.get("token").and_then(Value::as_str)).map(str::to_owned);
    // the place of a token in a list says little beside its name
    let place = named.as_ref().map_or_else(|| place.to_owned(), |token| format!("{place}, `{token}`"));
    let known = if name.is_some() { &FIELDS[1..] } else { &FIELDS };
    let (mut special, mut description, mut init) = (false, None, None);
    for (key, value) in fields {
        let expected = match (key.as_str(), value) {
            (key, _) if !known.contains(&key) => {
                let nearest = nearest(key, known.iter().copied());
                let nearest = nearest.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default();
                return Err(format!(
                    "{place}: unknown key `{key}`{nearest}; expected `{}`",
                    known.join("`, `")
                ));
            }
            ("special", Value::Bool(value)) => {
                special = value;
                continue;
            }
            ("special", _) => "true or false",
            ("description", Value::String(text)) => {
                description = Some(text);
                continue;
            }
            ("init", Value::String(text)) => {
                init = Some(text);
                continue;
            }
            ("description" | "init", Value::Null) | ("token", Value::String(_)) => continue,
            _ => "a string",
        };
        return Err(format!("{place}: expected {expected} in `{key}`"));
    }
    let Some(token) = named else { return Err(format!("{place}: no `token`; expected {ENTRY}")) };
    Ok(ListedToken { token: NewToken { special, ..NewToken::new(token) }, description, init })
}

/// The tokens of a TOML file, in its order.
fn toml_entries(text: &str) -> Result<Vec<ListedToken>, String> {
    let expected = "expected a table `tokens` of descriptions by token, or a list of tables with `token`";
    let mut file: Map<String, Value> =
        toml::from_str(text).map_err(|error| format!("{expected}: {}", error.message()))?;
    let tokens = file.remove("tokens");
    if let Some(key) = file.keys().next() {
        return Err(format!("{expected}; found `{key}`"));
    }
    match tokens {
        Some(Value::Array(list)) => list
            .into_iter()
            .zip(1..)
            .map(|(value, number)| entry(&format!("token {number}"), None, value))
            .collect(),
        Some(Value::Object(names)) => names
            .into_iter()
            .zip(1..)
            .map(|((name, value), number)| entry(&format!("token {number}"), Some(&name), value))
            .collect(),
        _ => Err(expected.to_owned()),
    }
}

impl ListedToken {
    /// Reads a list by the ending of its name: `.jsonl` has `{"token", "special", "description", "init"}` or a string in each
    /// line, `.toml` a table `tokens` of descriptions by token or a list of such objects, and any other file a token a line.
    ///
    /// # Errors
    /// A file that cannot be read or is not of its form; a blank token; one that stands twice.
    pub fn read(path: impl AsRef<Path>) -> Result<Vec<ListedToken>> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(TextError::io(path))?;
        let wrong = |reason: String| TextError::VocabularyFile { path: path.to_owned(), reason };
        let text = String::from_utf8(bytes).map_err(|_| wrong("not UTF-8".to_owned()))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let lines = || text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let listed: Vec<ListedToken> = match ending {
            "jsonl" | "ndjson" => lines()
                .map(|(line, number)| {
                    let place = format!("line {number}");
                    let value = serde_json::from_str(line)
                        .map_err(|error| format!("{place}: expected {ENTRY}: {error}"))?;
                    entry(&place, None, value)
                })
                .collect::<Result<_, _>>()
                .map_err(wrong)?,
            "toml" => toml_entries(text).map_err(wrong)?,
            _ => lines().map(|(line, _)| ListedToken::new(NewToken::new(line))).collect(),
        };
        let mut seen = std::collections::HashSet::new();
        for (entry, number) in listed.iter().zip(1..) {
            let content = &entry.token.content;
            if content.trim().is_empty() {
                return Err(wrong(format!("token {number} is blank")));
            }
            if !seen.insert(content) {
                return Err(wrong(format!("token {number}, `{content}`, stands twice")));
            }
        }
        match listed.is_empty() {
            true => Err(wrong("no tokens".to_owned())),
            false => Ok(listed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<ListedToken>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        ListedToken::read(path)
    }

    fn listed(token: &str, special: bool, description: Option<&str>) -> ListedToken {
        let token = NewToken { special, ..NewToken::new(token) };
        ListedToken { description: description.map(str::to_owned), ..ListedToken::new(token) }
    }

    #[test]
    fn every_form_is_read() {
        let plain = read("list.txt", "\u{feff}<a>\r\n\n b\n").unwrap();
        assert_eq!(plain, [listed("<a>", false, None), listed(" b", false, None)]);
        let lines = "\"<a>\"\n{\"token\": \"<b>\", \"special\": true, \"description\": \"what\"}\n";
        let expected = [listed("<a>", false, None), listed("<b>", true, Some("what"))];
        assert_eq!(read("list.jsonl", lines).unwrap(), expected);
        let table = "[tokens]\n\"<b>\" = {special = true, description = \"what\"}\n\"<a>\" = \"how\"\n";
        let expected = [listed("<b>", true, Some("what")), listed("<a>", false, Some("how"))];
        assert_eq!(read("list.toml", table).unwrap(), expected);
        let started = ListedToken { init: Some("like:x".to_owned()), ..listed("<c>", false, None) };
        let lines = "{\"token\": \"<c>\", \"init\": \"like:x\", \"description\": null}";
        assert_eq!(read("list.jsonl", lines).unwrap(), std::slice::from_ref(&started));
        assert_eq!(read("list.toml", "[tokens]\n'<c>' = {init = 'like:x'}").unwrap(), [started]);
        let list = "tokens = ['<a>', {token = '<b>', description = 'what'}]";
        let expected = [listed("<a>", false, None), listed("<b>", false, Some("what"))];
        assert_eq!(read("list.toml", list).unwrap(), expected);
    }

    #[test]
    fn faults_are_named() {
        for (name, text, expected) in [
            ("list.txt", "\n", "no tokens"),
            ("list.txt", "<a>\n<b>\n<a>\n", "token 3, `<a>`, stands twice"),
            ("list.jsonl", "\"a\"\n{\"tokn\": 1}\n", "line 2: unknown key `tokn` (did you mean `token`?)"),
            ("list.jsonl", "\"a\"\n1\n", "line 2: expected a string or"),
            ("list.jsonl", "\" \"\n", "token 1 is blank"),
            ("list.toml", "a = 1", "expected a table `tokens`"),
            ("list.toml", "tokens = 1", "expected a table `tokens`"),
            ("list.toml", "[tokens]\na = 1", "token 1, `a`: expected a description"),
            (
                "list.toml",
                "[tokens]\nb = 'x'\na = {specal = true}",
                "token 2, `a`: unknown key `specal` (did you mean `special`?)",
            ),
            (
                "list.toml",
                "tokens = [{token = 'a', descripton = 'b'}]",
                "`a`: unknown key `descripton` (did you mean `description`?)",
            ),
            ("list.toml", "[tokens]\na = {special = 'yes'}", "`a`: expected true or false in `special`"),
            (
                "list.jsonl",
                "{\"token\": \"a\", \"description\": 1}",
                "line 1, `a`: expected a string in `description`",
            ),
            ("list.jsonl", "{\"token\": \"a\", \"init\": 1}", "line 1, `a`: expected a string in `init`"),
            ("list.jsonl", "{\"special\": true}", "line 1: no `token`"),
        ] {
            let error = read(name, text).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }
}
