//! Llama and what shares its `model_type`: Llama 2, 3, SmolLM2, TinyLlama.

use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, LLAMA_STACK};
use crate::models::spec::ModelSpec;

pub(super) const LLAMA: Family = Family {
    name: "Llama",
    model_types: &["llama"],
    architecture: "LlamaForCausalLM",
    examples: &[
        "meta-llama/Llama-3.2-1B",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    ],
    gguf: Some(GgufFamily { architecture: "llama", interleaves: true }),
    columns: false,
    spec,
};

pub(super) fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, LLAMA_STACK)?;
    decoder::biases(config, &mut spec)?;
    Ok(spec)
}
