//! Llama 4 (text): attention within runs of positions in three layers of four, which alone rotate and norm the heads; in the others
//! queries grow with their position. Experts weigh what they read, beside one that every row passes through.

use super::{Family, decoder, smollm3};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{
    AttentionNames, EXPERTS, ExpertNames, HalfNorms, LLAMA_MODEL, LLAMA_STACK, MlpNames, StackNames,
};
use crate::models::spec::{
    ExpertLayout, ExpertScores, ExpertsSpec, LayerSpec, ModelSpec, NormSpec, Normalised, QkNorm, Routing,
    TemperatureSpec,
};
use crate::spec::Pairing;
use serde_json::Value;

pub(super) const LLAMA4: Family = Family {
    name: "Llama 4",
    model_types: &["llama4_text"],
    architecture: "Llama4ForCausalLM",
    examples: &["meta-llama/Llama-4-Scout-17B-16E-Instruct", "meta-llama/Llama-4-Maverick-17B-128E-Instruct"],
    gguf: None,
    columns: false,
    spec,
};

const STACK: StackNames = StackNames {
    attention: AttentionNames {
        q_norm: Some("self_attn.qk_norm"),
        k_norm: Some("self_attn.qk_norm"),
        ..LLAMA_STACK.attention
    },
    mlp: MlpNames {
        gate: Some("feed_forward.gate_proj"),
        up: "feed_forward.up_proj",
        down: "feed_forward.down_proj",
        ..LLAMA_STACK.mlp
    },
    experts: Some(ExpertNames {
        router: "feed_forward.router",
        gate: "",
        up: "feed_forward.experts.gate_up_proj",
        down: "feed_forward.experts.down_proj",
        shared: Some(MlpNames {
            gate: Some("feed_forward.shared_expert.gate_proj"),
            up: "feed_forward.shared_expert.up_proj",
            down: "feed_forward.shared_expert.down_proj",
            norms: HalfNorms { before: None, after: None, sum: None },
        }),
        ..EXPERTS
    }),
    ..LLAMA_STACK
};

pub(super) fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK)?;
    decoder::head_dim_is_said(config)?;
    decoder::no_router_loss(config)?;
    let of = &mut spec.stack;
    let bias = config.flag("attention_bias", false)?;
    (of.attention.qkv_bias, of.attention.output_bias) = (bias, bias);
    of.attention.pairing = Pairing::Neighbours;
    of.attention.norm_rotated = true;
    of.attention.qk_norm = QkNorm::Bare;
    if !config.flag("use_qk_norm", true)? {
        (of.names.attention.q_norm, of.names.attention.k_norm) = (None, None);
    }
    of.norm = NormSpec::rms(config.optional_number("rms_norm_eps")?.unwrap_or(1e-5));
    of.ropes = vec![decoder::rope_from(config, of.attention.head_dim, 500_000.0)?];
    if config.flag("attn_temperature_tuning", true)? {
        of.temperature = Some(temperature(config)?);
    }
    let inner = of.mlp.inner;
    of.mlp.inner = config.optional_size("intermediate_size_mlp")?.unwrap_or(16_384);
    let is_tempered = of.temperature.is_some();
    of.layers = layers(config, of.layers.len(), is_tempered)?;
    let experts = experts(config, inner)?;
    let has_experts = layers_with_experts(config, of.layers.len())?;
    for (layer, has_experts) in of.layers.iter_mut().zip(has_experts) {
        layer.experts = has_experts.then_some(experts);
    }
    Ok(spec)
}

fn temperature(config: &ModelConfig) -> Result<TemperatureSpec> {
    let growth = config.optional_number("attn_scale")?.unwrap_or(0.1);
    match config.optional_number("floor_scale")?.unwrap_or(8192.0) {
        period if period > 0.0 => Ok(TemperatureSpec { growth, period, first: 1 }),
        period => Err(config.error("floor_scale", format!("expected more than 0, found {period}"))),
    }
}

/// The layers without experts: those that rotate see runs of positions, unless `layer_types` says otherwise.
fn layers(config: &ModelConfig, count: usize, is_tempered: bool) -> Result<Vec<LayerSpec>> {
    let chunk = match config.has("attention_chunk_size") {
        true => config.optional_size("attention_chunk_size")?,
        false => Some(8192),
    };
    let rotated = smollm3::rotated(config, count)?;
    let kinds = match config.get("layer_types") {
        None => rotated.clone(),
        Some(kinds) => {
            let of = |kind: &Value| match kind.as_str() {
                Some("chunked_attention") => Some(true),
                Some("full_attention") => Some(false),
                _ => None,
            };
            let kinds =
                kinds.as_array().and_then(|kinds| kinds.iter().map(of).collect::<Option<Vec<bool>>>());
            kinds.filter(|kinds| kinds.len() == count).ok_or_else(|| {
                let expected =
                    format!("expected chunked_attention or full_attention for each of {count} layers");
                config.error("layer_types", expected)
            })?
        }
    };
    if kinds.contains(&true) && chunk.is_none() {
        return Err(config.error("attention_chunk_size", "missing for the layers of chunked_attention"));
    }
    let layer = |(rotates, is_chunked): (bool, bool)| LayerSpec {
        chunk: chunk.filter(|_| is_chunked),
        rope: rotates.then_some(0),
        tempered: is_tempered && !rotates,
        ..LayerSpec::default()
    };
    Ok(rotated.into_iter().zip(kinds).map(layer).collect())
}

fn experts(config: &ModelConfig, inner: usize) -> Result<ExpertsSpec> {
    let routing = Routing {
        chosen: config.optional_size("num_experts_per_tok")?.unwrap_or(1),
        scores: ExpertScores::Sigmoid,
        groups: None,
        normalised: Normalised::No,
        scale: 1.0,
        weighs_input: true,
    };
    let count = config.optional_size("num_local_experts")?.unwrap_or(16);
    let layout = ExpertLayout::Columns { interleaved: false };
    Ok(ExpertsSpec { layout, shared: Some(inner), ..ExpertsSpec::new(count, inner, routing) })
}

/// `moe_layers` names them; else they are every `interleave_moe_layer_step`th.
fn layers_with_experts(config: &ModelConfig, count: usize) -> Result<Vec<bool>> {
    let Some(named) = config.get("moe_layers") else {
        let step = config.optional_size("interleave_moe_layer_step")?.unwrap_or(1);
        return Ok((1..=count).map(|layer| layer.is_multiple_of(step)).collect());
    };
    let named: Option<Vec<u64>> = named.as_array().and_then(|all| all.iter().map(Value::as_u64).collect());
    let named = named.ok_or_else(|| config.error("moe_layers", "expected a list of layers' numbers"))?;
    Ok((0..count as u64).map(|layer| named.contains(&layer)).collect())
}
