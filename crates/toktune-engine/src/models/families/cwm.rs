//! CWM: Llama with a window in three layers of four.

use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, LLAMA_STACK};
use crate::models::spec::{ModelSpec, NormSpec};

pub(super) const CWM: Family = Family {
    name: "CWM",
    model_types: &["cwm"],
    architecture: "CwmForCausalLM",
    examples: &["facebook/cwm"],
    gguf: None,
    columns: false,
    spec,
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, LLAMA_STACK)?;
    decoder::head_dim_is_said(config)?;
    if decoder::rope_section(config).is_none() {
        return Err(config.error("rope_parameters", "missing"));
    }
    let of = &mut spec.stack;
    of.mlp.bias = config.flag("mlp_bias", false)?;
    of.norm = NormSpec::rms(config.optional_number("rms_norm_eps")?.unwrap_or(1e-5));
    of.ropes = vec![decoder::rope_from(config, of.attention.head_dim, 1e6)?];
    let window = match config.has("sliding_window") {
        true => config.optional_size("sliding_window")?,
        false => Some(8192),
    };
    let slides = |layer: usize| !layer.is_multiple_of(4);
    of.layers = decoder::layer_types(config, window, slides, |_| Some(0))?;
    Ok(spec)
}
