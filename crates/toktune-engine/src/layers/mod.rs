//! The layers of a model on a [`Backend`](super::backend::Backend): `run` goes forward, `pull` backward, each once.
//!
//! A layer owns its frozen weights on the backend. What a caller trains beside them (LoRA's updates) comes in with the pass,
//! in [`Around`], and its gradients go out in [`Gradients`]. What a forward pass leaves for the backward one is chosen by
//! [`Keep`]; what was not kept is computed again. This module knows no batches, plans or losses.

mod around;
mod attention;
mod block;
mod chain;
mod convolution;
mod disentangled;
mod experts;
mod feed_forward;
mod keep;
mod linear;
mod loader;
mod lora;
mod mlp;
mod norm;
mod routing;
mod sublayer;

pub use around::{Around, Gradients, KeyValues, Memory, Rows};
pub use block::Block;
pub use chain::Chain;
pub(crate) use chain::Stage;
pub use disentangled::DistanceRows;
pub use keep::{Keep, Kept};
pub use linear::{Linear, Slot};
pub use loader::{Loader, Naming};
pub use lora::Update;
pub use mlp::piece_rows;

/// A weight as a layer holds it.
#[derive(Debug)]
pub enum LayerTensor<'a> {
    /// A linear layer's, or a table.
    Matrix(&'a toktune_weights::FrozenMatrix),
    /// A bias.
    Bias(Vec<f32>),
    /// The factors of a convolution, `[width, 1, taps]`.
    Taps(Vec<f32>),
    /// What a norm multiplies with, the family's offset in it.
    Norm(Vec<f32>),
}
