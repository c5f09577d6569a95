//! A frozen norm.

use crate::error::Result;
use crate::models::spec::NormKind;
use crate::ops;
use crate::profile::{Part, time};
use candle_core::Tensor;
use std::sync::Arc;
use toktune_kernels::layer_norm::{layer_norm_backward, layer_norm_forward};
use toktune_kernels::matmul::Write;
use toktune_kernels::norm::{rms_norm_backward, rms_norm_forward};

/// A frozen norm over rows of the width of its weight.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    /// Its full name, as transformers names the module.
    pub(super) module: String,
    pub(super) kind: NormKind,
    /// What it multiplies with, `[width]`: the family's offset is in it.
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
    /// Weight and bias on the host; no bias is empty.
    pub(super) host: Arc<(Vec<f32>, Vec<f32>)>,
    pub(super) eps: f32,
}

impl Norm {
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self.kind {
            NormKind::Rms => ops::rms_norm(x, &self.weight, self.eps)?,
            NormKind::Layer { .. } => ops::layer_norm(x, &self.weight, self.bias.as_ref(), self.eps)?,
        })
    }

    /// Norms each head of `x [rows, heads * width]` on its own.
    pub(super) fn forward_heads(&self, x: &Tensor) -> Result<Tensor> {
        let width = self.weight.elem_count();
        let heads = x.reshape((x.elem_count() / width, width))?;
        Ok(self.forward(&heads)?.reshape(x.shape())?)
    }

    /// `y` from `x`, without a graph.
    pub(crate) fn run(&self, x: &[f32], y: &mut [f32]) {
        let (weight, bias) = &*self.host;
        time(Part::Rows, 0, || match self.kind {
            NormKind::Rms => rms_norm_forward(x, weight, self.eps, y),
            NormKind::Layer { .. } => layer_norm_forward(x, weight, bias, self.eps, y),
        });
    }

    /// The gradient of `x` from that of `y`.
    pub(crate) fn pull(&self, x: &[f32], dy: &[f32], write: Write, dx: &mut [f32]) {
        let weight = &self.host.0;
        time(Part::Rows, 0, || match self.kind {
            NormKind::Rms => rms_norm_backward(x, weight, self.eps, dy, write, dx),
            NormKind::Layer { .. } => layer_norm_backward(x, weight, self.eps, dy, write, dx),
        });
    }
}
