//! How much of a forward pass is kept for the backward one.

use super::attention::Attended;
use super::convolution::Convolved;
use super::feed_forward::KeptFeedForward;
use crate::backend::Backend;

/// How much of a block's forward pass is kept for its backward pass, least first; each level keeps what those before it do.
/// The order is that of the arithmetic saved for a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// The block's input alone.
    #[default]
    Input,
    /// The outputs of the attentions and of the projections back to the hidden width, where the backward pass reads them.
    Outputs,
    /// Queries, keys and values, or what a convolution reads.
    Projections,
    /// The inner rows of the MLP: no product is computed twice.
    Everything,
}

/// What a block's forward pass left for its backward pass.
#[derive(Debug)]
pub struct Kept<B: Backend> {
    /// The block's input `[rows, d]`.
    pub(super) input: B::Buffer,
    /// One for each sublayer.
    pub(super) sublayers: Vec<KeptSublayer<B>>,
}

/// What was kept of a sublayer.
#[derive(Debug)]
pub(super) struct KeptSublayer<B: Backend> {
    /// What it added to the residual stream, before norms of it, where one reads it.
    pub(super) update: Option<B::Buffer>,
    /// The residual stream after it, where the next one needs it and it follows from nothing else that is kept.
    pub(super) output: Option<B::Buffer>,
    /// The output of the attention and the logarithms of its denominators.
    pub(super) attended: Option<[B::Buffer; 2]>,
    /// Queries, keys and values before norms and rotation.
    pub(super) qkv: Option<[B::Buffer; 3]>,
    /// The projections that a convolution reads.
    pub(super) fused: Option<B::Buffer>,
    pub(super) mlp: Option<KeptFeedForward<B>>,
}

impl<B: Backend> Default for KeptSublayer<B> {
    fn default() -> Self {
        Self { update: None, output: None, attended: None, qkv: None, fused: None, mlp: None }
    }
}

/// What is known of a sublayer when its gradient is taken.
pub(super) struct State<B: Backend> {
    /// What it read.
    pub(super) input: B::Buffer,
    pub(super) attended: Option<Attended<B>>,
    pub(super) convolved: Option<Convolved<B>>,
    /// What it added, where a norm reads it.
    pub(super) update: Option<B::Buffer>,
    pub(super) mlp: Option<KeptFeedForward<B>>,
}
