//! BLOOM: ALiBi, a norm of the embedding, a fused projection.

use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, MEGATRON_STACK, ModelNames, StackNames};
use crate::models::relative::RelativeSpec;
use crate::models::spec::{MlpSpec, ModelSpec, QkvLayout};
use crate::spec::Activation;

pub(super) const BLOOM: Family = Family {
    name: "BLOOM",
    model_types: &["bloom"],
    architecture: "BloomForCausalLM",
    examples: &["bigscience/bloom-560m", "bigscience/bloomz-560m"],
    gguf: GgufFamily::plain("bloom"),
    columns: false,
    spec,
};

pub(super) const MODEL: ModelNames =
    ModelNames { prefix: "transformer.", embed: "transformer.word_embeddings", ..LLAMA_MODEL };

const STACK: StackNames = StackNames {
    block: "transformer.h.{}",
    embedding_norm: Some("transformer.word_embeddings_layernorm"),
    final_norm: Some("transformer.ln_f"),
    ..MEGATRON_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let key = "apply_residual_connection_post_layernorm";
    if config.flag(key, false)? {
        return Err(config.error(key, "not supported"));
    }
    let hidden_size = decoder::size_of(config, &["n_embed", "hidden_size"])?;
    let heads = decoder::size_of(config, &["n_head", "num_attention_heads"])?;
    let layers = decoder::size_of(config, &["n_layer", "num_hidden_layers"])?;
    let mlp = MlpSpec {
        inner: hidden_size.saturating_mul(4),
        activation: Activation::GeluTanh,
        bias: true,
        fused: false,
    };
    let eps = config.optional_number("layer_norm_epsilon")?.unwrap_or(1e-5);
    let sizes = (config.size("vocab_size")?, hidden_size, layers);
    let mut spec = decoder::plain(sizes, (heads, heads), mlp, eps, (MODEL, STACK));
    spec.tied = config.flag("tie_word_embeddings", true)?;
    spec.stack.attention.layout = QkvLayout::Groups;
    spec.stack.relative = Some(RelativeSpec::Alibi);
    Ok(spec)
}
