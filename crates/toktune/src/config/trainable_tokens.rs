//! `TrainableTokensConfig`.

use super::target_modules::TargetModules;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// The name of the configuration's file in an adapter's folder.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// The configuration of a Trainable Tokens adapter, with PEFT's field names.
///
/// Fields of `adapter_config.json` that are not known here are kept and written back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainableTokensConfig {
    /// The tokens to train. Their order is the order of the stored rows; none may repeat.
    #[serde(default)]
    pub token_indices: Vec<u32>,
    /// The embeddings or heads they belong to; `None` means the model's input embedding.
    #[serde(default)]
    pub target_modules: Option<TargetModules>,
    /// Whether rows start as copies of the existing ones (else standard normal, as in PEFT).
    #[serde(default = "yes")]
    pub init_weights: bool,
    /// The model that the adapter was trained on.
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
    /// Whether the adapter was saved for inference.
    #[serde(default)]
    pub inference_mode: bool,
    /// PEFT's `task_type`.
    #[serde(default)]
    pub task_type: Option<String>,
    /// Everything else in the file.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

fn yes() -> bool {
    true
}

impl Default for TrainableTokensConfig {
    fn default() -> Self {
        Self {
            token_indices: Vec::new(),
            target_modules: None,
            init_weights: true,
            base_model_name_or_path: None,
            inference_mode: false,
            task_type: Some("CAUSAL_LM".into()),
            other: Map::new(),
        }
    }
}

/// PEFT's name for the method.
const PEFT_TYPE: &str = "TRAINABLE_TOKENS";

impl TrainableTokensConfig {
    /// The configuration for `token_indices` of the model's input embedding.
    pub fn new(token_indices: impl Into<Vec<u32>>) -> Self {
        Self { token_indices: token_indices.into(), ..Self::default() }
    }

    /// Checks the tokens against a matrix of `rows` rows.
    ///
    /// # Errors
    /// There is no token, one is past the matrix, or one is there twice.
    pub fn check_tokens(&self, rows: usize) -> Result<()> {
        if self.token_indices.is_empty() {
            return Err(Error::NoTokens);
        }
        if let Some(&id) = self.token_indices.iter().find(|&&id| id as usize >= rows) {
            return Err(Error::TokenOutOfRange { id: id as i64, rows });
        }
        let mut sorted = self.token_indices.clone();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::DuplicateToken { id: pair[0] }),
            None => Ok(()),
        }
    }

    /// Reads `adapter_config.json` of an adapter's folder.
    ///
    /// # Errors
    /// It cannot be read, is no such configuration, or is of another method.
    pub fn from_pretrained(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let problem =
            |key: &str, problem: String| Error::Config { path: path.clone(), key: key.into(), problem };
        let value: Value = serde_json::from_str(&text).map_err(|e| problem("(top level)", e.to_string()))?;
        match value.get("peft_type").and_then(Value::as_str) {
            Some(PEFT_TYPE) => {}
            found => {
                let found = found.unwrap_or("nothing");
                return Err(problem("peft_type", format!("expected {PEFT_TYPE}, found {found}")));
            }
        }
        let mut config: Self =
            serde_json::from_value(value).map_err(|e| problem("(fields)", e.to_string()))?;
        config.other.remove("peft_type");
        Ok(config)
    }

    /// The JSON object as PEFT writes it: keys sorted, `peft_type` among them.
    ///
    /// # Errors
    /// Never for a configuration that was read or built; serialisation of the kept fields could fail in principle.
    pub fn to_json(&self) -> Result<String> {
        let value = serde_json::to_value(self).map_err(|e| Error::Serialise(e.to_string()))?;
        let Value::Object(fields) = value else { return Err(Error::Serialise("no object".into())) };
        let mut sorted: std::collections::BTreeMap<String, Value> = fields.into_iter().collect();
        sorted.insert("peft_type".into(), PEFT_TYPE.into());
        for key in ["auto_mapping", "revision"] {
            sorted.entry(key.into()).or_insert(Value::Null);
        }
        serde_json::to_string_pretty(&sorted).map_err(|e| Error::Serialise(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_checked() {
        let check = |tokens: &[u32]| TrainableTokensConfig::new(tokens).check_tokens(10);
        assert!(check(&[9, 0, 3]).is_ok());
        assert!(matches!(check(&[]), Err(Error::NoTokens)));
        assert!(matches!(check(&[3, 10]), Err(Error::TokenOutOfRange { id: 10, rows: 10 })));
        assert!(matches!(check(&[3, 1, 3]), Err(Error::DuplicateToken { id: 3 })));
    }

    #[test]
    fn a_file_round_trips_with_fields_nobody_knows() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = r#"{"peft_type": "TRAINABLE_TOKENS", "token_indices": [3, 1], "target_modules": ["embed_tokens"],
            "init_weights": false, "base_model_name_or_path": "m", "revision": "r", "auto_mapping": null, "from_the_future": {"a": [1]}}"#;
        std::fs::write(folder.path().join(CONFIG_FILE), text).expect("written");
        let config = TrainableTokensConfig::from_pretrained(folder.path()).expect("valid");
        assert_eq!(config.token_indices, [3, 1]);
        assert_eq!(config.target_modules, Some(TargetModules::Names(vec!["embed_tokens".into()])));
        std::fs::write(folder.path().join(CONFIG_FILE), config.to_json().expect("json")).expect("written");
        assert_eq!(TrainableTokensConfig::from_pretrained(folder.path()).expect("valid"), config);
        let json = config.to_json().expect("json");
        assert!(json.contains("from_the_future") && json.contains("TRAINABLE_TOKENS"), "{json}");
    }

    #[test]
    fn another_method_and_broken_files_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(matches!(TrainableTokensConfig::from_pretrained(folder.path()), Err(Error::Io { .. })));
        for text in
            ["{", r#"{"peft_type": "IA3"}"#, r#"{"peft_type": "TRAINABLE_TOKENS", "token_indices": [-1]}"#]
        {
            std::fs::write(folder.path().join(CONFIG_FILE), text).expect("written");
            let refused = TrainableTokensConfig::from_pretrained(folder.path());
            assert!(matches!(refused, Err(Error::Config { .. })), "{text}");
        }
    }
}
