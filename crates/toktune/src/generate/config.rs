//! How tokens are chosen, under transformers' names.

use crate::error::{Error, Result};
use crate::models::{ModelConfig, PretrainedModel};
use crate::text::AutoTokenizer;
use crate::weights::WeightsError;
use serde_json::Value;
use std::path::Path;

/// The file in which a model's folder says how it wants to be sampled.
const FILE: &str = "generation_config.json";

/// How tokens are chosen and when to stop. Names and meanings are those of transformers' class of this name.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GenerationConfig {
    /// The most tokens to generate, an end token included.
    pub max_new_tokens: usize,
    /// Draw tokens by their probability; otherwise the likeliest is taken (of several, the first).
    pub do_sample: bool,
    /// Divides the logits before drawing.
    pub temperature: f32,
    /// Draw among this many of the likeliest tokens, and those as likely as the last of them; 0 for all.
    pub top_k: usize,
    /// Draw among the likeliest tokens that have this probability together; 1 for all.
    pub top_p: f32,
    /// What the logit of a token that is there already, in the prompt or generated, is divided by when
    /// positive and multiplied by when negative. It acts without sampling too.
    pub repetition_penalty: f32,
    /// Of the random numbers: the same seed gives the same tokens.
    pub seed: u64,
    /// Tokens after which the text ends.
    pub eos_token_ids: Vec<u32>,
    /// Strings after which the text ends: it holds the one that ended it.
    pub stop_strings: Vec<String>,
    /// The first token that an encoder-decoder generates, as the language of a translation.
    pub forced_bos_token_id: Option<u32>,
    /// What an encoder-decoder's text is begun by, in place of what its configuration says.
    pub decoder_start_token_id: Option<u32>,
}

impl Default for GenerationConfig {
    /// transformers' defaults, but for the length: 256 new tokens in place of 20 with the prompt.
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            do_sample: false,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            repetition_penalty: 1.0,
            seed: 0,
            eos_token_ids: Vec::new(),
            stop_strings: Vec::new(),
            forced_bos_token_id: None,
            decoder_start_token_id: None,
        }
    }
}

impl GenerationConfig {
    /// What the model's folder asks for: its `generation_config.json`, and where that is missing or names no
    /// end token, the `eos_token_id` of the model's configuration.
    ///
    /// # Errors
    /// The file is no JSON object, or a value is of another type or out of range.
    pub fn of_model(model: &PretrainedModel) -> Result<Self> {
        let folder = if model.path().is_dir() { Some(model.path()) } else { model.path().parent() };
        let is_gguf = model.checkpoint().as_gguf().is_some();
        // a single GGUF file says everything itself; what lies beside it may belong to another model
        let file = folder.map(|folder| folder.join(FILE)).filter(|file| !is_gguf && file.is_file());
        let mut config = match file {
            Some(file) => Self::read(&file)?,
            None => Self::default(),
        };
        if config.eos_token_ids.is_empty() {
            config.eos_token_ids = ids(model.config(), "eos_token_id")?;
        }
        if config.eos_token_ids.is_empty() {
            config.eos_token_ids = ids(&model.config().text_part(), "eos_token_id")?;
        }
        Ok(config)
    }

    /// The same that ends texts where the tokenizer says that they end too: at its `eos_token`, and at what the folder it was read from
    /// names besides. An adapter's tokenizer brings the end of a turn that way.
    pub fn with_ends_of(mut self, tokenizer: &AutoTokenizer) -> Self {
        for id in tokenizer.eos_token_ids() {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
        self
    }

    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(WeightsError::io(path))?;
        let object = serde_json::from_slice(&text).map_err(|source| WeightsError::Json {
            path: path.to_path_buf(),
            what: "the generation configuration",
            source,
        })?;
        let stored = ModelConfig::from_object(path, object);
        let default = Self::default();
        let number = |key: &str, default: f32| {
            Ok::<f32, Error>(stored.optional_number(key)?.map_or(default, |x| x as f32))
        };
        let top_k = match stored.get("top_k") {
            Some(Value::Number(zero)) if zero.as_u64() == Some(0) => 0,
            _ => stored.optional_size("top_k")?.unwrap_or(default.top_k),
        };
        let config = Self {
            max_new_tokens: stored.optional_size("max_new_tokens")?.unwrap_or(default.max_new_tokens),
            do_sample: stored.flag("do_sample", default.do_sample)?,
            temperature: number("temperature", default.temperature)?,
            top_k,
            top_p: number("top_p", default.top_p)?,
            repetition_penalty: number("repetition_penalty", default.repetition_penalty)?,
            seed: default.seed,
            eos_token_ids: ids(&stored, "eos_token_id")?,
            stop_strings: strings(&stored, "stop_strings")?,
            forced_bos_token_id: ids(&stored, "forced_bos_token_id")?.first().copied(),
            decoder_start_token_id: None,
        };
        match config.problem() {
            None => Ok(config),
            Some((option, found, expected)) => {
                Err(stored.error(option, format!("found {found}, expected {expected}")).into())
            }
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// One is out of range; the error names it and the range.
    pub fn check(&self) -> Result<()> {
        match self.problem() {
            None => Ok(()),
            Some((option, found, expected)) => Err(Error::GenerationOption { option, found, expected }),
        }
    }

    /// The first value that is out of range: its name, itself, the range.
    fn problem(&self) -> Option<(&'static str, f32, &'static str)> {
        let above_zero = |x: f32| x.is_finite() && x > 0.0;
        let positive = "a finite number above 0";
        if self.do_sample && !above_zero(self.temperature) {
            let expected = "a finite number above 0 (for the likeliest token, turn do_sample off)";
            return Some(("temperature", self.temperature, expected));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Some(("top_p", self.top_p, "a number above 0 and not above 1"));
        }
        if !above_zero(self.repetition_penalty) {
            return Some(("repetition_penalty", self.repetition_penalty, positive));
        }
        None
    }
}

/// One string or a list of them; none when the key is missing.
fn strings(config: &ModelConfig, key: &str) -> Result<Vec<String>> {
    let one = |value: &Value| {
        let text = value.as_str().filter(|text| !text.is_empty()).map(String::from);
        text.ok_or_else(|| config.error(key, format!("expected a string or a list of them, found {value}")))
    };
    match config.get(key) {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => Ok(list.iter().map(one).collect::<Result<_, _>>()?),
        Some(value) => Ok(vec![one(value)?]),
    }
}

/// One id or a list of them; none when the key is missing.
fn ids(config: &ModelConfig, key: &str) -> Result<Vec<u32>> {
    let id = |value: &Value| {
        value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| config.error(key, format!("expected a token id or a list of them, found {value}")))
    };
    match config.get(key) {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => Ok(list.iter().map(id).collect::<Result<_, _>>()?),
        Some(one) => Ok(vec![id(one)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<GenerationConfig> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(FILE);
        std::fs::write(&path, text).expect("written");
        GenerationConfig::read(&path)
    }

    #[test]
    fn transformers_files_are_read() {
        let text = r#"{"_from_model_config": true, "bos_token_id": 1, "eos_token_id": [1, 106], "do_sample": true,
            "top_k": 64, "top_p": 0.95, "temperature": 0.7, "transformers_version": "5.0"}"#;
        let expected = GenerationConfig {
            do_sample: true,
            top_k: 64,
            top_p: 0.95,
            temperature: 0.7,
            eos_token_ids: vec![1, 106],
            ..GenerationConfig::default()
        };
        assert_eq!(read(text).expect("a configuration"), expected);
        let text = r#"{"eos_token_id": 2, "top_k": 0, "temperature": null}"#;
        let expected = GenerationConfig { top_k: 0, eos_token_ids: vec![2], ..GenerationConfig::default() };
        assert_eq!(read(text).expect("a configuration"), expected);
    }

    #[test]
    fn faulty_files_are_refused_with_their_key() {
        for (text, expected) in [
            ("[", "the generation configuration"),
            (r#"{"top_p": "x"}"#, "top_p: expected a number"),
            (r#"{"top_k": -1}"#, "top_k"),
            (r#"{"eos_token_id": [-1]}"#, "eos_token_id: expected a token id"),
            (r#"{"do_sample": true, "temperature": 0}"#, "temperature: found 0"),
        ] {
            let message = read(text).expect_err("a fault").to_string();
            assert!(message.contains(FILE) && message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let base = GenerationConfig { do_sample: true, ..GenerationConfig::default() };
        assert!(base.check().is_ok());
        // the temperature plays no part without sampling, and transformers' files have 0 there at times
        assert!(GenerationConfig { do_sample: false, temperature: 0.0, ..base.clone() }.check().is_ok());
        for (config, option) in [
            (GenerationConfig { temperature: 0.0, ..base.clone() }, "temperature"),
            (GenerationConfig { temperature: f32::NAN, ..base.clone() }, "temperature"),
            (GenerationConfig { top_p: 0.0, ..base.clone() }, "top_p"),
            (GenerationConfig { top_p: 1.1, ..base.clone() }, "top_p"),
            (GenerationConfig { top_p: f32::NAN, ..base.clone() }, "top_p"),
            (GenerationConfig { repetition_penalty: -1.0, ..base.clone() }, "repetition_penalty"),
            (GenerationConfig { repetition_penalty: f32::INFINITY, ..base.clone() }, "repetition_penalty"),
        ] {
            let error = config.check().expect_err("out of range");
            assert!(matches!(&error, Error::GenerationOption { option: found, .. } if *found == option));
            assert!(error.to_string().contains("expected a"), "{error}");
        }
    }
}
