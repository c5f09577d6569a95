//! What a model is, as data: its stacks, the names of its tensors, and what stands between its rows and a loss.
//!
//! Families fill these in ([`crate::models`]); nothing here reads a file.

pub mod decoder_inputs;
mod experts;
pub mod kind;
mod model;
pub mod names;
pub mod pooling;
pub mod relative;
pub mod rope;
mod sentence;
pub mod survey;
pub mod token_matrix;

pub use decoder_inputs::{DecoderInputs, DecoderStart};
pub use experts::{ExpertGroups, ExpertLayout, ExpertScores, ExpertsSpec, Normalised, Routing};
pub use kind::ModelKind;
pub use model::{
    AttentionSpec, ConvolutionSpec, EmbeddingSpec, HeadSpec, LayerSpec, Mixer, MlpSpec, ModelSpec, NormKind,
    NormSpec, Positions, QkNorm, QkvLayout, Sinusoids, StackSpec, TemperatureSpec,
};
pub use names::{AttentionNames, ConvolutionNames, ExpertNames, HalfNorms, MlpNames, ModelNames, StackNames};
pub use pooling::PoolingMode;
pub use relative::{DisentangledSpec, RelativeSpec};
pub use rope::{RopeSpec, RopeVariant};
pub use sentence::SentenceSpec;
pub use survey::MatrixSurvey;
pub use token_matrix::{TokenMatrix, TrainedRows};
pub use toktune_kernels::gated::Activation;
pub use toktune_kernels::rotary::Pairing;
