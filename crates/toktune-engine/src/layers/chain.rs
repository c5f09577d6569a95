//! What is done to single rows before the first block and after the last one: norms, projections, activations, factors.

use super::linear::Linear;
use super::norm::Norm;
use crate::backend::{Activation, Backend, Write};

/// Operations on rows, one after the other.
#[derive(Debug)]
pub struct Chain<B: Backend>(pub(crate) Vec<Stage<B>>);

/// One of them.
#[derive(Debug)]
pub(crate) enum Stage<B: Backend> {
    Norm(Norm<B>),
    Linear(Linear<B>),
    Activation(Activation),
    Scale(f32),
}

impl<B: Backend> Default for Chain<B> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<B: Backend> Stage<B> {
    fn run(&self, backend: &B, x: &B::Buffer) -> B::Buffer {
        let copy = || backend.part(x, 0..backend.len(x));
        match self {
            Stage::Norm(norm) => norm.apply(backend, x),
            Stage::Linear(linear) => {
                let mut y = backend.take(backend.len(x) / linear.inputs().max(1) * linear.outputs());
                linear.run_frozen(backend, x, Write::Over, &mut y);
                y
            }
            Stage::Activation(activation) => {
                let mut y = copy();
                backend.activate(*activation, &mut y);
                y
            }
            Stage::Scale(factor) => {
                let mut y = copy();
                backend.scale(&mut y, *factor);
                y
            }
        }
    }

    /// The gradient of the input `x` from that of the output.
    fn pull(&self, backend: &B, x: &B::Buffer, mut dy: B::Buffer) -> B::Buffer {
        match self {
            Stage::Norm(norm) => {
                let mut dx = backend.take(backend.len(x));
                norm.pull(backend, x, &dy, Write::Over, &mut dx);
                dx
            }
            Stage::Linear(linear) => {
                let mut dx = backend.take(backend.len(x));
                linear.pull_frozen(backend, &dy, Write::Over, &mut dx);
                dx
            }
            Stage::Activation(activation) => {
                backend.pull_activate(*activation, x, &mut dy);
                dy
            }
            Stage::Scale(factor) => {
                backend.scale(&mut dy, *factor);
                dy
            }
        }
    }
}

impl<B: Backend> Chain<B> {
    /// Whether it leaves rows as they are.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rows at the end of the chain.
    pub fn run(&self, backend: &B, x: B::Buffer) -> B::Buffer {
        self.0.iter().fold(x, |x, stage| stage.run(backend, &x))
    }

    /// The gradient of the rows `x` at its beginning from that of those at its end.
    pub fn pull(&self, backend: &B, x: &B::Buffer, dy: B::Buffer) -> B::Buffer {
        let mut inputs = vec![backend.part(x, 0..backend.len(x))];
        for stage in self.0.iter().take(self.0.len().saturating_sub(1)) {
            let next = inputs.last().map(|input| stage.run(backend, input));
            inputs.extend(next);
        }
        self.0.iter().zip(&inputs).rev().fold(dy, |dy, (stage, input)| stage.pull(backend, input, dy))
    }

    /// Its norms.
    pub fn norms(&self) -> impl Iterator<Item = &Norm<B>> {
        self.0.iter().filter_map(|stage| match stage {
            Stage::Norm(norm) => Some(norm),
            _ => None,
        })
    }

    /// Its linear layers.
    pub fn linears(&self) -> impl Iterator<Item = &Linear<B>> {
        self.0.iter().filter_map(|stage| match stage {
            Stage::Linear(linear) => Some(linear),
            _ => None,
        })
    }
}
