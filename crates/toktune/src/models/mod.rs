//! Pretrained models: one generic stack of blocks, and one small file a family that maps its configuration and tensor names
//! to one stack (a decoder, an encoder) or two.
//!
//! This module owns what a model *is* (embedding, blocks, final norm, head) and how a piece of it runs forward. It
//! knows nothing of adapters, losses or optimizers: trained rows are handed in by the caller as [`TrainedRows`].

mod auto;
mod config;
mod copies;
mod decoder_inputs;
mod device;
mod families;
mod gguf_config;
#[cfg(test)]
mod gguf_families;
mod kind;
mod model;
mod names;
pub(crate) mod pooling;
mod precision;
mod quantisation;
mod relative;
mod rope;
pub(crate) mod sentence;
mod spec;
mod tensors;
#[cfg(test)]
pub(crate) mod testing;
mod token_matrix;

pub use crate::engine::runner::TokenRows;
pub use auto::{AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM};
pub use config::ModelConfig;
pub use decoder_inputs::{DecoderInputs, DecoderStart};
pub use device::Device;
pub use families::{FAMILIES, Family, GgufFamily};
pub use kind::ModelKind;
pub use model::PretrainedModel;
pub(crate) use model::{ReplaceError, wrong_kind};
pub use names::{AttentionNames, ExpertNames, HalfNorms, MlpNames, ModelNames, StackNames};
pub use pooling::PoolingMode;
pub use precision::PrecisionMode;
pub use relative::{DisentangledSpec, RelativeSpec};
pub use rope::{Frequencies, RopeSpec, RopeVariant};
pub use sentence::SentenceSpec;
pub use spec::{
    AttentionSpec, EmbeddingSpec, ExpertsSpec, HeadSpec, LayerSpec, MlpSpec, ModelSpec, NormKind, NormSpec,
    Positions, QkNorm, QkvLayout, Sinusoids, StackSpec,
};
pub use tensors::FrozenTensor;
pub use token_matrix::{TokenMatrix, TrainedRows};
pub use toktune_kernels::gated::Activation;
pub use toktune_kernels::rotary::Pairing;
