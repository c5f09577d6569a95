//! Gemma, and what Gemma 2 and 3 have from it: scaled embedding, norms stored minus one.

use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{HalfNorms, LLAMA_MODEL, LLAMA_STACK, MlpNames, ModelNames, StackNames};
use crate::models::spec::ModelSpec;
use crate::spec::Activation;

pub(super) const GEMMA: Family = Family {
    name: "Gemma",
    model_types: &["gemma"],
    architecture: "GemmaForCausalLM",
    examples: &["google/gemma-2b", "google/gemma-7b-it"],
    gguf: GgufFamily::plain("gemma"),
    columns: false,
    spec,
};

/// The norms around an attention since Gemma 2.
pub(super) const ATTENTION_NORMS: HalfNorms =
    HalfNorms { before: Some("input_layernorm"), after: Some("post_attention_layernorm"), sum: None };

/// The MLP between two norms since Gemma 2.
pub(super) const SANDWICHED_MLP: MlpNames = MlpNames {
    norms: HalfNorms {
        before: Some("pre_feedforward_layernorm"),
        after: Some("post_feedforward_layernorm"),
        sum: None,
    },
    ..LLAMA_STACK.mlp
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = read(config, LLAMA_MODEL, LLAMA_STACK)?;
    let bias = config.flag("attention_bias", false)?;
    (spec.stack.attention.qkv_bias, spec.stack.attention.output_bias) = (bias, bias);
    Ok(spec)
}

/// What all of them share. Scores are scaled by `query_pre_attn_scalar` where there is one.
pub(super) fn read(config: &ModelConfig, names: ModelNames, stack: StackNames) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, names, stack)?;
    spec.tied = config.flag("tie_word_embeddings", true)?;
    let of = &mut spec.stack;
    of.embedding.scale = (of.hidden_size as f32).sqrt();
    of.norm.plus_one = true;
    of.mlp.activation = match config.model_type() {
        // early configurations say `gelu` and mean the approximation
        "gemma" => match decoder::activation(config, "hidden_act", Activation::GeluTanh)? {
            Activation::Gelu => Activation::GeluTanh,
            other => other,
        },
        _ => decoder::activation(config, "hidden_activation", Activation::GeluTanh)?,
    };
    of.attention.head_dim = config.optional_size("head_dim")?.unwrap_or(256);
    let scalar = match config.optional_number("query_pre_attn_scalar")? {
        Some(scalar) => scalar as f32,
        None if config.model_type() == "gemma" => of.attention.head_dim as f32,
        None => 256.0,
    };
    of.attention.scale = scalar.powf(-0.5);
    of.ropes = vec![decoder::rope(config, of.attention.head_dim)?];
    Ok(spec)
}
