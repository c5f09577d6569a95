//! A tokenizer's folder, as transformers lays it out: reading and writing.
//!
//! Read: `tokenizer.json`, or the files that [`vocabulary`] builds one from; `tokenizer_config.json` (named special tokens, `added_tokens_decoder`, bos and eos
//! switches, chat templates); `special_tokens_map.json` for names the former lacks; `chat_template.jinja` and
//! `additional_chat_templates/`; the end-of-text ids of `generation_config.json`. Only the first must exist.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::class::Class;
use crate::ends::read_stop_ids;
use crate::files::field_error;
use crate::guard::{self, guarded};
use crate::language::{M2M100, MBART, MBART50, WMT21};
use crate::{AutoTokenizer, Result, TextError, files, special, vocabulary};

/// The folder for chat templates other than the default one.
const MORE_TEMPLATES: &str = "additional_chat_templates";

impl AutoTokenizer {
    /// Reads the tokenizer of a transformers folder: its `tokenizer.json`, or where there is none the vocabulary files of an
    /// older class (`vocab.json` and `merges.txt`, `vocab.txt`, a SentencePiece model), with the rules that transformers 5
    /// gives that class.
    ///
    /// # Errors
    /// No file of these, a file that cannot be read or understood, or files that contradict each other.
    pub fn from_pretrained(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join("tokenizer.json");
        let config_path = dir.join("tokenizer_config.json");
        let config = files::read_object(&config_path)?.unwrap_or_default();
        let named = Class::of(dir, &config)?;
        let is_whole = path.is_file();
        let (inner, class) = if is_whole {
            let bytes = fs::read(&path).map_err(TextError::io(&path))?;
            (guard::parse(&path, &bytes)?, named.class)
        } else if vocabulary::FILES.into_iter().any(|name| dir.join(name).is_file()) {
            vocabulary::build(dir, named, &config)?
        } else {
            return Err(TextError::NoTokenizerFile { dir: dir.to_owned() });
        };
        let mut tokenizer = AutoTokenizer::from_inner(inner)?;
        tokenizer.class = class;
        tokenizer.config = config;
        if !is_whole {
            for (name, token) in class.special_tokens() {
                if tokenizer.config.get(*name) != Some(&Value::Null) {
                    tokenizer.special.set(name, token);
                }
            }
        }
        let map_path = dir.join("special_tokens_map.json");
        let map = files::read_object(&map_path)?.unwrap_or_default();
        // The configuration has the last word over the older map.
        for (path, fields) in [(&map_path, &map), (&config_path, &tokenizer.config)] {
            for name in special::NAMES {
                if let Some(token) = token_content(path, name, fields.get(name))? {
                    tokenizer.special.set(name, token);
                }
            }
        }
        tokenizer.check_switches(&config_path)?;
        let listed_path = dir.join("added_tokens.json");
        match (tokenizer.config.get("added_tokens_decoder"), is_whole) {
            (None, false) => tokenizer.add_older_list(&listed_path)?,
            _ => tokenizer.add_listed_tokens(&config_path)?,
        }
        if !is_whole {
            tokenizer.add_special_names(&map)?;
        }
        tokenizer.set_frame(is_whole)?;
        tokenizer.read_templates(dir, &config_path)?;
        tokenizer.stop_ids = read_stop_ids(dir)?;
        Ok(tokenizer)
    }

    /// Adds the tokens of an `added_tokens.json`, which gives their ids.
    fn add_older_list(&mut self, path: &Path) -> Result<()> {
        let Some(listed) = files::read_object(path)? else { return Ok(()) };
        let mut tokens = Vec::with_capacity(listed.len());
        for (content, id) in &listed {
            let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let number = number.ok_or_else(|| field_error(path, content, id, "a token id"))?;
            let special = self.special.iter().any(|(_, token)| token == content);
            tokens.push((number, AddedToken::from(content.as_str(), special)));
        }
        self.add_at(path, tokens)
    }

    /// Adds the named special tokens and the further ones that a folder without a `tokenizer.json` lists, with their flags.
    fn add_special_names(&mut self, map: &Map<String, Value>) -> Result<()> {
        let mut tokens = Vec::new();
        if self.class == Class::M2m100 {
            let codes: &[&str] = match self.config.get("language_codes").and_then(Value::as_str) {
                Some("wmt21") => &WMT21,
                _ => &M2M100,
            };
            tokens.extend(codes.iter().map(|code| AddedToken::from(format!("__{code}__"), true)));
        }
        let with_flags = |value: &Value| -> Option<AddedToken> {
            let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
            let content = value.get("content").unwrap_or(value).as_str()?;
            let token = AddedToken::from(content, true).single_word(flag("single_word"));
            let normalized = value.get("normalized").and_then(Value::as_bool).unwrap_or(false);
            Some(token.lstrip(flag("lstrip")).rstrip(flag("rstrip")).normalized(normalized))
        };
        for name in special::NAMES {
            let Some(token) = self.special.get(name) else { continue };
            let strips =
                name == "mask_token" && matches!(self.class, Class::MBart | Class::MBart50 | Class::Nllb);
            let usual =
                AddedToken::from(token, true).lstrip(strips).normalized(strips && self.class == Class::Nllb);
            let stated = [self.config.get(name), map.get(name)].into_iter().flatten().next();
            let stated = stated.filter(|value| value.is_object()).and_then(with_flags);
            tokens.push(stated.unwrap_or(usual));
        }
        let further = ["extra_special_tokens", "additional_special_tokens"];
        let further = further.iter().find_map(|name| self.config.get(*name).or_else(|| map.get(*name)));
        match further {
            Some(Value::Array(list)) => tokens.extend(list.iter().filter_map(with_flags)),
            Some(Value::Object(named)) => tokens.extend(named.values().filter_map(with_flags)),
            _ => {}
        }
        tokens.extend(self.further_tokens_of_class().into_iter().map(|token| AddedToken::from(token, true)));
        // one that a list placed already keeps its flags
        let known = self.inner.get_added_vocabulary().get_vocab().clone();
        tokens.retain(|token| !token.content.is_empty() && !known.contains_key(&token.content));
        self.add_at_free_ids(tokens)
    }

    /// Special tokens of a class beside the named ones.
    fn further_tokens_of_class(&self) -> Vec<String> {
        let number =
            |key: &str, usual| self.config.get(key).and_then(Value::as_u64).unwrap_or(usual).min(10_000);
        let codes = |codes: &[&str]| codes.iter().map(|code| (*code).to_owned()).collect();
        match self.class {
            Class::T5 => (0..number("extra_ids", 100)).map(|number| format!("<extra_id_{number}>")).collect(),
            Class::MBart => codes(&MBART),
            Class::MBart50 => codes(&MBART50),
            Class::Pegasus => std::iter::once("<mask_1>".to_owned())
                .chain((2..number("offset", 103)).map(|number| format!("<unk_{number}>")))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Adds the tokens of `added_tokens_decoder` that `tokenizer.json` lacks, at the ids it states.
    fn add_listed_tokens(&mut self, path: &Path) -> Result<()> {
        let Some(value) = self.config.get("added_tokens_decoder") else { return Ok(()) };
        let Value::Object(listed) = value else {
            return Err(field_error(path, "added_tokens_decoder", value, "an object"));
        };
        let mut missing = Vec::new();
        for (id, entry) in listed {
            let field = || format!("added_tokens_decoder.{id}");
            let content = entry.get("content").and_then(Value::as_str);
            let (Ok(number), Some(content)) = (id.parse::<u32>(), content) else {
                return Err(field_error(path, &field(), entry, "an id with an object with `content`"));
            };
            match self.token_to_id(content) {
                Some(found) if found == number => {}
                Some(found) => {
                    let (path, token) = (path.to_owned(), content.to_owned());
                    return Err(TextError::AddedTokenId { path, token, found, expected: number.into() });
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
        self.add_at(path, missing)
    }

    /// Adds tokens at the ids that a file states.
    fn add_at(&mut self, path: &Path, mut tokens: Vec<(u32, AddedToken)>) -> Result<()> {
        tokens.sort_by_key(|(id, _)| *id);
        self.add_at_free_ids(tokens.iter().map(|(_, token)| token.clone()).collect())?;
        for (expected, token) in tokens {
            let found = self.token_to_id(&token.content);
            if let Some(found) = found.filter(|found| *found != expected) {
                let (path, token) = (path.to_owned(), token.content);
                return Err(TextError::AddedTokenId { path, token, found, expected: expected.into() });
            }
        }
        Ok(())
    }

    /// Checks that `add_bos_token` and `add_eos_token` are switches, whether they count or not.
    fn check_switches(&self, path: &Path) -> Result<()> {
        for name in ["add_bos_token", "add_eos_token"] {
            match self.config.get(name) {
                None | Some(Value::Null | Value::Bool(_)) => {}
                Some(other) => return Err(field_error(path, name, other, "true or false")),
            }
        }
        Ok(())
    }

    /// The frame of a text, as transformers 5.23 decides it: some classes set their own; else the post-processor of a
    /// `tokenizer.json` stays as it is, and the switches of the configuration count without one alone.
    fn set_frame(&mut self, is_whole: bool) -> Result<()> {
        // M2M100's class cannot be saved with a tokenizer.json, and is known by its languages
        if self.class == Class::Backend
            && ["__en__", "__fr__"].iter().all(|token| self.token_to_id(token).is_some())
        {
            self.class = Class::M2m100;
        }
        self.set_usual_languages()?;
        if self.target_frame.is_some() {
            return Ok(());
        }
        let named = |names: &[&str]| -> Vec<String> {
            names.iter().filter_map(|name| self.special.get(name)).map(str::to_owned).collect()
        };
        let on = |name: &str| self.config.get(name).and_then(Value::as_bool).unwrap_or(false);
        let stated = self.config.contains_key("add_bos_token") || self.config.contains_key("add_eos_token");
        let (before, behind) = match (self.class.frame(), is_whole) {
            (Some((before, behind)), _) => (named(before), named(behind)),
            // it builds its frame anew from the switches, which do not reach it
            (None, true) if self.class == Class::GptNeoX => Default::default(),
            (None, true) => return Ok(()),
            (None, false) if self.class == Class::Albert && !stated => {
                (named(&["cls_token"]), named(&["sep_token"]))
            }
            (None, false) => {
                let switched =
                    |switch: &str, name: &str| if on(switch) { named(&[name]) } else { Vec::new() };
                (switched("add_bos_token", "bos_token"), switched("add_eos_token", "eos_token"))
            }
        };
        let ids =
            |tokens: &[String]| -> Vec<u32> { tokens.iter().filter_map(|t| self.token_to_id(t)).collect() };
        let wanted = (ids(&before), ids(&behind));
        // a class whose tokens are not in the vocabulary fails in transformers
        if is_whole && (wanted.0.len(), wanted.1.len()) != (before.len(), behind.len()) {
            return Ok(());
        }
        if !is_whole || self.frame_around()? != wanted {
            let before: Vec<&str> = before.iter().map(String::as_str).collect();
            let behind: Vec<&str> = behind.iter().map(String::as_str).collect();
            self.frame(&before, &behind)?;
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
                        return Err(field_error(config_path, "chat_template", entry, SHAPE));
                    };
                    self.templates.insert(name, source);
                }
            }
            Some(other) => return Err(field_error(config_path, "chat_template", other, SHAPE)),
        }
        if let Some(source) = files::read_text(&dir.join("chat_template.jinja"))? {
            self.templates.insert("default".to_owned(), source);
        }
        let more = dir.join(MORE_TEMPLATES);
        if more.is_dir() {
            for entry in fs::read_dir(&more).map_err(TextError::io(&more))? {
                let path = entry.map_err(TextError::io(&more))?.path();
                let name = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
                let Some(name) = name.filter(|_| path.extension().is_some_and(|end| end == "jinja")) else {
                    continue;
                };
                if let Some(source) = files::read_text(&path)? {
                    self.templates.insert(name, source);
                }
            }
        }
        Ok(())
    }

    /// Writes the folder so that transformers' `AutoTokenizer.from_pretrained` loads it without a network and
    /// gives the same ids: `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json` and the chat
    /// templates. Where texts end at more than `eos_token`, a `generation_config.json` says so, beside what it says already.
    ///
    /// No `added_tokens.json` is written: tools that meet one take its entries for tokens beyond the base
    /// vocabulary.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_pretrained(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).map_err(TextError::io(dir))?;
        let json = guarded("write", || self.inner.to_string(true))?;
        files::write(&dir.join("tokenizer.json"), &json)?;
        files::write_object(&dir.join("tokenizer_config.json"), self.saved_config())?;
        let mut map = Map::new();
        for (name, token) in self.special.iter() {
            map.insert(name.to_owned(), Value::from(token));
        }
        files::write_object(&dir.join("special_tokens_map.json"), map)?;
        self.save_stop_ids(dir)?;
        for (name, source) in &self.templates {
            if name == "default" {
                files::write(&dir.join("chat_template.jinja"), source)?;
            } else if name.contains(['/', '\\']) || name.starts_with('.') {
                // A name from a file must not choose where on the disk it is written.
                tracing::warn!(template = name, "chat template not saved: its name is not a file name");
            } else {
                let more = dir.join(MORE_TEMPLATES);
                fs::create_dir_all(&more).map_err(TextError::io(&more))?;
                files::write(&more.join(format!("{name}.jinja")), source)?;
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
        // M2M100's class reads no tokenizer.json, and GPT-NeoX's takes no frame from it
        let is_framed =
            || self.frame_around().is_ok_and(|(before, behind)| !before.is_empty() || !behind.is_empty());
        if self.class == Class::M2m100 || self.class == Class::GptNeoX && is_framed() {
            config.shift_remove("tokenizer_class");
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
