//! Which tokens end a text: `eos_token`, and those that a model's folder or GGUF file names besides.
//!
//! A folder says it in `generation_config.json`, where transformers, vLLM and this crate look for it. It is read with the tokenizer and
//! written with it, so that an adapter's folder, a checkpoint's and a merged model's all have it in the same place.

use std::path::Path;

use serde_json::{Map, Value};

use crate::files::{self, field_error};
use crate::{AutoTokenizer, Result};

/// The file.
const FILE: &str = "generation_config.json";
/// Its field: an id or a list of ids.
const FIELD: &str = "eos_token_id";

impl AutoTokenizer {
    /// Every id that ends a generated text: `eos_token`, then what `generation_config.json` or the GGUF file adds, then what
    /// [`add_stop_ids`](Self::add_stop_ids) did.
    pub fn eos_token_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = Vec::new();
        for id in self.eos_token_id().into_iter().chain(self.stop_ids.iter().copied()) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// Says of further ids that they end a generated text, as the token that ends a turn of a conversation. Saving the tokenizer writes
    /// them into `generation_config.json`.
    pub fn add_stop_ids(&mut self, ids: &[u32]) {
        for id in ids {
            if !self.stop_ids.contains(id) {
                self.stop_ids.push(*id);
            }
        }
    }

    /// Writes what ends a text into the folder's `generation_config.json`, beside what is there. Nothing is written where `eos_token`
    /// or the file says it all.
    pub(super) fn save_stop_ids(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let file = files::read_object(&path)?;
        let mut ids = ids_in(&path, file.as_ref())?;
        let is_said = |id: &u32| ids.contains(id) || self.eos_token_id() == Some(*id);
        if self.stop_ids.iter().all(is_said) {
            return Ok(());
        }
        for id in self.eos_token_ids() {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        let mut config = file.unwrap_or_default();
        config.insert(FIELD.to_owned(), Value::from(ids));
        files::write_object(&path, config)
    }
}

/// The ids in the `generation_config.json` of a folder: a number or a list.
pub(super) fn read_stop_ids(dir: &Path) -> Result<Vec<u32>> {
    let path = dir.join(FILE);
    ids_in(&path, files::read_object(&path)?.as_ref())
}

fn ids_in(path: &Path, config: Option<&Map<String, Value>>) -> Result<Vec<u32>> {
    let wrong = |value: &Value| field_error(path, FIELD, value, "a token id or a list of token ids");
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong(value));
    Ok(match config.and_then(|config| config.get(FIELD)) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(ids)) => ids.iter().map(id).collect::<Result<_, _>>()?,
        Some(value) => vec![id(value)?],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn written(dir: &Path) -> Option<Value> {
        let text = std::fs::read_to_string(dir.join(FILE)).ok()?;
        Some(serde_json::from_str(&text).expect("JSON"))
    }

    #[test]
    fn what_ends_a_text_is_saved_beside_what_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut tokenizer = testing::sentence_piece("llama").build().expect("a tokenizer");
        tokenizer.save_pretrained(folder.path()).expect("saved");
        assert_eq!(written(folder.path()), None, "eos_token says it all");
        let turn = tokenizer.token_to_id("<turn>").expect("a token");
        tokenizer.add_stop_ids(&[turn, turn, 2]);
        assert_eq!(tokenizer.eos_token_ids(), [2, turn]);
        tokenizer.save_pretrained(folder.path()).expect("saved");
        assert_eq!(written(folder.path()), Some(serde_json::json!({"eos_token_id": [2, turn]})));
        let again = AutoTokenizer::from_pretrained(folder.path()).expect("read");
        assert_eq!(again.eos_token_ids(), [2, turn]);
        // a model's own settings stay, and its ids come first
        std::fs::write(folder.path().join(FILE), r#"{"eos_token_id": 7, "top_k": 64}"#).expect("written");
        again.save_pretrained(folder.path()).expect("saved");
        assert_eq!(
            written(folder.path()),
            Some(serde_json::json!({"eos_token_id": [7, 2, turn], "top_k": 64}))
        );
        std::fs::write(folder.path().join(FILE), r#"{"eos_token_id": "x"}"#).expect("written");
        let error = again.save_pretrained(folder.path()).expect_err("no id").to_string();
        assert!(error.contains(FILE) && error.contains("eos_token_id"), "{error}");
    }
}
