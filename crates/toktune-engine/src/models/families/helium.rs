//! Helium: Llama with neighbours that rotate together.

use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, LLAMA_STACK};
use crate::models::spec::{ModelSpec, NormSpec};
use crate::spec::Pairing;

pub(super) const HELIUM: Family = Family {
    name: "Helium",
    model_types: &["helium"],
    architecture: "HeliumForCausalLM",
    examples: &["kyutai/helium-1-2b"],
    gguf: None,
    columns: false,
    spec,
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, LLAMA_STACK)?;
    decoder::head_dim_is_said(config)?;
    let of = &mut spec.stack;
    of.attention.qkv_bias = config.flag("attention_bias", false)?;
    of.mlp.bias = config.flag("mlp_bias", false)?;
    of.attention.pairing = Pairing::Neighbours;
    of.norm = NormSpec::rms(config.optional_number("rms_norm_eps")?.unwrap_or(1e-8));
    of.ropes = vec![decoder::rope_from(config, of.attention.head_dim, 100_000.0)?];
    Ok(spec)
}
