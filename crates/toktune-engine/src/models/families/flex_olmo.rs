//! FlexOlmo: OLMo 2 with the experts of OLMoE.

use super::olmo2::NORMED_AFTER;
use super::{Family, decoder, olmoe};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{EXPERTS, LLAMA_MODEL, StackNames};
use crate::models::spec::{ModelSpec, QkNorm};

pub(super) const FLEX_OLMO: Family = Family {
    name: "FlexOlmo",
    model_types: &["flex_olmo"],
    architecture: "FlexOlmoForCausalLM",
    examples: &["allenai/FlexOlmo-7x7B-1T"],
    gguf: None,
    columns: false,
    spec,
};

const STACK: StackNames = StackNames { experts: Some(EXPERTS), ..NORMED_AFTER };

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK)?;
    decoder::biases(config, &mut spec)?;
    let of = &mut spec.stack;
    of.mlp.bias = false;
    of.attention.qk_norm = QkNorm::Width;
    of.ropes = vec![decoder::rope_from(config, of.attention.head_dim, 500_000.0)?];
    let experts = olmoe::experts(config, of.mlp.inner, 5)?;
    of.layers.iter_mut().for_each(|layer| layer.experts = Some(experts));
    Ok(spec)
}
