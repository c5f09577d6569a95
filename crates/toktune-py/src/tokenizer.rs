//! Tokenizers.

use crate::errors::{argument, raise};
use crate::model::locate;
use crate::values::{parsed, value, written};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use toktune::AutoTokenizer;
use toktune::text::{ChatOptions, NewToken};
use toktune::weights::Checkpoint;

/// A tokenizer. `toktune.PreTrainedTokenizer` is over it.
#[pyclass(frozen, module = "toktune._toktune")]
pub struct Tokenizer {
    inner: Mutex<AutoTokenizer>,
}

impl Tokenizer {
    /// Looks at the tokenizer.
    pub(crate) fn with<R>(&self, py: Python<'_>, look: impl FnOnce(&AutoTokenizer) -> R) -> R {
        look(&self.inner.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner))
    }

    fn change<R>(&self, py: Python<'_>, change: impl FnOnce(&mut AutoTokenizer) -> R) -> R {
        change(&mut self.inner.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner))
    }
}

/// A tokenizer of its own for what runs without the interpreter's lock.
pub(crate) fn cloned(py: Python<'_>, tokenizer: Option<&Tokenizer>) -> Option<AutoTokenizer> {
    tokenizer.map(|of| of.with(py, AutoTokenizer::clone))
}

#[pymethods]
impl Tokenizer {
    /// Reads that of a folder, of a GGUF file, or of an id of the Hub.
    #[staticmethod]
    fn open(py: Python<'_>, name: &str) -> PyResult<Self> {
        let open = || {
            let path = locate(name)?;
            let is_gguf = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
            if path.is_dir() && !path.join("config.json").is_file() && !path.join("tokenizer.json").is_file()
            {
                // a folder with nothing but a GGUF file
                if let Ok(checkpoint) = Checkpoint::open(&path)
                    && checkpoint.as_gguf().is_some()
                {
                    return Ok(AutoTokenizer::from_checkpoint(&checkpoint)?);
                }
            }
            match is_gguf {
                true => Ok(AutoTokenizer::from_checkpoint(&Checkpoint::open(&path)?)?),
                false => Ok::<_, toktune::Error>(AutoTokenizer::from_pretrained(&path)?),
            }
        };
        let inner = py.detach(open).map_err(raise)?;
        Ok(Self { inner: Mutex::new(inner) })
    }

    /// The same once more, to be changed without this one.
    fn copy(&self, py: Python<'_>) -> Self {
        Self { inner: Mutex::new(self.with(py, AutoTokenizer::clone)) }
    }

    /// Writes its files into a folder.
    fn save(&self, py: Python<'_>, folder: PathBuf) -> PyResult<()> {
        self.with(py, |inner| inner.save_pretrained(&folder)).map_err(raise)
    }

    /// Adds tokens, `(text, special, single_word)`; their ids.
    fn add(&self, py: Python<'_>, tokens: Vec<(String, bool, bool)>) -> PyResult<Vec<u32>> {
        let tokens: Vec<NewToken> = tokens
            .into_iter()
            .map(|(content, special, single_word)| NewToken { content, special, single_word })
            .collect();
        self.change(py, |inner| inner.add_new_tokens(&tokens)).map_err(raise)
    }

    /// Ids of a text.
    fn encode(&self, py: Python<'_>, text: &str, add_special_tokens: bool) -> PyResult<Vec<u32>> {
        self.with(py, |inner| inner.encode(text, add_special_tokens)).map_err(raise)
    }

    /// Ids of a text that a model is to go on with.
    fn encode_prompt(&self, py: Python<'_>, text: &str) -> PyResult<Vec<u32>> {
        self.with(py, |inner| inner.encode_prompt(text)).map_err(raise)
    }

    /// Text of ids.
    fn decode(&self, py: Python<'_>, ids: Vec<u32>, skip_special_tokens: bool) -> PyResult<String> {
        self.with(py, |inner| inner.decode(&ids, skip_special_tokens)).map_err(raise)
    }

    /// The id of a token of the vocabulary.
    fn token_to_id(&self, py: Python<'_>, token: &str) -> Option<u32> {
        self.with(py, |inner| inner.token_to_id(token))
    }

    /// A token of the vocabulary.
    fn id_to_token(&self, py: Python<'_>, id: u32) -> Option<String> {
        self.with(py, |inner| inner.id_to_token(id))
    }

    /// The number of tokens, and the rows that a model needs for them.
    fn sizes(&self, py: Python<'_>) -> (usize, usize) {
        self.with(py, |inner| (inner.vocab_size(), inner.required_rows()))
    }

    /// Its named tokens and templates, as JSON.
    fn describe(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, |inner| {
            let named: serde_json::Map<String, Value> =
                inner.named_tokens().map(|(name, token)| (name.to_owned(), Value::from(token))).collect();
            written(&json!({
                "bos_token": inner.bos_token(),
                "eos_token": inner.eos_token(),
                "pad_token": inner.pad_token(),
                "unk_token": inner.unk_token(),
                "mask_token": inner.mask_token(),
                "sep_token": inner.named_token("sep_token"),
                "cls_token": inner.named_token("cls_token"),
                "named_tokens": named,
                "padding_side": inner.field("padding_side"),
                "model_max_length": inner.field("model_max_length"),
                "special_ids": inner.special_ids(),
                "eos_token_ids": inner.eos_token_ids(),
                "chat_template": inner.chat_template(),
            }))
        })
    }

    /// Every token with its id, in the order of the ids.
    fn vocabulary(&self, py: Python<'_>) -> Vec<(String, u32)> {
        self.with(py, AutoTokenizer::vocabulary)
    }

    /// Names the token of padding.
    fn set_pad_token(&self, py: Python<'_>, token: &str) -> PyResult<()> {
        self.change(py, |inner| inner.set_pad_token(token)).map_err(raise)
    }

    /// Says on which side rows are padded, for who reads the saved files.
    fn set_padding_side(&self, py: Python<'_>, side: &str) {
        self.change(py, |inner| inner.set_field("padding_side", side.into()));
    }

    /// Says what a token means.
    fn describe_token(&self, py: Python<'_>, id: u32, description: &str) {
        self.change(py, |inner| inner.describe(id, description));
    }

    /// Sets the chat template.
    fn set_chat_template(&self, py: Python<'_>, source: &str) {
        self.change(py, |inner| inner.set_chat_template(source));
    }

    /// The text of a conversation.
    fn apply_chat_template(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        add_generation_prompt: bool,
        tools: Option<&str>,
        variables: &str,
    ) -> PyResult<String> {
        let Value::Array(messages) = value(messages)? else {
            return Err(argument("conversation", "a list of messages", "something else"));
        };
        let mut options = ChatOptions::default();
        options.add_generation_prompt = add_generation_prompt;
        options.tools = tools.map(|tools| parsed("tools", tools)).transpose()?;
        options.variables = parsed("the variables of the template", variables)?;
        self.with(py, |inner| inner.apply_chat_template(&messages, &options)).map_err(raise)
    }
}
