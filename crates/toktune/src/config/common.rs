//! What every adapter configuration has.

use super::{LoraConfig, TrainableTokenIndices, TrainableTokensConfig};
use crate::config::error::{ConfigError, Result};
use crate::weights::WeightsError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use toktune_engine::EngineError;

/// The name of the configuration's file in an adapter's folder.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// PEFT's `task_type` for causal language models, which a fresh configuration has.
pub(crate) const CAUSAL_LM: &str = "CAUSAL_LM";

/// The fields that PEFT gives every method.
///
/// Fields of `adapter_config.json` that are not known here are kept and written back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CommonConfig {
    /// The model that the adapter was trained on: a folder, a file or an id of the Hub.
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
    /// The revision of the base on the Hub.
    #[serde(default)]
    pub revision: Option<String>,
    /// Whether the adapter was saved for inference.
    #[serde(default)]
    pub inference_mode: bool,
    /// PEFT's `task_type`: `CAUSAL_LM`, `SEQ_2_SEQ_LM`, ….
    #[serde(default)]
    pub task_type: Option<String>,
    /// The classes of a base that the task type does not tell: `base_model_class` and `parent_library`.
    #[serde(default)]
    pub auto_mapping: Option<Value>,
    /// Of the random numbers that a fresh adapter starts from, which also depend on its name and on the layer's. PEFT takes
    /// them from torch's global generator (`set_seed`); it is no field of a file.
    #[serde(skip)]
    pub seed: u64,
    /// Everything else in the file.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl CommonConfig {
    /// For a causal language model, as PEFT's `task_type="CAUSAL_LM"`.
    pub(super) fn causal_lm() -> Self {
        Self { task_type: Some(CAUSAL_LM.into()), ..Self::default() }
    }
}

/// The configuration of an adapter, of whichever method.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for an adapter, and a box would stand in every match"
)]
pub enum PeftConfig {
    /// Trainable Tokens alone.
    TrainableTokens(TrainableTokensConfig),
    /// LoRA, with trainable tokens beside it or without.
    Lora(LoraConfig),
}

impl From<TrainableTokensConfig> for PeftConfig {
    fn from(config: TrainableTokensConfig) -> Self {
        Self::TrainableTokens(config)
    }
}

impl From<LoraConfig> for PeftConfig {
    fn from(config: LoraConfig) -> Self {
        Self::Lora(config)
    }
}

impl PeftConfig {
    /// PEFT's names of the methods that are read.
    pub const PEFT_TYPES: [&'static str; 2] = ["TRAINABLE_TOKENS", "LORA"];

    /// Reads `adapter_config.json` of an adapter's folder.
    ///
    /// # Errors
    /// It cannot be read, is no such configuration, or is of another method; a LoRA option is out of range or changes
    /// the computation in a way that is not there.
    pub fn from_pretrained(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&path).map_err(WeightsError::io(&path))?;
        let value = serde_json::from_str(&text).map_err(|e| ConfigError::Field {
            path: path.clone(),
            key: "(top level)".into(),
            problem: e.to_string(),
        })?;
        Self::from_value(&path, value)
    }

    /// Reads what `adapter_config.json` holds; `path` is what messages call it.
    ///
    /// # Errors
    /// It is no such configuration, or of another method; a LoRA option is out of range or changes the computation in a way that
    /// is not there.
    pub fn from_value(path: &Path, mut value: Value) -> Result<Self> {
        let problem =
            |key: &str, problem: String| ConfigError::Field { path: path.into(), key: key.into(), problem };
        let removed = value.as_object_mut().and_then(|fields| fields.remove("peft_type"));
        let fields = |e: serde_json::Error| problem("(fields)", e.to_string());
        match removed.as_ref().and_then(Value::as_str) {
            Some("TRAINABLE_TOKENS") => {
                serde_json::from_value(value).map(Self::TrainableTokens).map_err(fields)
            }
            Some("LORA") => {
                let config: LoraConfig = serde_json::from_value(value).map_err(fields)?;
                config.check().map_err(|error| error.in_file(path.into()))?;
                Ok(Self::Lora(config))
            }
            found => {
                let (found, expected) = (found.unwrap_or("nothing"), Self::PEFT_TYPES.join(" or "));
                Err(problem("peft_type", format!("expected {expected}, found {found}")))
            }
        }
    }

    /// PEFT's name of the method.
    pub fn peft_type(&self) -> &'static str {
        match self {
            Self::TrainableTokens(_) => Self::PEFT_TYPES[0],
            Self::Lora(_) => Self::PEFT_TYPES[1],
        }
    }

    /// The fields that every method has.
    pub fn common(&self) -> &CommonConfig {
        match self {
            Self::TrainableTokens(config) => &config.common,
            Self::Lora(config) => &config.common,
        }
    }

    /// The fields that every method has, to fill in what a file should say.
    pub fn common_mut(&mut self) -> &mut CommonConfig {
        match self {
            Self::TrainableTokens(config) => &mut config.common,
            Self::Lora(config) => &mut config.common,
        }
    }

    /// What of the configuration can be loaded and merged but not trained, as `(field, value)`.
    pub fn not_trained(&self) -> Option<(&'static str, String)> {
        match self {
            Self::TrainableTokens(_) => None,
            Self::Lora(config) => config.not_trained(),
        }
    }

    /// The tokens whose rows the adapter replaces, each once, in the order of the configuration.
    pub fn token_indices(&self) -> Vec<u32> {
        match self {
            Self::TrainableTokens(config) => config.token_indices.clone(),
            Self::Lora(config) => {
                let mut all: Vec<u32> = Vec::new();
                for id in config.trainable_token_indices.iter().flat_map(|of| of.all()) {
                    if !all.contains(&id) {
                        all.push(id);
                    }
                }
                all
            }
        }
    }

    /// The tokens whose rows the adapter replaces in `layer`, in the order of its stored rows; none for another layer.
    pub fn tokens_of(&self, layer: &str) -> &[u32] {
        match self {
            Self::TrainableTokens(config) => &config.token_indices,
            Self::Lora(config) => match &config.trainable_token_indices {
                None => &[],
                Some(TrainableTokenIndices::Tokens(tokens)) => tokens,
                Some(TrainableTokenIndices::ByLayer(layers)) => {
                    let of = layers.iter().find(|(ending, _)| layer.ends_with(ending.as_str()));
                    of.map_or(&[], |(_, tokens)| tokens)
                }
            },
        }
    }

    /// The JSON object as PEFT writes it: keys sorted, `peft_type` among them.
    ///
    /// # Errors
    /// A number that JSON cannot hold.
    pub fn to_json(&self) -> Result<String> {
        let value = match self {
            Self::TrainableTokens(config) => serde_json::to_value(config),
            Self::Lora(config) => serde_json::to_value(config),
        };
        let value = value.map_err(|e| WeightsError::Serialise(e.to_string()))?;
        let Value::Object(fields) = value else {
            return Err(WeightsError::Serialise("no object".into()).into());
        };
        let mut sorted: BTreeMap<String, Value> = fields.into_iter().collect();
        sorted.insert("peft_type".into(), self.peft_type().into());
        Ok(serde_json::to_string_pretty(&sorted).map_err(|e| WeightsError::Serialise(e.to_string()))?)
    }
}

/// Checks tokens against a matrix of `rows` rows.
///
/// # Errors
/// There is no token, one is past the matrix, or one is there twice.
pub fn check_tokens(tokens: &[u32], rows: usize) -> Result<()> {
    if tokens.is_empty() {
        return Err(ConfigError::NoTokens);
    }
    if let Some(&id) = tokens.iter().find(|&&id| id as usize >= rows) {
        return Err(EngineError::TokenOutOfRange { id: id as i64, rows }.into());
    }
    let mut sorted = tokens.to_vec();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(ConfigError::DuplicateToken { id: pair[0] }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TargetModules;

    fn folder_with(text: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(CONFIG_FILE), text).expect("written");
        folder
    }

    #[test]
    fn tokens_are_checked() {
        let check = |tokens: &[u32]| check_tokens(tokens, 10);
        assert!(check(&[9, 0, 3]).is_ok());
        assert!(matches!(check(&[]), Err(ConfigError::NoTokens)));
        assert!(matches!(
            check(&[3, 10]),
            Err(ConfigError::Engine(EngineError::TokenOutOfRange { id: 10, rows: 10 }))
        ));
        assert!(matches!(check(&[3, 1, 3]), Err(ConfigError::DuplicateToken { id: 3 })));
    }

    #[test]
    fn a_file_round_trips_with_fields_nobody_knows() {
        let folder = folder_with(
            r#"{"peft_type": "TRAINABLE_TOKENS", "token_indices": [3, 1], "target_modules": ["embed_tokens"],
            "init_weights": false, "base_model_name_or_path": "m", "revision": "r", "task_type": "CAUSAL_LM",
            "inference_mode": true, "auto_mapping": {"parent_library": "p"}, "from_the_future": {"a": [1]}}"#,
        );
        let config = PeftConfig::from_pretrained(folder.path()).expect("valid");
        let PeftConfig::TrainableTokens(tokens) = &config else { panic!("another method: {config:?}") };
        assert_eq!(tokens.token_indices, [3, 1]);
        assert_eq!(tokens.target_modules, Some(TargetModules::Names(vec!["embed_tokens".into()])));
        assert_eq!(tokens.common.revision.as_deref(), Some("r"));
        assert_eq!(tokens.common.task_type.as_deref(), Some("CAUSAL_LM"));
        assert!(tokens.common.inference_mode && tokens.common.auto_mapping.is_some());
        let json = config.to_json().expect("json");
        let again = folder_with(&json);
        assert_eq!(PeftConfig::from_pretrained(again.path()).expect("valid"), config);
        let stored = |folder: &tempfile::TempDir| -> Value {
            let text = std::fs::read(folder.path().join(CONFIG_FILE)).expect("a file");
            serde_json::from_slice(&text).expect("JSON")
        };
        assert_eq!(stored(&folder), stored(&again), "nothing is lost and nothing added");
    }

    #[test]
    fn the_method_is_found_by_its_name() {
        let folder =
            folder_with(r#"{"peft_type": "LORA", "trainable_token_indices": {"b": [2, 1], "a": [1, 5]}}"#);
        let config = PeftConfig::from_pretrained(folder.path()).expect("valid");
        assert_eq!((config.peft_type(), config.token_indices()), ("LORA", vec![1, 5, 2]));
        assert_eq!((config.tokens_of("m.a"), config.tokens_of("m.b")), (&[1, 5][..], &[2, 1][..]));
        let PeftConfig::Lora(lora) = config else { panic!("LoRA") };
        assert!(matches!(lora.trainable_token_indices, Some(TrainableTokenIndices::ByLayer(_))));
    }

    #[test]
    fn another_method_and_broken_files_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(matches!(
            PeftConfig::from_pretrained(folder.path()),
            Err(ConfigError::Weights(WeightsError::Io { .. }))
        ));
        for text in [
            "{",
            "[]",
            r#"{"peft_type": "IA3"}"#,
            r#"{"peft_type": "TRAINABLE_TOKENS", "token_indices": [-1]}"#,
            r#"{"peft_type": "LORA", "r": "eight"}"#,
        ] {
            let refused = PeftConfig::from_pretrained(folder_with(text).path());
            assert!(matches!(refused, Err(ConfigError::Field { .. })), "{text}");
        }
    }
}
