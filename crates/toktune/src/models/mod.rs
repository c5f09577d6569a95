//! Pretrained models: one generic decoder, and one small file a family that maps its configuration and tensor names to
//! it.
//!
//! This module owns what a model *is* (embedding, blocks, final norm, head) and how a piece of it runs forward. It
//! knows nothing of adapters, losses or optimizers: trained rows are handed in by the caller as [`TrainedRows`].

mod auto;
pub(crate) mod block;
pub(crate) mod buffers;
mod config;
mod decoder;
mod families;
mod gguf_config;
mod precision;
mod rope;
mod spec;
mod tensors;
mod token_matrix;
mod update;

pub use auto::AutoModelForCausalLM;
pub use block::Block;
pub use config::ModelConfig;
pub use decoder::{CausalLm, RowsOfBatch};
pub use families::{FAMILIES, Family};
pub use precision::PrecisionMode;
pub use rope::{Frequencies, RopeSpec, RopeVariant};
pub use spec::{DecoderSpec, LayerSpec, TensorNames};
pub use tensors::FrozenTensor;
pub use token_matrix::{TokenMatrix, TrainedRows};
pub use update::{BlockUpdates, Dropout, LinearUpdate, Slot};
