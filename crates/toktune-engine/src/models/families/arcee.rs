//! Arcee: Llama with an MLP without a gate, whose activation is a squared ReLU.

use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, LLAMA_STACK, MlpNames, StackNames};
use crate::models::spec::ModelSpec;
use crate::spec::Activation;

pub(super) const ARCEE: Family = Family {
    name: "Arcee",
    model_types: &["arcee"],
    architecture: "ArceeForCausalLM",
    examples: &["arcee-ai/AFM-4.5B"],
    gguf: Some(GgufFamily { architecture: "arcee", interleaves: true }),
    columns: false,
    spec,
};

/// Llama's names without the gate.
pub(super) const UNGATED: StackNames =
    StackNames { mlp: MlpNames { gate: None, ..LLAMA_STACK.mlp }, ..LLAMA_STACK };

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, UNGATED)?;
    decoder::biases(config, &mut spec)?;
    spec.stack.mlp.activation = decoder::activation(config, "hidden_act", Activation::SquaredRelu)?;
    if config.get("rms_norm_eps").is_none() {
        spec.stack.norm.eps = 1e-5;
    }
    Ok(spec)
}
