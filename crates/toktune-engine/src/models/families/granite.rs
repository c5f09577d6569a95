//! Granite: Llama with factors on the embedding, the scores, the residual stream and the logits.

use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, LLAMA_STACK, StackNames};
use crate::models::spec::ModelSpec;

pub(super) const GRANITE: Family = Family {
    name: "Granite",
    model_types: &["granite"],
    architecture: "GraniteForCausalLM",
    examples: &["ibm-granite/granite-3.3-2b-instruct"],
    gguf: Some(GgufFamily { architecture: "granite", interleaves: true }),
    columns: false,
    spec,
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    read(config, LLAMA_STACK)
}

/// A model with these factors, by the names of its stack.
pub(super) fn read(config: &ModelConfig, names: StackNames) -> Result<ModelSpec> {
    let factor = |key: &str| -> Result<f32> {
        match config.optional_number(key)?.unwrap_or(1.0) {
            value if value > 0.0 => Ok(value as f32),
            value => Err(config.error(key, format!("expected more than 0, found {value}"))),
        }
    };
    let mut spec = decoder::read(config, LLAMA_MODEL, names)?;
    decoder::biases(config, &mut spec)?;
    spec.stack.embedding.scale = factor("embedding_multiplier")?;
    spec.stack.attention.scale = factor("attention_multiplier")?;
    spec.stack.residual_scale = factor("residual_multiplier")?;
    spec.head.scale = 1.0 / factor("logits_scaling")?;
    Ok(spec)
}
