//! OLMoE: experts in every layer, norms of all queries and of all keys before the branches that Llama has.

use super::qwen::HEAD_NORMS;
use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{EXPERTS, LLAMA_MODEL, LLAMA_STACK, StackNames};
use crate::models::spec::{ExpertsSpec, ModelSpec, NormSpec, QkNorm, Routing};

pub(super) const OLMOE: Family = Family {
    name: "OLMoE",
    model_types: &["olmoe"],
    architecture: "OlmoeForCausalLM",
    examples: &["allenai/OLMoE-1B-7B-0924", "allenai/OLMoE-1B-7B-0924-Instruct"],
    // llama.cpp stores the experts of a layer as one tensor, which is not read
    gguf: None,
    columns: false,
    spec,
};

const STACK: StackNames = StackNames { attention: HEAD_NORMS, experts: Some(EXPERTS), ..LLAMA_STACK };

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK)?;
    decoder::biases(config, &mut spec)?;
    let of = &mut spec.stack;
    of.mlp.bias = false;
    of.norm = NormSpec::rms(config.optional_number("rms_norm_eps")?.unwrap_or(1e-5));
    of.attention.qk_norm = QkNorm::Width;
    of.attention.limit = decoder::limit(config, "clip_qkv")?;
    let experts = experts(config, of.mlp.inner, 8)?;
    of.layers.iter_mut().for_each(|layer| layer.experts = Some(experts));
    Ok(spec)
}

/// Experts of the width `inner`, of which a row takes `chosen` unless the configuration says otherwise.
pub(super) fn experts(config: &ModelConfig, inner: usize, chosen: usize) -> Result<ExpertsSpec> {
    decoder::no_router_loss(config)?;
    let chosen = config.optional_size("num_experts_per_tok")?.unwrap_or(chosen);
    let routing = Routing::softmax(chosen, config.flag("norm_topk_prob", false)?);
    let count = decoder::size_of(config, &["num_experts", "num_local_experts"])?;
    Ok(ExpertsSpec::new(count, inner, routing))
}
