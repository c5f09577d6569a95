//! GPT-OSS: sinks in the attention, a window in every other layer, experts with biases behind a gate that is kept within a limit.

use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{EXPERTS, ExpertNames, LLAMA_MODEL, LLAMA_STACK, StackNames};
use crate::models::rope::{RopeSpec, RopeVariant};
use crate::models::spec::{ExpertLayout, ExpertsSpec, ModelSpec, NormSpec, Routing};
use crate::spec::Activation;

pub(super) const GPT_OSS: Family = Family {
    name: "GPT-OSS",
    model_types: &["gpt_oss"],
    architecture: "GptOssForCausalLM",
    examples: &["openai/gpt-oss-20b", "openai/gpt-oss-120b"],
    gguf: None,
    columns: false,
    spec,
};

const STACK: StackNames = StackNames {
    sinks: Some("self_attn.sinks"),
    experts: Some(ExpertNames {
        router: "mlp.router",
        gate: "",
        up: "mlp.experts.gate_up_proj",
        down: "mlp.experts.down_proj",
        ..EXPERTS
    }),
    ..LLAMA_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK)?;
    decoder::head_dim_is_said(config)?;
    decoder::no_router_loss(config)?;
    let of = &mut spec.stack;
    let bias = config.flag("attention_bias", true)?;
    (of.attention.qkv_bias, of.attention.output_bias) = (bias, bias);
    of.norm = NormSpec::rms(config.optional_number("rms_norm_eps")?.unwrap_or(1e-5));
    of.ropes = vec![rope(config, of.attention.head_dim)?];
    // whatever the configuration calls it
    of.mlp.activation = Activation::ClampedSwish {
        slope: config.optional_number("swiglu_alpha")?.unwrap_or(1.702) as f32,
        limit: positive(config, "swiglu_limit", 7.0)?,
    };
    let window = match config.has("sliding_window") {
        true => config.optional_size("sliding_window")?,
        false => Some(128),
    };
    of.layers = decoder::layer_types(config, window, |layer| layer.is_multiple_of(2), |_| Some(0))?;
    let chosen = config.optional_size("num_experts_per_tok")?.unwrap_or(4);
    let count = config.optional_size("num_local_experts")?.unwrap_or(128);
    let experts = ExpertsSpec {
        layout: ExpertLayout::Columns { interleaved: true },
        bias: true,
        router_bias: true,
        ..ExpertsSpec::new(count, of.mlp.inner, Routing::softmax(chosen, true))
    };
    of.layers.iter_mut().for_each(|layer| layer.experts = Some(experts));
    Ok(spec)
}

fn positive(config: &ModelConfig, key: &str, default: f64) -> Result<f32> {
    match config.optional_number(key)?.unwrap_or(default) {
        value if value > 0.0 => Ok(value as f32),
        value => Err(config.error(key, format!("expected more than 0, found {value}"))),
    }
}

/// The rotation; what the class takes where the configuration says nothing of one is that of the published models.
fn rope(config: &ModelConfig, head_dim: usize) -> Result<RopeSpec> {
    let mut rope = decoder::rope_from(config, head_dim, 150_000.0)?;
    if decoder::rope_section(config).is_none() {
        rope.variant = RopeVariant::Yarn {
            factor: 32.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original: 4096.0,
            truncate: false,
            attention_factor: 0.1 * 32f64.ln() + 1.0,
        };
    }
    Ok(rope)
}
