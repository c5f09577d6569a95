//! Gemma 2: Gemma with a norm before and after each half of a block, soft caps, and windows in every other layer.

use super::{Family, GgufFamily, decoder, gemma};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{AttentionNames, LLAMA_MODEL, LLAMA_STACK, StackNames};
use crate::models::spec::ModelSpec;

pub(super) const GEMMA2: Family = Family {
    name: "Gemma 2",
    model_types: &["gemma2"],
    architecture: "Gemma2ForCausalLM",
    examples: &["google/gemma-2-2b", "google/gemma-2-2b-it"],
    gguf: GgufFamily::plain("gemma2"),
    columns: false,
    spec,
};

const STACK: StackNames = StackNames {
    attention: AttentionNames { norms: gemma::ATTENTION_NORMS, ..LLAMA_STACK.attention },
    mlp: gemma::SANDWICHED_MLP,
    ..LLAMA_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = gemma::read(config, LLAMA_MODEL, STACK)?;
    let bias = config.flag("attention_bias", false)?;
    (spec.stack.attention.qkv_bias, spec.stack.attention.output_bias) = (bias, bias);
    spec.stack.attention.soft_cap = soft_cap(config, "attn_logit_softcapping", 50.0)?;
    spec.head.soft_cap = soft_cap(config, "final_logit_softcapping", 30.0)?;
    let window = config.optional_size("sliding_window")?.unwrap_or(4096);
    let slides = |layer: usize| layer.is_multiple_of(2);
    spec.stack.layers = decoder::layer_types(config, Some(window), slides, |_| Some(0))?;
    Ok(spec)
}

/// The cap under `key`: the default where it is missing, none where it is `null`.
pub(super) fn soft_cap(config: &ModelConfig, key: &str, default: f32) -> Result<Option<f32>> {
    if !config.has(key) {
        return Ok(Some(default));
    }
    match config.optional_number(key)? {
        Some(cap) if cap <= 0.0 => Err(config.error(key, format!("expected more than 0, found {cap}"))),
        cap => Ok(cap.map(|cap| cap as f32)),
    }
}
