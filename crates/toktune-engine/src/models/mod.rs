//! Pretrained models: one generic stack of blocks, and one small file a family that maps its configuration and tensor names
//! to one stack (a decoder, an encoder) or two.
//!
//! This module owns what a model *is* (embedding, blocks, final norm, head) and how a piece of it runs forward. It
//! knows nothing of adapters, losses or optimizers: trained rows are handed in by the caller as [`TrainedRows`].

mod auto;
mod config;
mod copies;
mod device;
mod families;
mod gguf_config;
#[cfg(test)]
mod gguf_families;
mod model;
mod precision;
mod quantisation;
mod rope_parameters;
pub mod sentence;
mod tensors;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use crate::runner::TokenRows;
pub(crate) use crate::spec::{self, decoder_inputs, kind, names, relative, rope, token_matrix};
pub use crate::spec::{
    DecoderInputs, DecoderStart, MatrixSurvey, ModelKind, PoolingMode, SentenceSpec, TokenMatrix, TrainedRows,
};
pub use auto::{AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM};
pub use config::ModelConfig;
pub use device::Device;
pub use families::{FAMILIES, Family, GgufFamily, Outline, missing_piece};
pub use model::PretrainedModel;
pub use model::{ReplaceError, wrong_kind};
pub use precision::PrecisionMode;
pub use tensors::FrozenTensor;
