//! Gemma 3, text only: scaled embedding, norms stored minus one, query and key norms, sliding and full layers with
//! rotary embeddings of their own.

use super::{Family, GgufFamily, decoder, gemma};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{AttentionNames, LLAMA_MODEL, LLAMA_STACK, StackNames};
use crate::models::rope::RopeSpec;
use crate::models::spec::ModelSpec;

pub(super) const GEMMA3: Family = Family {
    name: "Gemma 3",
    model_types: &["gemma3_text"],
    architecture: "Gemma3ForCausalLM",
    examples: &["google/gemma-3-270m", "google/gemma-3-1b-it"],
    gguf: GgufFamily::plain("gemma3"),
    columns: false,
    spec,
};

const STACK: StackNames = StackNames {
    attention: AttentionNames {
        q_norm: Some("self_attn.q_norm"),
        k_norm: Some("self_attn.k_norm"),
        norms: gemma::ATTENTION_NORMS,
        ..LLAMA_STACK.attention
    },
    mlp: gemma::SANDWICHED_MLP,
    ..LLAMA_STACK
};

/// Indices into the ropes below.
const FULL: usize = 0;
const SLIDING: usize = 1;

pub(super) fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    for key in ["final_logit_softcapping", "attn_logit_softcapping"] {
        if let Some(value) = config.get(key) {
            return Err(config.error(key, format!("found {value}; soft caps are not supported for Gemma 3")));
        }
    }
    if config.flag("use_bidirectional_attention", false)? {
        return Err(config.error("use_bidirectional_attention", "only causal attention is supported"));
    }
    let mut spec = gemma::read(config, LLAMA_MODEL, STACK)?;
    let bias = config.flag("attention_bias", false)?;
    (spec.stack.attention.qkv_bias, spec.stack.attention.output_bias) = (bias, bias);
    let window = config.optional_size("sliding_window")?.unwrap_or(4096);
    let pattern = match config.optional_size("sliding_window_pattern")? {
        Some(pattern) => pattern,
        None => config.optional_size("_sliding_window_pattern")?.unwrap_or(6),
    };
    let slides = |layer: usize| !(layer + 1).is_multiple_of(pattern);
    let rope = |slides: bool| Some(if slides { SLIDING } else { FULL });
    spec.stack.layers = decoder::layer_types(config, Some(window), slides, rope)?;
    spec.stack.ropes = ropes(config, spec.stack.attention.head_dim)?;
    Ok(spec)
}

/// One section for each kind of layer since transformers 5; before, `rope_theta` with `rope_scaling` for full layers and
/// `rope_local_base_freq` for sliding ones.
fn ropes(config: &ModelConfig, head_dim: usize) -> Result<Vec<RopeSpec>> {
    let of = |kind: &str, scaled: bool, (key, theta): (&str, f64)| {
        let section = decoder::rope_section_of(config, kind, scaled);
        let theta = config.optional_number(key)?.unwrap_or(theta);
        RopeSpec::read(config, Some(&section), Some(theta), head_dim)
    };
    Ok(vec![
        of("full_attention", true, ("rope_theta", 1_000_000.0))?,
        of("sliding_attention", false, ("rope_local_base_freq", 10_000.0))?,
    ])
}
