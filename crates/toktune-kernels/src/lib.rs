//! CPU kernels for training a few token embeddings of a frozen transformer.
//!
//! Everything here works on plain slices: row-major `f32` activations, and frozen weights read through
//! [`Matrix`], which decodes them a panel at a time from the type they are stored in. Each operation comes as a
//! `forward` and a `backward` (its vector-Jacobian product with respect to the activations; a frozen weight never
//! gets a gradient).
//!
//! What this crate does not know: tensors, autograd, files, models. Shapes are checked by assertions, since a wrong
//! shape here is a fault of the calling code, never of a user's input.
//!
//! # Batches are ragged
//!
//! A batch is one matrix of rows, the sequences one after the other without padding. Only [`attention`] needs to
//! know where a sequence starts; everything else is row-wise.
//!
//! # Determinism
//!
//! Work is cut into pieces whose bounds depend on the shapes alone, and every sum is taken in one fixed order, so the
//! result is the same to the last bit however many threads run.

pub mod attention;
mod bf16;
pub mod blocks;
pub mod convolution;
pub mod cross_entropy;
pub mod disentangled;
pub mod embedding;
mod fp8;
pub mod gated;
pub mod gated_mlp;
mod gemm;
pub mod isa;
pub mod layer_norm;
pub mod low_rank;
mod math;
pub mod matmul;
pub mod norm;
mod operand;
mod pack;
mod product;
mod quantised;
pub mod rotary;
pub mod rows;
mod shared;
#[cfg(test)]
mod testing;
mod tile;
mod view;
pub mod weight;
mod weight_type;

pub use isa::{Isa, IsaError};
pub use product::Precision;
pub use weight::{Matrix, RowOrder, Scales, StoredRow, TokenTable, Weight, WeightError};
pub use weight_type::WeightType;
