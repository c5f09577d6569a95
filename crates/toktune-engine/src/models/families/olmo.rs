//! OLMo: Llama with layer norms that have no weights, and with queries, keys and values within a limit.

use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, LLAMA_STACK};
use crate::models::spec::{ModelSpec, NormKind, NormSpec};

pub(super) const OLMO: Family = Family {
    name: "OLMo",
    model_types: &["olmo"],
    architecture: "OlmoForCausalLM",
    examples: &["allenai/OLMo-1B-hf", "allenai/OLMo-1.7-7B-hf"],
    gguf: Some(GgufFamily { architecture: "olmo", interleaves: true }),
    columns: false,
    spec,
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, LLAMA_STACK)?;
    decoder::biases(config, &mut spec)?;
    let of = &mut spec.stack;
    of.mlp.bias = false;
    // the class has no key for it
    of.norm = NormSpec { kind: NormKind::Layer { bias: false }, bare: true, ..NormSpec::layer(1e-5) };
    of.attention.limit = decoder::limit(config, "clip_qkv")?;
    Ok(spec)
}
