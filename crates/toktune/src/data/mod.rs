//! Training data: rows of files, tokenised into examples, handed out in ragged batches.
//!
//! A [`DataSource`] is a file or a folder of them: JSON, tables, text, Parquet or Arrow, packed or not. Its rows are known by
//! their keys (see `form`). [`Dataset::read`] turns them into [`Example`]s by all threads, once, and keeps them in
//! a [`DataCache`] where there is one, or says which row of which file is at fault; [`Sampler`] gives their order; a
//! [`Collator`] makes of some of them what a kind of model is given, a [`RaggedBatch`] of sequences end to end without
//! padding. Nothing here knows a model or its weights.

mod audit;
mod batch;
mod cache;
mod chat;
mod collator;
mod dataset;
mod encode;
mod error;
mod files;
mod form;
mod keys;
mod kind;
mod masking;
mod notes;
mod pieces;
mod records;
mod row;
mod sampler;
mod shown;
mod source;
mod store;
mod survey;
#[cfg(test)]
mod tests;
mod texts;
mod weights;

pub use crate::engine::batch::{RaggedBatch, RaggedRows};
pub use crate::models::{DecoderInputs, DecoderStart, ModelKind};
pub use audit::TokenUse;
pub use cache::DataCache;
pub use chat::{ChatNotes, FieldUse};
pub use collator::Collator;
pub use dataset::{Dataset, Example, ReadProgress, Source};
pub use encode::{DataOptions, LossOn};
pub use error::DataError;
#[cfg(feature = "hub")]
pub(crate) use files::choose_files;
pub use keys::{RowKeys, SampleBy};
pub use masking::Masking;
pub use notes::EncodingNotes;
pub use pieces::Piece;
pub use sampler::{Batch, Position, Sampler, Share};
pub use shown::{ShownPart, ShownToken, shown_tokens};
pub use source::DataSource;
pub use survey::{Survey, survey};
pub use texts::{pieces, texts};
