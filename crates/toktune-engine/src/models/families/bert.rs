//! BERT, and so MiniLM, which is a BERT without a head.

use super::Family;
use super::encoder::{BERT_KEYS, BERT_STACK, read};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::ModelNames;
use crate::models::spec::ModelSpec;

pub(super) const BERT: Family = Family {
    name: "BERT",
    model_types: &["bert"],
    architecture: "BertForMaskedLM",
    examples: &["google-bert/bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2"],
    gguf: None,
    columns: false,
    spec,
};

pub(super) const MODEL: ModelNames = ModelNames {
    prefix: "bert.",
    embed: "bert.embeddings.word_embeddings",
    head: "cls.predictions.decoder",
    head_files: &[],
    embed_files: &[],
    transform: "cls.predictions.transform.dense",
    transform_norm: "cls.predictions.transform.LayerNorm",
    head_bias: "cls.predictions.bias",
    aliases: &[],
    embed_aliases: &[],
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    if config.flag("is_decoder", false)? {
        return Err(config.error("is_decoder", "BERT as a decoder is not supported"));
    }
    match config.optional_text("position_embedding_type")?.as_deref() {
        None | Some("absolute") => read(config, &BERT_KEYS, MODEL, BERT_STACK),
        Some(other) => {
            Err(config.error("position_embedding_type", format!("expected absolute, found {other}")))
        }
    }
}
