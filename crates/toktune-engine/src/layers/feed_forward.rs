//! What a block does to each row by itself: one MLP, or a mixture of them.

use super::around::{Around, Gradients};
use super::experts::Experts;
use super::linear::Linear;
use super::mlp::{KeptMlp, Mlp};
use crate::backend::{Backend, Write};

/// Frozen weights of the half of a block that is no attention.
#[derive(Debug)]
pub(super) enum FeedForward<B: Backend> {
    One(Box<Mlp<B>>),
    Experts(Experts<B>),
}

impl<B: Backend> FeedForward<B> {
    /// The linear layers that can have updates of their own. Not those of experts, nor the router: transformers 5 holds
    /// them as parameters that are no linear layers, so PEFT's `all-linear` leaves them alone.
    pub(super) fn linears(&self) -> Vec<&Linear<B>> {
        match self {
            FeedForward::One(mlp) => mlp.linears(),
            FeedForward::Experts(_) => Vec::new(),
        }
    }

    /// Every linear layer.
    pub(super) fn all_linears(&self) -> Vec<&Linear<B>> {
        match self {
            FeedForward::One(mlp) => mlp.linears(),
            FeedForward::Experts(experts) => experts.linears(),
        }
    }

    /// Calls `change` with the linear layers whose weights may be changed: every one but a router, whose products are
    /// always `f32`.
    pub(super) fn change_linears(&mut self, backend: &B, mut change: impl FnMut(&mut Linear<B>)) {
        let mlps = match self {
            FeedForward::One(mlp) => std::slice::from_mut(&mut **mlp),
            FeedForward::Experts(experts) => &mut experts.experts,
        };
        for mlp in mlps {
            mlp.linears_mut().into_iter().for_each(&mut change);
            mlp.put_together(backend);
        }
    }

    /// Floats a row that are kept so that no product is computed twice.
    pub(super) fn kept_floats(&self) -> usize {
        match self {
            FeedForward::One(mlp) => mlp.kept_floats(),
            FeedForward::Experts(experts) => experts.kept_floats(),
        }
    }

    /// `y` from `x [rows, d]`; with `keep`, what the backward pass wants is left.
    pub(super) fn run(
        &self,
        around: &Around<'_, B>,
        x: &B::Buffer,
        write: Write,
        y: &mut B::Buffer,
        keep: bool,
    ) -> Option<KeptMlp<B>> {
        match self {
            FeedForward::One(mlp) => mlp.run(around, x, write, y, keep),
            FeedForward::Experts(experts) => experts.run(around, x, write, y, keep),
        }
    }

    /// `dx [rows, d]` from the input and the gradient of the output; overwrites `dx`.
    pub(super) fn pull(
        &self,
        around: &Around<'_, B>,
        [x, dy]: [&B::Buffer; 2],
        kept: Option<KeptMlp<B>>,
        dx: &mut B::Buffer,
        gradients: &mut Gradients<'_, B>,
    ) {
        match self {
            FeedForward::One(mlp) => mlp.pull(around, [x, dy], kept, dx, gradients),
            FeedForward::Experts(experts) => experts.pull(around, [x, dy], kept, dx, gradients),
        }
    }
}
