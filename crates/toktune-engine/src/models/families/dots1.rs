//! dots.llm1: the attention of Qwen 3 and the experts of DeepSeek 3.

use super::glm::{self, CORRECTED_EXPERTS};
use super::qwen::HEAD_NORMS;
use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, LLAMA_STACK, StackNames};
use crate::models::spec::ModelSpec;

pub(super) const DOTS1: Family = Family {
    name: "dots.llm1",
    model_types: &["dots1"],
    architecture: "Dots1ForCausalLM",
    examples: &["rednote-hilab/dots.llm1.inst"],
    // llama.cpp stores the experts of a layer as one tensor, which is not read
    gguf: None,
    columns: false,
    spec,
};

const STACK: StackNames =
    StackNames { attention: HEAD_NORMS, experts: Some(CORRECTED_EXPERTS), ..LLAMA_STACK };

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK)?;
    decoder::no_router_loss(config)?;
    let of = &mut spec.stack;
    let bias = config.flag("attention_bias", false)?;
    (of.attention.qkv_bias, of.attention.output_bias) = (bias, bias);
    let window = match config.has("sliding_window") {
        true => config.optional_size("sliding_window")?,
        false => Some(4096),
    };
    let first = config.optional_number("max_window_layers")?.unwrap_or(62.0) as usize;
    of.layers = decoder::layer_types(config, window, |layer| layer >= first, |_| Some(0))?;
    let dense = config.optional_number("first_k_dense_replace")?.unwrap_or(0.0) as usize;
    let experts = glm::corrected_experts(config)?;
    of.layers.iter_mut().skip(dense).for_each(|layer| layer.experts = Some(experts));
    Ok(spec)
}
