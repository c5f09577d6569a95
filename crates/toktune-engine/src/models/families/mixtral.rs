//! Mixtral: Mistral with experts in every layer.

use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{EXPERTS, ExpertNames, LLAMA_MODEL, LLAMA_STACK, StackNames};
use crate::models::spec::{ExpertsSpec, ModelSpec, NormSpec, Routing};

pub(super) const MIXTRAL: Family = Family {
    name: "Mixtral",
    model_types: &["mixtral"],
    architecture: "MixtralForCausalLM",
    examples: &["mistralai/Mixtral-8x7B-v0.1", "mistralai/Mixtral-8x22B-v0.1"],
    // llama.cpp stores the experts of a layer as one tensor, which is not read
    gguf: None,
    columns: false,
    spec,
};

/// As checkpoints have them; in memory transformers 5 fuses them into `mlp.experts`.
pub(super) const STACK: StackNames = StackNames {
    experts: Some(ExpertNames {
        router: "block_sparse_moe.gate",
        gate: "block_sparse_moe.experts.{}.w1",
        up: "block_sparse_moe.experts.{}.w3",
        down: "block_sparse_moe.experts.{}.w2",
        ..EXPERTS
    }),
    ..LLAMA_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK)?;
    decoder::one_window(config, &mut spec, None)?;
    decoder::no_router_loss(config)?;
    let of = &mut spec.stack;
    of.norm = NormSpec::rms(config.optional_number("rms_norm_eps")?.unwrap_or(1e-5));
    of.ropes = vec![decoder::rope_from(config, of.attention.head_dim, 1e6)?];
    let chosen = config.optional_size("num_experts_per_tok")?.unwrap_or(2);
    let count = config.optional_size("num_local_experts")?.unwrap_or(8);
    let experts = ExpertsSpec::new(count, of.mlp.inner, Routing::softmax(chosen, true));
    of.layers.iter_mut().for_each(|layer| layer.experts = Some(experts));
    Ok(spec)
}
