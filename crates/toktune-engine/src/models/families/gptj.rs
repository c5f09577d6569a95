//! GPT-J: one norm before both halves of a block, neighbours that rotate in a part of each head, a head with a bias.

use super::{Family, decoder, gpt2};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{AttentionNames, HalfNorms, LLAMA_STACK, MlpNames, StackNames};
use crate::models::rope::{RopeSpec, RopeVariant};
use crate::models::spec::{LayerSpec, MlpSpec, ModelSpec};
use crate::spec::{Activation, Pairing};

pub(super) const GPTJ: Family = Family {
    name: "GPT-J",
    model_types: &["gptj"],
    architecture: "GPTJForCausalLM",
    examples: &["EleutherAI/gpt-j-6b"],
    gguf: None,
    columns: false,
    spec,
};

const STACK: StackNames = StackNames {
    block: "transformer.h.{}",
    final_norm: Some("transformer.ln_f"),
    attention: AttentionNames {
        q: "attn.q_proj",
        k: "attn.k_proj",
        v: "attn.v_proj",
        o: "attn.out_proj",
        norms: HalfNorms::before("ln_1"),
        ..LLAMA_STACK.attention
    },
    mlp: MlpNames { gate: None, up: "mlp.fc_in", down: "mlp.fc_out", norms: HalfNorms::before("ln_1") },
    ..LLAMA_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let (hidden_size, heads) = (config.size("n_embd")?, config.size("n_head")?);
    let mlp = MlpSpec {
        inner: config.optional_size("n_inner")?.unwrap_or(hidden_size.saturating_mul(4)),
        activation: decoder::activation(config, "activation_function", Activation::GeluTanh)?,
        bias: true,
        fused: false,
    };
    let eps = config.optional_number("layer_norm_epsilon")?.unwrap_or(1e-5);
    let sizes = (config.size("vocab_size")?, hidden_size, config.size("n_layer")?);
    let mut spec = decoder::plain(sizes, (heads, heads), mlp, eps, (gpt2::MODEL, STACK));
    spec.tied = config.flag("tie_word_embeddings", false)?;
    spec.head.bias = true;
    let of = &mut spec.stack;
    (of.attention.qkv_bias, of.attention.output_bias) = (false, false);
    of.attention.pairing = Pairing::Neighbours;
    of.parallel = true;
    of.max_positions = config.optional_size("n_positions")?;
    of.layers.fill(LayerSpec { rope: Some(0), ..LayerSpec::default() });
    let dim = match config.has("rotary_dim") {
        true => config.size("rotary_dim")?,
        false => 64,
    };
    of.ropes = vec![RopeSpec { theta: 10_000.0, dim, variant: RopeVariant::Default, reversed: false }];
    Ok(spec)
}
