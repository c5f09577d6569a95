//! ModernBERT: an encoder with rotation, windows in most layers, a gated MLP and norms before each half of a block.

use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::kind::ModelKind;
use crate::models::names::{AttentionNames, HalfNorms, LLAMA_STACK, MlpNames, ModelNames, StackNames};
use crate::models::rope::RopeSpec;
use crate::models::spec::{
    AttentionSpec, EmbeddingSpec, HeadSpec, MlpSpec, ModelSpec, NormKind, NormSpec, QkvLayout, StackSpec,
};
use crate::spec::Activation;

pub(super) const MODERNBERT: Family = Family {
    name: "ModernBERT",
    model_types: &["modernbert"],
    architecture: "ModernBertForMaskedLM",
    examples: &["answerdotai/ModernBERT-base"],
    gguf: None,
    columns: false,
    spec,
};

const MODEL: ModelNames = ModelNames {
    prefix: "model.",
    embed: "model.embeddings.tok_embeddings",
    head: "decoder",
    transform: "head.dense",
    transform_norm: "head.norm",
    head_bias: "decoder.bias",
    ..super::bert::MODEL
};

const STACK: StackNames = StackNames {
    embedding_norm: Some("model.embeddings.norm"),
    final_norm: Some("model.final_norm"),
    attention: AttentionNames {
        q: "attn.Wqkv",
        k: "",
        v: "",
        o: "attn.Wo",
        norms: HalfNorms::before("attn_norm"),
        ..LLAMA_STACK.attention
    },
    mlp: MlpNames { gate: None, up: "mlp.Wi", down: "mlp.Wo", norms: HalfNorms::before("mlp_norm") },
    ..LLAMA_STACK
};

/// Indices into the ropes.
const FULL: usize = 0;
const SLIDING: usize = 1;

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let (hidden_size, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let bias = config.flag("attention_bias", false)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        output_bias: bias,
        layout: QkvLayout::Blocks,
        ..AttentionSpec::encoder(heads, hidden_size)
    };
    let head_dim = attention.head_dim;
    // both sides together; the row itself is seen too
    let window = config.optional_size("local_attention")?.unwrap_or(128) / 2 + 1;
    let every = config.optional_size("global_attn_every_n_layers")?.unwrap_or(3);
    let slides = |layer: usize| !layer.is_multiple_of(every);
    let rope = |slides: bool| Some(if slides { SLIDING } else { FULL });
    let mut layers = decoder::layer_types(config, Some(window), slides, rope)?;
    // its input has just been normed
    layers.iter_mut().take(1).for_each(|layer| layer.no_attention_norm = true);
    let activation = |key: &str| decoder::activation(config, key, Activation::Gelu);
    Ok(ModelSpec {
        kind: ModelKind::MaskedLm,
        vocab_size: config.size("vocab_size")?,
        tied: config.flag("tie_word_embeddings", true)?,
        stack: StackSpec {
            hidden_size,
            embedding: EmbeddingSpec::plain(hidden_size),
            attention,
            mlp: MlpSpec {
                inner: config.size("intermediate_size")?,
                activation: activation("hidden_activation")?,
                bias: config.flag("mlp_bias", false)?,
                fused: true,
            },
            norm: NormSpec {
                kind: NormKind::Layer { bias: config.flag("norm_bias", false)? },
                ..NormSpec::layer(config.optional_number("norm_eps")?.unwrap_or(1e-5))
            },
            parallel: false,
            residual_scale: 1.0,
            max_positions: config.optional_size("max_position_embeddings")?,
            relative: None,
            layers,
            ropes: vec![
                of_layers(config, "full_attention", "global_rope_theta", 160_000.0, head_dim)?,
                of_layers(config, "sliding_attention", "local_rope_theta", 10_000.0, head_dim)?,
            ],
            temperature: None,
            names: STACK,
        },
        encoder: None,
        decoder_inputs: None,
        head: HeadSpec {
            transform: Some(activation("classifier_activation")?),
            transform_bias: config.flag("classifier_bias", false)?,
            bias: config.flag("decoder_bias", true)?,
            ..HeadSpec::default()
        },
        names: MODEL,
    })
}

/// The rotary embedding of a kind of layers: a section of its own since transformers 5, a base of its own before.
fn of_layers(config: &ModelConfig, kind: &str, key: &str, theta: f64, head_dim: usize) -> Result<RopeSpec> {
    let section = decoder::rope_section_of(config, kind, true);
    let theta = config.optional_number(key)?.unwrap_or(theta);
    RopeSpec::read(config, Some(&section), Some(theta), head_dim)
}
