//! What a block does to each row by itself: one MLP, or a mixture of them.

use super::experts::Experts;
use super::linear::Linear;
use super::mlp::{KeptMlp, Mlp};
use crate::error::Result;
use crate::models::buffers::Buffers;
use crate::models::update::BlockUpdates;
use candle_core::Tensor;
use toktune_kernels::matmul::Write;

/// Frozen weights of the half of a block that is no attention.
#[derive(Clone, Debug)]
pub(crate) enum FeedForward {
    One(Box<Mlp>),
    Experts(Experts),
}

impl FeedForward {
    /// The linear layers that can have updates of their own. Not those of experts, nor the router: transformers 5 holds
    /// them as parameters that are no linear layers, so PEFT's `all-linear` leaves them alone.
    pub(super) fn linears(&self) -> Vec<&Linear> {
        match self {
            FeedForward::One(mlp) => mlp.linears(),
            FeedForward::Experts(_) => Vec::new(),
        }
    }

    /// The same to be changed.
    pub(super) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            FeedForward::One(mlp) => mlp.linears_mut(),
            FeedForward::Experts(_) => Vec::new(),
        }
    }

    /// Every linear layer.
    pub(super) fn all_linears(&self) -> Vec<&Linear> {
        match self {
            FeedForward::One(mlp) => mlp.linears(),
            FeedForward::Experts(experts) => experts.linears(),
        }
    }

    /// The linear layers whose products may be taken in another precision.
    pub(super) fn imprecise_linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            FeedForward::One(mlp) => mlp.linears_mut(),
            FeedForward::Experts(experts) => experts.linears_of_experts_mut(),
        }
    }

    /// Floats a row that are kept so that no product is computed twice; 0 where there is no such way.
    pub(super) fn kept_floats(&self) -> usize {
        match self {
            FeedForward::One(mlp) => mlp.kept_floats(),
            FeedForward::Experts(experts) => experts.kept_floats(),
        }
    }

    pub(super) fn forward(&self, x: &Tensor, updates: Option<&BlockUpdates>) -> Result<Tensor> {
        match self {
            FeedForward::One(mlp) => mlp.forward(x, updates),
            FeedForward::Experts(experts) => experts.forward(x),
        }
    }

    /// `y` from `x [rows, d]` without a graph; with `keep`, what the backward pass wants is left.
    pub(super) fn run(
        &self,
        x: &[f32],
        write: Write,
        y: &mut [f32],
        keep: bool,
        buffers: &Buffers,
    ) -> Option<KeptMlp> {
        match self {
            FeedForward::One(mlp) => mlp.run(x, write, y, keep, buffers),
            FeedForward::Experts(experts) => experts.run(x, write, y, keep, buffers),
        }
    }

    /// `dx [rows, d]` from the input and the gradient of the output; overwrites `dx`.
    pub(super) fn pull(
        &self,
        x: &[f32],
        dy: &[f32],
        kept: Option<KeptMlp>,
        dx: &mut [f32],
        buffers: &Buffers,
    ) {
        match self {
            FeedForward::One(mlp) => mlp.pull(x, dy, kept, dx, buffers),
            FeedForward::Experts(experts) => experts.pull(x, dy, kept, dx, buffers),
        }
    }
}
