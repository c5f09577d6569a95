//! Solar Open: Llama with the experts of GLM 4 MoE in every layer.

use super::glm::{self, CORRECTED_EXPERTS};
use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, LLAMA_STACK, StackNames};
use crate::models::spec::{ModelSpec, NormSpec};

pub(super) const SOLAR_OPEN: Family = Family {
    name: "Solar Open",
    model_types: &["solar_open"],
    architecture: "SolarOpenForCausalLM",
    examples: &["upstage/Solar-Open-100B"],
    gguf: None,
    columns: false,
    spec,
};

const STACK: StackNames = StackNames { experts: Some(CORRECTED_EXPERTS), ..LLAMA_STACK };

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    decoder::head_dim_is_said(config)?;
    decoder::no_router_loss(config)?;
    let experts = glm::corrected_experts(config)?;
    // no layer has an MLP of its own, so that the class has no key for its width
    let mut object = config.object().clone();
    object.insert("intermediate_size".into(), experts.inner.into());
    let config = &ModelConfig::from_object(config.path(), object);
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK)?;
    let of = &mut spec.stack;
    of.attention.qkv_bias = config.flag("attention_bias", false)?;
    of.norm = NormSpec::rms(config.optional_number("rms_norm_eps")?.unwrap_or(1e-5));
    of.ropes = vec![decoder::rope_from(config, of.attention.head_dim, 1e6)?];
    of.layers.iter_mut().for_each(|layer| layer.experts = Some(experts));
    Ok(spec)
}
