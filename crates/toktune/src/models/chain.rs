//! What is done to single rows before the first block and after the last one: norms, projections, activations, factors.

use super::block::{Linear, Norm};
use crate::ops::Activation;
use toktune_kernels::gated::{activate, activate_backward};
use toktune_kernels::matmul::Write;
use toktune_kernels::rows;

/// Operations on rows, one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain(pub(super) Vec<Stage>);

/// One of them.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    Norm(Norm),
    Linear(Linear),
    Activation(Activation),
    Scale(f32),
}

impl Stage {
    fn run(&self, x: Vec<f32>) -> Vec<f32> {
        match self {
            Stage::Norm(norm) => {
                let mut y = vec![0f32; x.len()];
                norm.run(&x, &mut y);
                y
            }
            Stage::Linear(linear) => {
                let mut y = vec![0f32; x.len() / linear.inputs().max(1) * linear.outputs()];
                linear.run(&x, Write::Over, &mut y);
                y
            }
            Stage::Activation(activation) => {
                let mut y = x;
                activate(*activation, &mut y);
                y
            }
            Stage::Scale(factor) => {
                let mut y = x;
                rows::scale(&mut y, *factor);
                y
            }
        }
    }

    /// The gradient of the input `x` from that of the output.
    fn pull(&self, x: &[f32], dy: Vec<f32>) -> Vec<f32> {
        match self {
            Stage::Norm(norm) => {
                let mut dx = vec![0f32; x.len()];
                norm.pull(x, &dy, Write::Over, &mut dx);
                dx
            }
            Stage::Linear(linear) => {
                let mut dx = vec![0f32; x.len()];
                linear.pull(&dy, Write::Over, &mut dx);
                dx
            }
            Stage::Activation(activation) => {
                let mut dx = dy;
                activate_backward(*activation, x, &mut dx);
                dx
            }
            Stage::Scale(factor) => {
                let mut dx = dy;
                rows::scale(&mut dx, *factor);
                dx
            }
        }
    }
}

impl Chain {
    /// Whether it leaves rows as they are.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rows at the end of the chain.
    pub(crate) fn run(&self, x: Vec<f32>) -> Vec<f32> {
        self.0.iter().fold(x, |x, stage| stage.run(x))
    }

    /// The gradient of the rows `x` at its beginning from that of those at its end.
    pub(crate) fn pull(&self, x: &[f32], dy: Vec<f32>) -> Vec<f32> {
        let mut inputs = Vec::new();
        let mut input = x.to_vec();
        for (i, stage) in self.0.iter().enumerate() {
            let is_last = i + 1 == self.0.len();
            let next = if is_last { Vec::new() } else { stage.run(input.clone()) };
            inputs.push(std::mem::replace(&mut input, next));
        }
        self.0.iter().zip(&inputs).rev().fold(dy, |dy, (stage, input)| stage.pull(input, dy))
    }

    /// Its norms.
    pub(super) fn norms(&self) -> impl Iterator<Item = &Norm> {
        self.0.iter().filter_map(|stage| match stage {
            Stage::Norm(norm) => Some(norm),
            _ => None,
        })
    }

    /// Its linear layers.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.0.iter().filter_map(|stage| match stage {
            Stage::Linear(linear) => Some(linear),
            _ => None,
        })
    }
}
