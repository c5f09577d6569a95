//! GPT-2: learnt positions, layer norms, and linear layers that are stored by columns.

use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{
    AttentionNames, HalfNorms, LLAMA_MODEL, LLAMA_STACK, MlpNames, ModelNames, StackNames,
};
use crate::models::spec::{MlpSpec, ModelSpec, Positions, QkvLayout};
use crate::spec::Activation;

pub(super) const GPT2: Family = Family {
    name: "GPT-2",
    model_types: &["gpt2"],
    architecture: "GPT2LMHeadModel",
    examples: &["openai-community/gpt2", "distilbert/distilgpt2"],
    gguf: GgufFamily::plain("gpt2"),
    columns: true,
    spec,
};

pub(super) const MODEL: ModelNames =
    ModelNames { prefix: "transformer.", embed: "transformer.wte", ..LLAMA_MODEL };

pub(super) const STACK: StackNames = StackNames {
    block: "transformer.h.{}",
    positions: Some("transformer.wpe"),
    final_norm: Some("transformer.ln_f"),
    attention: AttentionNames {
        q: "attn.c_attn",
        k: "",
        v: "",
        o: "attn.c_proj",
        norms: HalfNorms::before("ln_1"),
        ..LLAMA_STACK.attention
    },
    mlp: MlpNames { gate: None, up: "mlp.c_fc", down: "mlp.c_proj", norms: HalfNorms::before("ln_2") },
    ..LLAMA_STACK
};

pub(super) fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    for key in ["scale_attn_by_inverse_layer_idx", "add_cross_attention"] {
        if config.flag(key, false)? {
            return Err(config.error(key, "not supported"));
        }
    }
    let hidden_size = config.size("n_embd")?;
    let heads = config.size("n_head")?;
    let mlp = MlpSpec {
        inner: config.optional_size("n_inner")?.unwrap_or(4 * hidden_size),
        activation: decoder::activation(config, "activation_function", Activation::GeluTanh)?,
        bias: true,
        fused: false,
    };
    let eps = config.optional_number("layer_norm_epsilon")?.unwrap_or(1e-5);
    let sizes = (config.size("vocab_size")?, hidden_size, config.size("n_layer")?);
    let mut spec = decoder::plain(sizes, (heads, heads), mlp, eps, (MODEL, STACK));
    spec.tied = config.flag("tie_word_embeddings", true)?;
    let of = &mut spec.stack;
    of.attention.layout = QkvLayout::Blocks;
    if !config.flag("scale_attn_weights", true)? {
        of.attention.scale = 1.0;
    }
    let positions = config.size("n_positions")?;
    of.max_positions = Some(positions);
    of.embedding.positions = Positions::Learned { rows: positions, offset: 0, padding: None };
    Ok(spec)
}
