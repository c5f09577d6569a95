//! A frozen linear layer of a block.

use crate::error::Result;
use crate::models::update::{BlockUpdates, Slot};
use crate::ops::{self, StoredAs};
use crate::profile::{Part, time};
use crate::weights::FrozenMatrix;
use candle_core::Tensor;
use std::sync::Arc;
use toktune_kernels::matmul::Write;
use toktune_kernels::rows;

/// A frozen linear layer `[out, in]`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// Its full name, as transformers names the module.
    pub(super) module: String,
    /// Its place among the linear layers of its block.
    pub(super) slot: Slot,
    pub(super) weight: FrozenMatrix,
    pub(super) stored: StoredAs,
    pub(super) bias: Option<Tensor>,
    /// The bias on the host.
    pub(super) host_bias: Option<Arc<Vec<f32>>>,
}

impl Linear {
    /// Width of its inputs.
    pub(crate) fn inputs(&self) -> usize {
        self.stored.sizes(&self.weight).0
    }

    /// Width of its outputs.
    pub(crate) fn outputs(&self) -> usize {
        self.stored.sizes(&self.weight).1
    }

    /// `x [rows, in]` through the layer, with what `updates` have for it.
    pub(crate) fn forward(&self, x: &Tensor, updates: Option<&BlockUpdates>) -> Result<Tensor> {
        let y = ops::frozen_linear(x, &self.weight, self.stored, self.bias.as_ref())?;
        match updates {
            Some(updates) => updates.add(self.slot, x, y),
            None => Ok(y),
        }
    }

    /// Operations of its product over `rows` rows.
    pub(super) fn flops(&self, rows: usize) -> usize {
        2 * rows * self.weight.rows() * self.weight.cols()
    }

    /// `y [rows, out]` from `x [rows, in]`, without a graph.
    pub(crate) fn run(&self, x: &[f32], write: Write, y: &mut [f32]) {
        let flops = self.flops(x.len() / self.inputs().max(1));
        time(Part::Products, flops, || self.stored.forward(x, &self.weight, write, y));
        if let Some(bias) = &self.host_bias {
            rows::add_to_each(y, bias);
        }
    }

    /// The gradient of `x` from that of `y`.
    pub(crate) fn pull(&self, dy: &[f32], write: Write, dx: &mut [f32]) {
        let flops = self.flops(dy.len() / self.outputs().max(1));
        time(Part::Products, flops, || self.stored.backward(dy, &self.weight, write, dx));
    }
}
