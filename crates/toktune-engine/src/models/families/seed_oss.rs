//! Seed-OSS: Llama with biases of queries, keys and values, and heads of a width of their own.

use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, LLAMA_STACK};
use crate::models::spec::ModelSpec;

pub(super) const SEED_OSS: Family = Family {
    name: "Seed-OSS",
    model_types: &["seed_oss"],
    architecture: "SeedOssForCausalLM",
    examples: &["ByteDance-Seed/Seed-OSS-36B-Instruct"],
    gguf: None,
    columns: false,
    spec,
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, LLAMA_STACK)?;
    decoder::head_dim_is_said(config)?;
    spec.stack.attention.qkv_bias = config.flag("attention_bias", true)?;
    spec.stack.attention.output_bias = config.flag("attention_out_bias", false)?;
    spec.stack.mlp.bias = config.flag("mlp_bias", false)?;
    Ok(spec)
}
