//! Differentiable operations on candle tensors, one file each.
//!
//! On the CPU an operation calls the kernels; on any other device its `composite` builds the same thing from candle's
//! own differentiable operations, so that a GPU needs no second model code. The tests run both on the CPU and compare.
//!
//! Activations are `f32` matrices `[rows, width]`, the sequences of a batch one after the other without padding.

mod activation;
mod attention;
mod gated;
mod gated_mlp;
mod host;
mod layer_norm;
mod linear;
mod norm;
mod rotary;
#[cfg(test)]
pub(crate) mod testing;
mod vjp;

pub use activation::activation;
pub(crate) use attention::attention_flops;
pub use attention::{KeyValues, Sequences, Spans, attention};
pub use gated::gated;
pub use gated_mlp::{GatedMlpWeights, gated_mlp};
pub use layer_norm::layer_norm;
pub use linear::{StoredAs, frozen_linear};
pub use norm::rms_norm;
pub use rotary::{RotaryRows, rotary};
pub use vjp::{vjp, vjp_with};

pub use toktune_kernels::attention::{ScoreBias, Shape as AttentionShape, Span};
pub use toktune_kernels::gated::Activation;
pub use toktune_kernels::rotary::{Heads, Pairing};
