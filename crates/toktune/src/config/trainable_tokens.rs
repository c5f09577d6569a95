//! `TrainableTokensConfig`.

use super::common::CommonConfig;
use super::target_modules::TargetModules;
use crate::config::error::Result;
use serde::{Deserialize, Serialize};

/// The configuration of a Trainable Tokens adapter, with PEFT's field names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
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
    /// What every method has.
    #[serde(flatten)]
    pub common: CommonConfig,
}

pub(super) fn yes() -> bool {
    true
}

impl Default for TrainableTokensConfig {
    fn default() -> Self {
        Self {
            token_indices: Vec::new(),
            target_modules: None,
            init_weights: true,
            common: CommonConfig::causal_lm(),
        }
    }
}

impl TrainableTokensConfig {
    /// The configuration for `token_indices` of the model's input embedding.
    pub fn new(token_indices: impl Into<Vec<u32>>) -> Self {
        Self { token_indices: token_indices.into(), ..Self::default() }
    }

    /// Checks the tokens against a matrix of `rows` rows.
    ///
    /// # Errors
    /// As [`check_tokens`](super::check_tokens).
    pub fn check_tokens(&self, rows: usize) -> Result<()> {
        super::check_tokens(&self.token_indices, rows)
    }
}
