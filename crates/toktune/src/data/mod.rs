//! Training data: rows of JSONL files, tokenised into examples, handed out in ragged batches.
//!
//! A row is known by its keys: `input_ids` (and `labels`), `text`, `prompt` with `completion`, `messages`, or
//! `anchor` with `positive`. [`Dataset::read`] turns files into [`Example`]s or says which line of which file is at
//! fault; [`Sampler`] gives their order; a [`Collator`] makes of some of them what a kind of model is given, a
//! [`RaggedBatch`] of sequences end to end without padding; [`audit`] counts what will be seen of the tokens to
//! train. Nothing here knows a model or its weights.

mod audit;
mod batch;
mod chat;
mod collator;
mod encode;
mod error;
mod kind;
mod masking;
mod reader;
mod row;
mod sampler;
mod survey;
#[cfg(test)]
mod tests;

pub use crate::models::{DecoderInputs, DecoderStart, ModelKind};
pub use audit::{TokenUse, audit};
pub use batch::{RaggedBatch, RaggedRows};
pub use chat::{ChatNotes, FieldUse};
pub use collator::Collator;
pub use encode::{DataOptions, LossOn};
pub use error::DataError;
pub use masking::Masking;
pub use reader::{Dataset, Example, Source};
pub use sampler::{Batch, Position, Sampler};
pub use survey::{Survey, survey};
