//! DistilBERT: BERT without token types, under names of its own.

use super::Family;
use super::encoder::{BERT_STACK, Keys, read};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{AttentionNames, HalfNorms, MlpNames, ModelNames, StackNames};
use crate::models::spec::{ModelSpec, NormSpec};

pub(super) const DISTILBERT: Family = Family {
    name: "DistilBERT",
    model_types: &["distilbert"],
    architecture: "DistilBertForMaskedLM",
    examples: &["distilbert/distilbert-base-uncased"],
    gguf: None,
    columns: false,
    spec,
};

const MODEL: ModelNames = ModelNames {
    prefix: "distilbert.",
    embed: "distilbert.embeddings.word_embeddings",
    head: "vocab_projector",
    transform: "vocab_transform",
    transform_norm: "vocab_layer_norm",
    head_bias: "vocab_projector.bias",
    ..super::bert::MODEL
};

const STACK: StackNames = StackNames {
    block: "distilbert.transformer.layer.{}",
    positions: Some("distilbert.embeddings.position_embeddings"),
    token_types: None,
    embedding_norm: Some("distilbert.embeddings.LayerNorm"),
    attention: AttentionNames {
        q: "attention.q_lin",
        k: "attention.k_lin",
        v: "attention.v_lin",
        o: "attention.out_lin",
        norms: HalfNorms::sum("sa_layer_norm"),
        ..BERT_STACK.attention
    },
    mlp: MlpNames {
        gate: None,
        up: "ffn.lin1",
        down: "ffn.lin2",
        norms: HalfNorms::sum("output_layer_norm"),
    },
    ..BERT_STACK
};

const KEYS: Keys = Keys {
    hidden_size: "dim",
    layers: "n_layers",
    heads: "n_heads",
    inner: "hidden_dim",
    activation: "activation",
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = read(config, &KEYS, MODEL, STACK)?;
    spec.stack.norm = NormSpec::layer(1e-12);
    Ok(spec)
}
