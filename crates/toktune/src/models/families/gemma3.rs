//! Gemma 3, text only: scaled embedding, norms stored minus one, query and key norms, sliding and full layers with
//! rotary embeddings of their own.

use super::Family;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::rope::RopeSpec;
use crate::models::spec::{DecoderSpec, LayerSpec, TensorNames};
use crate::ops::Activation;

pub(super) const GEMMA3: Family = Family {
    name: "Gemma 3",
    model_types: &["gemma3_text"],
    architecture: "Gemma3ForCausalLM",
    gguf: Some("gemma3"),
    gguf_interleaves: false,
    names: &NAMES,
    spec,
};

const NAMES: TensorNames = TensorNames {
    q_norm: Some("self_attn.q_norm"),
    k_norm: Some("self_attn.k_norm"),
    post_attention_norm: Some("post_attention_layernorm"),
    mlp_norm: "pre_feedforward_layernorm",
    post_mlp_norm: Some("post_feedforward_layernorm"),
    ..super::llama::NAMES
};

/// Indices into the ropes below.
const FULL: usize = 0;
const SLIDING: usize = 1;

fn spec(config: &ModelConfig) -> Result<DecoderSpec> {
    for key in ["final_logit_softcapping", "attn_logit_softcapping"] {
        if let Some(value) = config.get(key) {
            return Err(config.error(key, format!("found {value}; soft caps are not supported for Gemma 3")));
        }
    }
    if config.flag("use_bidirectional_attention", false)? {
        return Err(config.error("use_bidirectional_attention", "only causal attention is supported"));
    }
    match config.optional_text("hidden_activation")?.as_deref() {
        None | Some("gelu_pytorch_tanh") => {}
        Some(other) => {
            return Err(
                config.error("hidden_activation", format!("expected gelu_pytorch_tanh, found {other}"))
            );
        }
    }
    let head_dim = config.optional_size("head_dim")?.unwrap_or(256);
    let hidden_size = config.size("hidden_size")?;
    let heads = config.size("num_attention_heads")?;
    let bias = config.flag("attention_bias", false)?;
    Ok(DecoderSpec {
        vocab_size: config.size("vocab_size")?,
        hidden_size,
        intermediate_size: config.size("intermediate_size")?,
        heads,
        kv_heads: config.optional_size("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        max_positions: config.optional_size("max_position_embeddings")?,
        norm_eps: config.optional_number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        norm_plus_one: true,
        activation: Activation::GeluTanh,
        attention_scale: (config.optional_number("query_pre_attn_scalar")?.unwrap_or(256.0) as f32)
            .powf(-0.5),
        qkv_bias: bias,
        output_bias: bias,
        mlp_bias: false,
        embed_scale: (hidden_size as f32).sqrt(),
        tied: config.flag("tie_word_embeddings", true)?,
        layers: layers(config)?,
        ropes: ropes(config, head_dim)?,
    })
}

/// `layer_types` since transformers 4.52; before, every `sliding_window_pattern`-th layer sees everything.
fn layers(config: &ModelConfig) -> Result<Vec<LayerSpec>> {
    let count = config.size("num_hidden_layers")?.min(1 << 16);
    let window = Some(config.optional_size("sliding_window")?.unwrap_or(4096));
    let (full, sliding) = (LayerSpec { window: None, rope: FULL }, LayerSpec { window, rope: SLIDING });
    let Some(types) = config.get("layer_types") else {
        let pattern = match config.optional_size("sliding_window_pattern")? {
            Some(pattern) => pattern,
            None => config.optional_size("_sliding_window_pattern")?.unwrap_or(6),
        };
        return Ok((1..=count)
            .map(|i| if i % pattern == 0 { full.clone() } else { sliding.clone() })
            .collect());
    };
    let types = types.as_array().filter(|t| t.len() == count);
    let types = types.ok_or_else(|| config.error("layer_types", format!("expected a list of {count}")))?;
    types
        .iter()
        .map(|kind| match kind.as_str() {
            Some("full_attention") => Ok(full.clone()),
            Some("sliding_attention") => Ok(sliding.clone()),
            _ => Err(config
                .error("layer_types", format!("expected full_attention or sliding_attention, found {kind}"))),
        })
        .collect()
}

/// One section for each kind of layer since transformers 5; before, `rope_theta` with `rope_scaling` for full layers and
/// `rope_local_base_freq` for sliding ones.
fn ropes(config: &ModelConfig, head_dim: usize) -> Result<Vec<RopeSpec>> {
    if let Some(parameters) = config.section("rope_parameters") {
        let of = |key: &str, theta| {
            let section = parameters
                .section(key)
                .ok_or_else(|| config.error("rope_parameters", format!("no {key}")))?;
            RopeSpec::read(config, Some(&section), Some(theta), head_dim)
        };
        return Ok(vec![of("full_attention", 1_000_000.0)?, of("sliding_attention", 10_000.0)?]);
    }
    let theta = config.optional_number("rope_theta")?.unwrap_or(1_000_000.0);
    let local = config.optional_number("rope_local_base_freq")?.unwrap_or(10_000.0);
    let scaling = config.section("rope_scaling");
    Ok(vec![
        RopeSpec::read(config, scaling.as_ref(), Some(theta), head_dim)?,
        RopeSpec::read(config, None, Some(local), head_dim)?,
    ])
}
