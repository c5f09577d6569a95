//! Tokens from a file: a text with one a line, JSON lines, or TOML with descriptions.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::{NewToken, TextError};
use crate::{Error, Result};

/// A token of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedToken {
    /// The token.
    pub token: NewToken,
    /// What it means, in words.
    pub description: Option<String>,
}

/// A token as JSON and TOML have it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Alone(String),
    Described(Described),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    token: String,
    #[serde(default)]
    special: bool,
    description: Option<String>,
}

/// What stands under a token's name in TOML.
#[derive(Deserialize)]
#[serde(untagged)]
enum Under {
    Description(String),
    Fields(Fields),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    special: bool,
    description: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Tokens {
    List(Vec<Written>),
    // in the order of their names
    ByName(std::collections::BTreeMap<String, Under>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlFile {
    tokens: Tokens,
}

impl From<Written> for ListedToken {
    fn from(written: Written) -> Self {
        match written {
            Written::Alone(token) => ListedToken { token: NewToken::new(token), description: None },
            Written::Described(Described { token, special, description }) => {
                ListedToken { token: NewToken { special, ..NewToken::new(token) }, description }
            }
        }
    }
}

impl ListedToken {
    /// Reads a list by the ending of its name: `.jsonl` has `{"token", "special", "description"}` or a string in each line,
    /// `.toml` a table `tokens` of descriptions by token or a list of such objects, and any other file a token a line.
    ///
    /// # Errors
    /// A file that cannot be read or is not of its form; a blank token; one that stands twice.
    pub fn read(path: impl AsRef<Path>) -> Result<Vec<ListedToken>> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(Error::io(path))?;
        let wrong = |reason: String| TextError::VocabularyFile { path: path.to_owned(), reason };
        let text = String::from_utf8(bytes).map_err(|_| wrong("not UTF-8".to_owned()))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let lines = || text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let listed: Vec<ListedToken> = match ending {
            "jsonl" | "ndjson" => lines()
                .map(|(line, number)| {
                    let fault = |_| {
                        let expected = r#"a string or {"token", "special", "description"}"#;
                        wrong(format!("line {number}: expected {expected}"))
                    };
                    serde_json::from_str::<Written>(line).map(ListedToken::from).map_err(fault)
                })
                .collect::<Result<_, _>>()?,
            "toml" => {
                let file: TomlFile = toml::from_str(text).map_err(|error| {
                    wrong(format!(
                        "expected a table `tokens` of descriptions by token, or a list of tables with `token`: {}",
                        error.message()
                    ))
                })?;
                match file.tokens {
                    Tokens::List(list) => list.into_iter().map(ListedToken::from).collect(),
                    Tokens::ByName(names) => names
                        .into_iter()
                        .map(|(token, under)| match under {
                            Under::Description(text) => {
                                ListedToken { token: NewToken::new(token), description: Some(text) }
                            }
                            Under::Fields(Fields { special, description }) => ListedToken {
                                token: NewToken { special, ..NewToken::new(token) },
                                description,
                            },
                        })
                        .collect(),
                }
            }
            _ => lines().map(|(line, _)| Written::Alone(line.to_owned()).into()).collect(),
        };
        let mut seen = std::collections::HashSet::new();
        for (entry, number) in listed.iter().zip(1..) {
            let content = &entry.token.content;
            if content.trim().is_empty() {
                return Err(wrong(format!("token {number} is blank")).into());
            }
            if !seen.insert(content) {
                return Err(wrong(format!("token {number}, `{content}`, stands twice")).into());
            }
        }
        match listed.is_empty() {
            true => Err(wrong("no tokens".to_owned()).into()),
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
        ListedToken { token, description: description.map(str::to_owned) }
    }

    #[test]
    fn every_form_is_read() {
        let plain = read("list.txt", "\u{feff}<a>\r\n\n b\n").unwrap();
        assert_eq!(plain, [listed("<a>", false, None), listed(" b", false, None)]);
        let lines = "\"<a>\"\n{\"token\": \"<b>\", \"special\": true, \"description\": \"what\"}\n";
        let expected = [listed("<a>", false, None), listed("<b>", true, Some("what"))];
        assert_eq!(read("list.jsonl", lines).unwrap(), expected);
        let table = "[tokens]\n\"<b>\" = {special = true, description = \"what\"}\n\"<a>\" = \"how\"\n";
        let expected = [listed("<a>", false, Some("how")), listed("<b>", true, Some("what"))];
        assert_eq!(read("list.toml", table).unwrap(), expected);
        let list = "tokens = ['<a>', {token = '<b>', description = 'what'}]";
        let expected = [listed("<a>", false, None), listed("<b>", false, Some("what"))];
        assert_eq!(read("list.toml", list).unwrap(), expected);
    }

    #[test]
    fn faults_are_named() {
        for (name, text, expected) in [
            ("list.txt", "\n", "no tokens"),
            ("list.txt", "<a>\n<b>\n<a>\n", "token 3, `<a>`, stands twice"),
            ("list.jsonl", "\"a\"\n{\"tokn\": 1}\n", "line 2: expected a string or"),
            ("list.jsonl", "\" \"\n", "token 1 is blank"),
            ("list.toml", "a = 1", "expected a table `tokens`"),
            ("list.toml", "[tokens]\na = {specal = true}", "expected a table `tokens`"),
        ] {
            let error = read(name, text).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(expected), "{error:?} lacks {expected:?}");
        }
    }
}
