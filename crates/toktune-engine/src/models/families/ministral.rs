//! Ministral: Mistral with a window in some layers; the third version has none, and queries that grow with their position.

use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, LLAMA_STACK};
use crate::models::spec::{ModelSpec, TemperatureSpec};

pub(super) const MINISTRAL: Family = Family {
    name: "Ministral",
    model_types: &["ministral"],
    architecture: "MinistralForCausalLM",
    examples: &["mistralai/Ministral-8B-Instruct-2410"],
    gguf: None,
    columns: false,
    spec: spec_1,
};

pub(super) const MINISTRAL3: Family = Family {
    name: "Ministral 3",
    model_types: &["ministral3"],
    architecture: "Ministral3ForCausalLM",
    examples: &["mistralai/Ministral-3-3B-Instruct-2512", "mistralai/Ministral-3-8B-Instruct-2512"],
    gguf: None,
    columns: false,
    spec: spec_3,
};

fn spec_1(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, LLAMA_STACK)?;
    let window = match config.has("sliding_window") {
        true => config.optional_size("sliding_window")?,
        false => Some(4096),
    };
    spec.stack.layers = decoder::layer_types(config, window, |_| window.is_some(), |_| Some(0))?;
    Ok(spec)
}

pub(super) fn spec_3(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, LLAMA_STACK)?;
    decoder::head_dim_is_said(config)?;
    decoder::one_window(config, &mut spec, None)?;
    if config.get("rms_norm_eps").is_none() {
        spec.stack.norm.eps = 1e-5;
    }
    let Some(section) = decoder::rope_section(config) else {
        return Err(config.error("rope_parameters", "missing"));
    };
    let period = section.number("original_max_position_embeddings")?;
    if period <= 0.0 {
        let problem = format!("expected more than 0, found {period}");
        return Err(section.error("original_max_position_embeddings", problem));
    }
    let growth = section.number("llama_4_scaling_beta")?;
    spec.stack.temperature = Some(TemperatureSpec { growth, period, first: 0 });
    spec.stack.layers.iter_mut().for_each(|layer| layer.tempered = true);
    Ok(spec)
}
