//! RoBERTa and XLM-RoBERTa: BERT with positions that count the tokens that are not padding.

use super::Family;
use super::encoder::{BERT_KEYS, BERT_STACK, read};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{ModelNames, StackNames};
use crate::models::spec::{ModelSpec, Positions};
use crate::spec::Activation;

pub(super) const ROBERTA: Family = Family {
    name: "RoBERTa",
    model_types: &["roberta", "xlm-roberta"],
    architecture: "RobertaForMaskedLM",
    examples: &["FacebookAI/roberta-base", "FacebookAI/xlm-roberta-base"],
    gguf: None,
    columns: false,
    spec,
};

const MODEL: ModelNames = ModelNames {
    prefix: "roberta.",
    embed: "roberta.embeddings.word_embeddings",
    head: "lm_head.decoder",
    transform: "lm_head.dense",
    transform_norm: "lm_head.layer_norm",
    head_bias: "lm_head.bias",
    ..super::bert::MODEL
};

const STACK: StackNames = StackNames {
    block: "roberta.encoder.layer.{}",
    positions: Some("roberta.embeddings.position_embeddings"),
    token_types: Some("roberta.embeddings.token_type_embeddings"),
    embedding_norm: Some("roberta.embeddings.LayerNorm"),
    ..BERT_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = read(config, &BERT_KEYS, MODEL, STACK)?;
    // whatever `hidden_act` says
    spec.head.transform = Some(Activation::Gelu);
    let padding = config.optional_number("pad_token_id")?.unwrap_or(1.0) as u32;
    let rows = config.size("max_position_embeddings")?;
    let offset = padding as usize + 1;
    spec.stack.embedding.positions = Positions::Learned { rows, offset, padding: Some(padding) };
    spec.stack.max_positions = Some(rows.saturating_sub(offset));
    Ok(spec)
}
