//! A tokenizer's folder, as transformers lays it out: reading and writing.
//!
//! Read: `tokenizer.json`; `tokenizer_config.json` (named special tokens, `added_tokens_decoder`, bos and eos
//! switches, chat templates); `special_tokens_map.json` for names the former lacks; `chat_template.jinja` and
//! `additional_chat_templates/`; the end-of-text ids of `generation_config.json`. Only the first must exist.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use super::{AutoTokenizer, TextError, special};
use crate::{Error, Result};

/// The folder for chat templates other than the default one.
const MORE_TEMPLATES: &str = "additional_chat_templates";

impl AutoTokenizer {
    /// Reads the tokenizer of a transformers folder.
    ///
    /// # Errors
    /// No `tokenizer.json`, a file that cannot be read or understood, or files that contradict each other.
    pub fn from_pretrained(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join("tokenizer.json");
        if !path.is_file() {
            let others = ["tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"];
            let found = others.into_iter().filter(|name| dir.join(name).exists()).collect();
            return Err(TextError::NoTokenizerFile { dir: dir.to_owned(), found }.into());
        }
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        let inner = Tokenizer::from_bytes(bytes)
            .map_err(|reason| TextError::TokenizerFile { path: path.clone(), reason: reason.to_string() })?;
        let mut tokenizer = AutoTokenizer::from_inner(inner)?;

        let config_path = dir.join("tokenizer_config.json");
        tokenizer.config = read_object(&config_path)?.unwrap_or_default();
        let map_path = dir.join("special_tokens_map.json");
        let map = read_object(&map_path)?.unwrap_or_default();
        // The configuration has the last word over the older map.
        for (path, fields) in [(&map_path, &map), (&config_path, &tokenizer.config)] {
            for name in special::NAMES {
                if let Some(token) = token_content(path, name, fields.get(name))? {
                    tokenizer.special.set(name, token);
                }
            }
        }
        tokenizer.add_listed_tokens(&config_path)?;
        tokenizer.apply_switches(&config_path)?;
        tokenizer.read_templates(dir, &config_path)?;
        tokenizer.stop_ids = read_stop_ids(&dir.join("generation_config.json"))?;
        Ok(tokenizer)
    }

    /// Adds the tokens of `added_tokens_decoder` that `tokenizer.json` lacks, at the ids it states.
    fn add_listed_tokens(&mut self, path: &Path) -> Result<()> {
        let Some(value) = self.config.get("added_tokens_decoder") else { return Ok(()) };
        let Value::Object(listed) = value else {
            return Err(field_error(path, "added_tokens_decoder", value, "an object").into());
        };
        let mut missing = Vec::new();
        for (id, entry) in listed {
            let field = || format!("added_tokens_decoder.{id}");
            let content = entry.get("content").and_then(Value::as_str);
            let (Ok(number), Some(content)) = (id.parse::<u32>(), content) else {
                return Err(field_error(path, &field(), entry, "an id with an object with `content`").into());
            };
            match self.token_to_id(content) {
                Some(found) if found == number => {}
                Some(found) => {
                    let (path, token) = (path.to_owned(), content.to_owned());
                    return Err(TextError::AddedTokenId { path, token, found, expected: number }.into());
                }
                None => {
                    let flag = |name: &str| entry.get(name).and_then(Value::as_bool);
                    let special = flag("special").unwrap_or(false);
                    let token = AddedToken::from(content, special)
                        .single_word(flag("single_word").unwrap_or(false))
                        .lstrip(flag("lstrip").unwrap_or(false))
                        .rstrip(flag("rstrip").unwrap_or(false))
                        .normalized(flag("normalized").unwrap_or(!special));
                    missing.push((number, token));
                }
            }
        }
        missing.sort_by_key(|(id, _)| *id);
        let tokens: Vec<AddedToken> = missing.iter().map(|(_, token)| token.clone()).collect();
        self.inner.add_tokens(tokens).map_err(TextError::tokenizer("add tokens"))?;
        for (expected, token) in missing {
            let found = self.token_to_id(&token.content);
            if let Some(found) = found.filter(|found| *found != expected) {
                let (path, token) = (path.to_owned(), token.content);
                return Err(TextError::AddedTokenId { path, token, found, expected }.into());
            }
        }
        Ok(())
    }

    /// `add_bos_token` and `add_eos_token`: where either is stated, transformers builds the frame anew from
    /// them.
    fn apply_switches(&mut self, path: &Path) -> Result<()> {
        let switch = |name: &str| match self.config.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(on)) => Ok(Some(*on)),
            Some(other) => Err(field_error(path, name, other, "true or false")),
        };
        let (bos, eos) = (switch("add_bos_token")?, switch("add_eos_token")?);
        if bos.is_some() || eos.is_some() {
            let on = |switch: Option<bool>, token: Option<&str>| {
                token.filter(|_| switch.unwrap_or(false)).map(str::to_owned)
            };
            let (bos, eos) = (on(bos, self.bos_token()), on(eos, self.eos_token()));
            self.frame(bos.as_deref(), eos.as_deref())?;
        }
        Ok(())
    }

    /// Chat templates: files win over the configuration, as in transformers.
    fn read_templates(&mut self, dir: &Path, config_path: &Path) -> Result<()> {
        const SHAPE: &str = "a string, or a list of objects with `name` and `template`";
        match self.config.get("chat_template") {
            None | Some(Value::Null) => {}
            Some(Value::String(source)) => {
                self.templates.insert("default".to_owned(), source.clone());
            }
            Some(Value::Array(list)) => {
                for entry in list {
                    let part = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
                    let (Some(name), Some(source)) = (part("name"), part("template")) else {
                        return Err(field_error(config_path, "chat_template", entry, SHAPE).into());
                    };
                    self.templates.insert(name, source);
                }
            }
            Some(other) => return Err(field_error(config_path, "chat_template", other, SHAPE).into()),
        }
        if let Some(source) = read_text(&dir.join("chat_template.jinja"))? {
            self.templates.insert("default".to_owned(), source);
        }
        let more = dir.join(MORE_TEMPLATES);
        if more.is_dir() {
            for entry in fs::read_dir(&more).map_err(Error::io(&more))? {
                let path = entry.map_err(Error::io(&more))?.path();
                let name = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
                let Some(name) = name.filter(|_| path.extension().is_some_and(|end| end == "jinja")) else {
                    continue;
                };
                if let Some(source) = read_text(&path)? {
                    self.templates.insert(name, source);
                }
            }
        }
        Ok(())
    }

    /// Writes the folder so that transformers' `AutoTokenizer.from_pretrained` loads it without a network and
    /// gives the same ids: `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and the chat
    /// templates.
    ///
    /// No `added_tokens.json` is written: tools that meet one take its entries for tokens beyond the base
    /// vocabulary.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_pretrained(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let json = self.inner.to_string(true).map_err(TextError::tokenizer("write"))?;
        write_whole(&dir.join("tokenizer.json"), &json)?;
        write_object(&dir.join("tokenizer_config.json"), self.saved_config())?;
        let mut map = Map::new();
        for (name, token) in self.special.iter() {
            map.insert(name.to_owned(), Value::from(token));
        }
        write_object(&dir.join("special_tokens_map.json"), map)?;
        for (name, source) in &self.templates {
            if name == "default" {
                write_whole(&dir.join("chat_template.jinja"), source)?;
            } else if name.contains(['/', '\\']) || name.starts_with('.') {
                // A name from a file must not choose where on the disk it is written.
                tracing::warn!(template = name, "chat template not saved: its name is not a file name");
            } else {
                let more = dir.join(MORE_TEMPLATES);
                fs::create_dir_all(&more).map_err(Error::io(&more))?;
                write_whole(&more.join(format!("{name}.jinja")), source)?;
            }
        }
        Ok(())
    }

    /// The source's `tokenizer_config.json` with what changed since.
    fn saved_config(&self) -> Map<String, Value> {
        let mut config = self.config.clone();
        // The templates have files of their own now; transformers reads those first.
        config.shift_remove("chat_template");
        // transformers writes this number, 10^30, for "no limit", which JSON tools here would round.
        if config.get("model_max_length").and_then(Value::as_f64).is_some_and(|length| length > 1e18) {
            config.shift_remove("model_max_length");
        }
        config.entry("tokenizer_class").or_insert_with(|| Value::from("PreTrainedTokenizerFast"));
        for (name, token) in self.special.iter() {
            // An object there (an AddedToken with flags) that names the same token stays.
            let content =
                config.get(name).and_then(|old| old.get("content").or(Some(old))).and_then(Value::as_str);
            if content != Some(token) {
                config.insert(name.to_owned(), Value::from(token));
            }
        }
        if config.contains_key("added_tokens_decoder") {
            config.insert("added_tokens_decoder".to_owned(), Value::Object(self.added_tokens_decoder()));
        }
        config
    }

    /// transformers 4's list of added tokens, by id; it must hold new tokens too when it is there at all.
    fn added_tokens_decoder(&self) -> Map<String, Value> {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let mut ids: Vec<_> = added.iter().collect();
        ids.sort_by_key(|(id, _)| **id);
        ids.into_iter()
            .filter_map(|(id, token)| Some((id.to_string(), serde_json::to_value(token).ok()?)))
            .collect()
    }
}

/// The ids in `eos_token_id` of a generation configuration: a number or a list.
fn read_stop_ids(path: &Path) -> Result<Vec<u32>> {
    let Some(config) = read_object(path)? else { return Ok(Vec::new()) };
    let wrong = |value: &Value| field_error(path, "eos_token_id", value, "a token id or a list of token ids");
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong(value));
    Ok(match config.get("eos_token_id") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(ids)) => ids.iter().map(id).collect::<Result<_, _>>()?,
        Some(value) => vec![id(value)?],
    })
}

/// The token in a field that holds a string, an `AddedToken` object or nothing.
fn token_content<'v>(
    path: &Path,
    name: &str,
    value: Option<&'v Value>,
) -> Result<Option<&'v str>, TextError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(token)) => Ok(Some(token)),
        Some(value) => match value.get("content").and_then(Value::as_str) {
            Some(token) => Ok(Some(token)),
            None => Err(field_error(path, name, value, "a string or an object with `content`")),
        },
    }
}

fn field_error(path: &Path, field: &str, found: &Value, expected: &'static str) -> TextError {
    let found: String = found.to_string().chars().take(60).collect();
    TextError::ConfigField { path: path.to_owned(), field: field.to_owned(), found, expected }
}

/// A text file, or `None` when it does not exist.
fn read_text(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path)(error)),
    }
}

/// A JSON file with an object, or `None` when it does not exist.
fn read_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    let wrong = |reason: String| TextError::JsonFile { path: path.to_owned(), reason };
    match serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))? {
        Value::Object(object) => Ok(Some(object)),
        other => {
            Err(wrong(format!("found {}", other.to_string().chars().take(60).collect::<String>())).into())
        }
    }
}

fn write_object(path: &Path, object: Map<String, Value>) -> Result<()> {
    // `{:#}` is serde_json's indented form, which cannot fail on a value.
    write_whole(path, &format!("{:#}\n", Value::Object(object)))
}

/// Writes a file so that a reader sees the old one or the new one, never half of it: a temporary file in the
/// same folder, synced, then renamed.
fn write_whole(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(Error::io(path))?;
    file.write_all(text.as_bytes()).map_err(Error::io(path))?;
    file.as_file().sync_all().map_err(Error::io(path))?;
    make_readable(file.as_file()).map_err(Error::io(path))?;
    file.persist(path).map_err(|error| Error::io(path)(error.error))?;
    Ok(())
}

/// Temporary files are made for their owner alone; a tokenizer is to be read like any file.
#[cfg(unix)]
fn make_readable(file: &fs::File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn make_readable(_: &fs::File) -> std::io::Result<()> {
    Ok(())
}
