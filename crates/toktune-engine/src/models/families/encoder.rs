//! What encoders' configurations have in common, since BERT.

use super::decoder::{MOST_LAYERS, activation};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::kind::ModelKind;
use crate::models::names::{AttentionNames, HalfNorms, MlpNames, ModelNames, StackNames};
use crate::models::spec::{
    AttentionSpec, EmbeddingSpec, HeadSpec, LayerSpec, MlpSpec, ModelSpec, NormSpec, Positions, StackSpec,
};
use crate::spec::Activation;

/// The names in BERT's blocks, and of what stands before them, behind BERT's prefix.
pub(super) const BERT_STACK: StackNames = StackNames {
    block: "bert.encoder.layer.{}",
    positions: Some("bert.embeddings.position_embeddings"),
    token_types: Some("bert.embeddings.token_type_embeddings"),
    embedding_norm: Some("bert.embeddings.LayerNorm"),
    project_in: None,
    project_out: None,
    final_norm: None,
    relative: None,
    relative_norm: None,
    attention: AttentionNames {
        q: "attention.self.query",
        k: "attention.self.key",
        v: "attention.self.value",
        o: "attention.output.dense",
        q_norm: None,
        k_norm: None,
        distance_q: None,
        distance_k: None,
        norms: HalfNorms::sum("attention.output.LayerNorm"),
    },
    convolution: None,
    cross: None,
    mlp: MlpNames {
        gate: None,
        up: "intermediate.dense",
        down: "output.dense",
        norms: HalfNorms::sum("output.LayerNorm"),
    },
    sinks: None,
    activation: None,
    experts: None,
};

/// The keys of a configuration that families name differently.
pub(super) struct Keys {
    pub(super) hidden_size: &'static str,
    pub(super) layers: &'static str,
    pub(super) heads: &'static str,
    pub(super) inner: &'static str,
    pub(super) activation: &'static str,
}

/// BERT's own.
pub(super) const BERT_KEYS: Keys = Keys {
    hidden_size: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    inner: "intermediate_size",
    activation: "hidden_act",
};

/// An encoder with BERT's layout: learnt positions, norms after the residual sums, a masked language model's head.
pub(super) fn read(
    config: &ModelConfig,
    keys: &Keys,
    names: ModelNames,
    stack: StackNames,
) -> Result<ModelSpec> {
    let (hidden_size, heads) = (config.size(keys.hidden_size)?, config.size(keys.heads)?);
    let positions = config.size("max_position_embeddings")?;
    let activation = activation(config, keys.activation, Activation::Gelu)?;
    let layers = config.size(keys.layers)?.min(MOST_LAYERS);
    Ok(ModelSpec {
        kind: ModelKind::MaskedLm,
        vocab_size: config.size("vocab_size")?,
        tied: config.flag("tie_word_embeddings", true)?,
        stack: StackSpec {
            hidden_size,
            embedding: EmbeddingSpec {
                positions: Positions::Learned { rows: positions, offset: 0, padding: None },
                ..EmbeddingSpec::plain(hidden_size)
            },
            attention: AttentionSpec::encoder(heads, hidden_size),
            mlp: MlpSpec { inner: config.size(keys.inner)?, activation, bias: true, fused: false },
            norm: NormSpec::layer(config.optional_number("layer_norm_eps")?.unwrap_or(1e-12)),
            parallel: false,
            residual_scale: 1.0,
            max_positions: Some(positions),
            relative: None,
            layers: vec![LayerSpec::default(); layers],
            ropes: Vec::new(),
            temperature: None,
            names: stack,
        },
        encoder: None,
        decoder_inputs: None,
        head: HeadSpec { transform: Some(activation), bias: true, ..HeadSpec::default() },
        names,
    })
}
