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
pub(crate) mod sentence;
mod tensors;
#[cfg(test)]
pub(crate) mod testing;

pub use crate::engine::runner::TokenRows;
pub(crate) use crate::engine::spec::{self, decoder_inputs, kind, names, relative, rope, token_matrix};
pub use crate::engine::spec::{
    Activation, AttentionNames, AttentionSpec, DecoderInputs, DecoderStart, DisentangledSpec, EmbeddingSpec,
    ExpertNames, ExpertsSpec, Frequencies, HalfNorms, HeadSpec, LayerSpec, MlpNames, MlpSpec, ModelKind,
    ModelNames, ModelSpec, NormKind, NormSpec, Pairing, PoolingMode, Positions, QkNorm, QkvLayout,
    RelativeSpec, RopeSpec, RopeVariant, SentenceSpec, Sinusoids, StackNames, StackSpec, TokenMatrix,
    TrainedRows,
};
pub use auto::{AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM};
pub use config::ModelConfig;
pub use device::Device;
pub use families::{FAMILIES, Family, GgufFamily};
pub use model::PretrainedModel;
pub(crate) use model::{ReplaceError, wrong_kind};
pub use precision::PrecisionMode;
pub use tensors::FrozenTensor;
