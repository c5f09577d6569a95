//! Mistral: Llama with a sliding window in every layer.

use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, LLAMA_STACK};
use crate::models::spec::ModelSpec;

pub(super) const MISTRAL: Family = Family {
    name: "Mistral",
    model_types: &["mistral"],
    architecture: "MistralForCausalLM",
    examples: &["mistralai/Mistral-7B-v0.3"],
    // llama.cpp converts it as a Llama
    gguf: None,
    columns: false,
    spec,
};

/// The window where the configuration says nothing of it; `null` says that there is none.
const WINDOW: usize = 4096;

pub(super) fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, LLAMA_STACK)?;
    decoder::one_window(config, &mut spec, Some(WINDOW))?;
    Ok(spec)
}
