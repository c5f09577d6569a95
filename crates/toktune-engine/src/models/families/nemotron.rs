//! Nemotron: layer norms whose weights are stored less one, half of each head turns, an MLP without a gate.

use super::arcee::UNGATED;
use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::LLAMA_MODEL;
use crate::models::spec::{ModelSpec, NormSpec};
use crate::spec::Activation;

pub(super) const NEMOTRON: Family = Family {
    name: "Nemotron",
    model_types: &["nemotron"],
    architecture: "NemotronForCausalLM",
    examples: &["nvidia/Minitron-4B-Base", "nvidia/Nemotron-Mini-4B-Instruct"],
    gguf: GgufFamily::plain("nemotron"),
    columns: false,
    spec,
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, UNGATED)?;
    decoder::biases(config, &mut spec)?;
    let of = &mut spec.stack;
    of.mlp.activation = decoder::activation(config, "hidden_act", Activation::SquaredRelu)?;
    let eps = config.optional_number("norm_eps")?.unwrap_or(1e-5);
    of.norm = NormSpec { plus_one: true, ..NormSpec::layer(eps) };
    of.ropes = vec![decoder::partial_rope(config, of.attention.head_dim, 0.5)?];
    Ok(spec)
}
