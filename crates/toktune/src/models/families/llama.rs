//! Llama and what shares its `model_type`: Llama 2, 3, SmolLM2, TinyLlama.

use super::Family;
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::rope::RopeSpec;
use crate::models::spec::{DecoderSpec, LayerSpec, TensorNames};
use crate::ops::Activation;

pub(super) const LLAMA: Family = Family {
    name: "Llama",
    model_types: &["llama"],
    architecture: "LlamaForCausalLM",
    gguf: Some("llama"),
    gguf_interleaves: true,
    names: &NAMES,
    spec,
};

/// The names that most decoders have followed since.
pub(super) const NAMES: TensorNames = TensorNames {
    embed: "model.embed_tokens",
    final_norm: "model.norm",
    head: "lm_head",
    block: "model.layers.{}",
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    o: "self_attn.o_proj",
    q_norm: None,
    k_norm: None,
    attention_norm: "input_layernorm",
    post_attention_norm: None,
    mlp_norm: "post_attention_layernorm",
    post_mlp_norm: None,
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
};

fn spec(config: &ModelConfig) -> Result<DecoderSpec> {
    let (hidden_size, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let head_dim = config.optional_size("head_dim")?.unwrap_or(hidden_size / heads);
    let section = config.section("rope_parameters").or_else(|| config.section("rope_scaling"));
    let rope = RopeSpec::read(config, section.as_ref(), config.optional_number("rope_theta")?, head_dim)?;
    let bias = config.flag("attention_bias", false)?;
    match config.optional_text("hidden_act")?.as_deref() {
        None | Some("silu" | "swish") => {}
        Some(other) => return Err(config.error("hidden_act", format!("expected silu, found {other}"))),
    }
    Ok(DecoderSpec {
        vocab_size: config.size("vocab_size")?,
        hidden_size,
        intermediate_size: config.size("intermediate_size")?,
        heads,
        kv_heads: config.optional_size("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        max_positions: config.optional_size("max_position_embeddings")?,
        norm_eps: config.optional_number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        norm_plus_one: false,
        activation: Activation::Silu,
        attention_scale: 1.0 / (head_dim as f32).sqrt(),
        qkv_bias: bias,
        output_bias: bias,
        mlp_bias: config.flag("mlp_bias", false)?,
        embed_scale: 1.0,
        tied: config.flag("tie_word_embeddings", false)?,
        layers: vec![LayerSpec { window: None, rope: 0 }; config.size("num_hidden_layers")?.min(1 << 16)],
        ropes: vec![rope],
    })
}
