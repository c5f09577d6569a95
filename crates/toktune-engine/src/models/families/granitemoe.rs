//! Granite with experts in every layer, all of a layer in one tensor.

use super::{Family, decoder, granite};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{EXPERTS, ExpertNames, LLAMA_STACK, StackNames};
use crate::models::spec::{ExpertLayout, ExpertsSpec, ModelSpec, Routing};

pub(super) const GRANITE_MOE: Family = Family {
    name: "Granite MoE",
    model_types: &["granitemoe"],
    architecture: "GraniteMoeForCausalLM",
    examples: &["ibm-granite/granite-3.1-1b-a400m-instruct", "ibm-granite/granite-3.1-3b-a800m-instruct"],
    // llama.cpp stores the experts of a layer as one tensor, which is not read
    gguf: None,
    columns: false,
    spec,
};

const STACK: StackNames = StackNames {
    experts: Some(ExpertNames {
        router: "block_sparse_moe.router.layer",
        gate: "",
        up: "block_sparse_moe.input_linear",
        down: "block_sparse_moe.output_linear",
        ..EXPERTS
    }),
    ..LLAMA_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = granite::read(config, STACK)?;
    decoder::no_router_loss(config)?;
    let chosen = config.optional_size("num_experts_per_tok")?.unwrap_or(2);
    let count = config.optional_size("num_local_experts")?.unwrap_or(8);
    let experts = ExpertsSpec {
        layout: ExpertLayout::Rows,
        ..ExpertsSpec::new(count, spec.stack.mlp.inner, Routing::softmax(chosen, true))
    };
    spec.stack.layers.iter_mut().for_each(|layer| layer.experts = Some(experts));
    Ok(spec)
}
