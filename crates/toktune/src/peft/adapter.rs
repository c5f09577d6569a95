//! One adapter: its name, its configuration and its trained values.

use super::layer::TrainableTokensLayer;
use super::lora::LoraLayer;
use crate::config::PeftConfig;

/// The name that an adapter has when none is given.
pub const DEFAULT_ADAPTER: &str = "default";

/// The name that means the model without an adapter, for sequences of a mixed batch.
pub const BASE_ADAPTER: &str = "__base__";

/// An adapter of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    pub(super) name: String,
    pub(super) config: PeftConfig,
    pub(super) tokens: Vec<TrainableTokensLayer>,
    pub(super) lora: Vec<LoraLayer>,
}

impl Adapter {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its configuration, with the targets filled in.
    pub fn config(&self) -> &PeftConfig {
        &self.config
    }

    /// The token matrices with trained rows.
    pub fn layers(&self) -> &[TrainableTokensLayer] {
        &self.tokens
    }

    /// The linear layers with an update.
    pub fn lora_layers(&self) -> &[LoraLayer] {
        &self.lora
    }

    /// The trained rows of `layer`, be it by a matrix that it shares.
    pub fn rows_on(&self, layer: &str) -> Option<&TrainableTokensLayer> {
        self.tokens.iter().find(|of| of.modules().any(|module| module == layer))
    }

    /// Trainable numbers.
    pub fn num_parameters(&self) -> u64 {
        let rows: usize = self.tokens.iter().map(|layer| layer.rows().values.len()).sum();
        let lora: usize = self.lora.iter().map(|layer| layer.a.len() + layer.b.len()).sum();
        (rows + lora) as u64
    }
}

/// The tokens that two adapters both replace in a matrix, with the layer that shows it.
pub(super) fn overlap(one: &Adapter, other: &Adapter) -> Option<(String, Vec<u32>)> {
    one.tokens.iter().find_map(|layer| {
        layer.modules().find_map(|module| {
            let rows = other.rows_on(module)?.rows();
            let both: Vec<u32> =
                layer.rows().indices().iter().copied().filter(|id| rows.position(*id).is_some()).collect();
            (!both.is_empty()).then(|| (module.to_string(), both))
        })
    })
}
