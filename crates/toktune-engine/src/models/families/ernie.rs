//! ERNIE 4.5: Llama with neighbours that rotate together, and with experts behind its first layers, all rows passing through some.

use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{EXPERTS, ExpertNames, LLAMA_MODEL, LLAMA_STACK, SHARED_EXPERTS, StackNames};
use crate::models::spec::{ExpertsSpec, ModelSpec, NormSpec, Normalised, Routing};
use crate::spec::Pairing;

pub(super) const ERNIE4_5: Family = Family {
    name: "ERNIE 4.5",
    model_types: &["ernie4_5"],
    architecture: "Ernie4_5ForCausalLM",
    examples: &["baidu/ERNIE-4.5-0.3B-PT"],
    gguf: None,
    columns: false,
    spec: dense,
};

pub(super) const ERNIE4_5_MOE: Family = Family {
    name: "ERNIE 4.5 MoE",
    model_types: &["ernie4_5_moe"],
    architecture: "Ernie4_5_MoeForCausalLM",
    examples: &["baidu/ERNIE-4.5-21B-A3B-PT"],
    gguf: None,
    columns: false,
    spec: mixture,
};

const MIXTURE: StackNames = StackNames {
    experts: Some(ExpertNames {
        correction: Some("mlp.moe_statics.e_score_correction_bias"),
        shared: Some(SHARED_EXPERTS),
        ..EXPERTS
    }),
    ..LLAMA_STACK
};

fn read(config: &ModelConfig, names: StackNames) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, names)?;
    spec.tied = config.flag("tie_word_embeddings", true)?;
    let of = &mut spec.stack;
    let bias = config.flag("use_bias", false)?;
    (of.attention.qkv_bias, of.attention.output_bias, of.mlp.bias) = (bias, bias, bias);
    of.attention.pairing = Pairing::Neighbours;
    of.norm = NormSpec::rms(config.optional_number("rms_norm_eps")?.unwrap_or(1e-5));
    of.ropes = vec![decoder::rope_from(config, of.attention.head_dim, 500_000.0)?];
    Ok(spec)
}

fn dense(config: &ModelConfig) -> Result<ModelSpec> {
    decoder::head_dim_is_said(config)?;
    read(config, LLAMA_STACK)
}

fn mixture(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = read(config, MIXTURE)?;
    decoder::no_router_loss(config)?;
    spec.head.bias = spec.stack.mlp.bias;
    let inner = config.size("moe_intermediate_size")?;
    let floor = config.optional_number("moe_norm_min")?.unwrap_or(1e-12) as f32;
    let chosen = config.optional_size("moe_k")?.unwrap_or(6);
    let routing = Routing { normalised: Normalised::SumAtLeast { floor }, ..Routing::softmax(chosen, true) };
    let shared = match config.optional_number("moe_num_shared_experts")?.unwrap_or(2.0) as usize {
        0 => None,
        count => Some(inner.saturating_mul(count)),
    };
    let count = config.optional_size("moe_num_experts")?.unwrap_or(64);
    let experts = ExpertsSpec { shared, ..ExpertsSpec::new(count, inner, routing) };
    let number = |key: &str, default: f64| config.optional_number(key).map(|found| found.unwrap_or(default));
    let interval = config.optional_size("moe_layer_interval")?.unwrap_or(1);
    let first = number("moe_layer_start_index", 1.0)?;
    let last = match number("moe_layer_end_index", -1.0)? {
        -1.0 => f64::INFINITY,
        last => last,
    };
    for (i, layer) in spec.stack.layers.iter_mut().enumerate() {
        let within = (i as f64) >= first && (i as f64) <= last;
        layer.experts = (within && (i + 1).is_multiple_of(interval)).then_some(experts);
    }
    Ok(spec)
}
