//! Phi MoE: Mixtral with layer norms, biases, and a choice of two experts that weighs each among those nearly as good.

use super::mixtral::STACK;
use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::LLAMA_MODEL;
use crate::models::rope::{RopeSpec, RopeVariant};
use crate::models::spec::{ExpertScores, ExpertsSpec, ModelSpec, NormSpec, Routing};

pub(super) const PHIMOE: Family = Family {
    name: "Phi MoE",
    model_types: &["phimoe"],
    architecture: "PhimoeForCausalLM",
    examples: &["microsoft/Phi-3.5-MoE-instruct", "microsoft/Phi-mini-MoE-instruct"],
    // llama.cpp stores the experts of a layer as one tensor, which is not read
    gguf: None,
    columns: false,
    spec,
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK)?;
    decoder::one_window(config, &mut spec, None)?;
    decoder::no_router_loss(config)?;
    if let Some(noise) = config.optional_number("input_jitter_noise")?.filter(|noise| *noise > 0.0) {
        return Err(
            config.error("input_jitter_noise", format!("{noise} changes inputs by chance; expected 0"))
        );
    }
    let of = &mut spec.stack;
    of.norm = NormSpec::layer(config.optional_number("rms_norm_eps")?.unwrap_or(1e-5));
    let bias = config.flag("attention_bias", false)?;
    (of.attention.qkv_bias, of.attention.output_bias) = (bias, bias);
    of.ropes = vec![rope(config, of.attention.head_dim)?];
    spec.head.bias = config.flag("lm_head_bias", false)?;
    let chosen = config.optional_size("num_experts_per_tok")?.unwrap_or(2);
    if chosen != 2 {
        return Err(config.error("num_experts_per_tok", format!("expected 2, found {chosen}")));
    }
    let reach = 2.0 * config.optional_number("router_jitter_noise")?.unwrap_or(0.01) as f32;
    let routing = Routing { scores: ExpertScores::NearBest { reach }, ..Routing::softmax(chosen, false) };
    let count = config.optional_size("num_local_experts")?.unwrap_or(16);
    let experts = ExpertsSpec::new(count, of.mlp.inner, routing);
    of.layers.iter_mut().for_each(|layer| layer.experts = Some(experts));
    Ok(spec)
}

/// The rotation. Of `longrope` transformers takes the divisors for short sequences whatever the length, and the factor on cosines
/// and sines from keys that only this model has.
fn rope(config: &ModelConfig, head_dim: usize) -> Result<RopeSpec> {
    let mut rope = decoder::rope_from(config, head_dim, 1e6)?;
    let section = decoder::rope_section(config).filter(|_| rope.variant != RopeVariant::Default);
    let Some(section) = section else { return Ok(rope) };
    let (short, long) = (section.number("short_mscale")?, section.number("long_mscale")?);
    if short != long {
        let problem = format!(
            "{long} is not short_mscale {short}; other factors for longer sequences are not supported"
        );
        return Err(section.error("long_mscale", problem));
    }
    match &mut rope.variant {
        RopeVariant::Longrope { short_factor, long_factor, attention_factor, .. } => {
            long_factor.clone_from(short_factor);
            *attention_factor = short;
            Ok(rope)
        }
        _ => Err(section.error("rope_type", "expected default or longrope")),
    }
}
