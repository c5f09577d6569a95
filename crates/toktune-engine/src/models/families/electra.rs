//! ELECTRA's generator: BERT with an embedding that may have a width of its own.

use super::Family;
use super::encoder::{BERT_KEYS, BERT_STACK, read};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{ModelNames, StackNames};
use crate::models::spec::ModelSpec;
use crate::spec::Activation;

pub(super) const ELECTRA: Family = Family {
    name: "ELECTRA",
    model_types: &["electra"],
    architecture: "ElectraForMaskedLM",
    examples: &["google/electra-small-generator"],
    gguf: None,
    columns: false,
    spec,
};

const MODEL: ModelNames = ModelNames {
    prefix: "electra.",
    embed: "electra.embeddings.word_embeddings",
    head: "generator_lm_head",
    transform: "generator_predictions.dense",
    transform_norm: "generator_predictions.LayerNorm",
    head_bias: "generator_lm_head.bias",
    ..super::bert::MODEL
};

const STACK: StackNames = StackNames {
    block: "electra.encoder.layer.{}",
    positions: Some("electra.embeddings.position_embeddings"),
    token_types: Some("electra.embeddings.token_type_embeddings"),
    embedding_norm: Some("electra.embeddings.LayerNorm"),
    ..BERT_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = read(config, &BERT_KEYS, MODEL, STACK)?;
    // whatever `hidden_act` says
    spec.head.transform = Some(Activation::Gelu);
    let width = config.optional_size("embedding_size")?.unwrap_or(128);
    if width != spec.stack.hidden_size {
        spec.stack.embedding.width = width;
        spec.stack.embedding.project_after_norm = true;
        spec.stack.names.project_in = Some("electra.embeddings_project");
    }
    Ok(spec)
}
