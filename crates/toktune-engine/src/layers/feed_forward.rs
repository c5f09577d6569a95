//! What a block does to each row by itself: one MLP, or a mixture of them.

use super::around::{Around, Gradients};
use super::experts::{Experts, KeptExperts};
use super::linear::Linear;
use super::mlp::{KeptMlp, Mlp};
use crate::backend::{Backend, Write};

/// Frozen weights of the half of a block that is no attention.
#[derive(Debug)]
pub(super) enum FeedForward<B: Backend> {
    One(Box<Mlp<B>>),
    Experts(Box<Experts<B>>),
}

/// What it keeps for its backward pass.
#[derive(Debug)]
pub(super) enum KeptFeedForward<B: Backend> {
    One(KeptMlp<B>),
    Experts(Box<KeptExperts<B>>),
}

impl<B: Backend> FeedForward<B> {
    /// The linear layers that can have updates of their own.
    pub(super) fn linears(&self) -> Vec<&Linear<B>> {
        match self {
            FeedForward::One(mlp) => mlp.linears(),
            FeedForward::Experts(experts) => experts.linears(),
        }
    }

    /// Every linear layer.
    pub(super) fn all_linears(&self) -> Vec<&Linear<B>> {
        match self {
            FeedForward::One(mlp) => mlp.linears(),
            FeedForward::Experts(experts) => experts.all_linears(),
        }
    }

    /// Calls `change` with the linear layers whose weights may be changed: every one but a router, whose products are
    /// always `f32`.
    pub(super) fn change_linears(&mut self, backend: &B, mut change: impl FnMut(&mut Linear<B>)) {
        match self {
            FeedForward::One(mlp) => {
                mlp.linears_mut().into_iter().for_each(&mut change);
                mlp.put_together(backend);
            }
            FeedForward::Experts(experts) => experts.change_linears(backend, change),
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
    ) -> Option<KeptFeedForward<B>> {
        match self {
            FeedForward::One(mlp) => mlp.run(around, x, write, y, keep).map(KeptFeedForward::One),
            FeedForward::Experts(experts) => {
                let kept = experts.run(around, x, write, y, keep);
                kept.map(|kept| KeptFeedForward::Experts(Box::new(kept)))
            }
        }
    }

    /// `dx [rows, d]` from the input and the gradient of the output; overwrites `dx`.
    pub(super) fn pull(
        &self,
        around: &Around<'_, B>,
        [x, dy]: [&B::Buffer; 2],
        kept: Option<KeptFeedForward<B>>,
        dx: &mut B::Buffer,
        gradients: &mut Gradients<'_, B>,
    ) {
        match (self, kept) {
            (FeedForward::One(mlp), Some(KeptFeedForward::One(kept))) => {
                mlp.pull(around, [x, dy], Some(kept), dx, gradients);
            }
            (FeedForward::One(mlp), _) => mlp.pull(around, [x, dy], None, dx, gradients),
            (FeedForward::Experts(experts), Some(KeptFeedForward::Experts(kept))) => {
                experts.pull(around, [x, dy], Some(*kept), dx, gradients);
            }
            (FeedForward::Experts(experts), _) => experts.pull(around, [x, dy], None, dx, gradients),
        }
    }
}
