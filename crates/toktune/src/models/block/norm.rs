//! A frozen norm.

use super::BlockTensor;
use crate::error::Result;
use crate::models::spec::NormKind;
use crate::ops;
use crate::profile::{Part, time};
use candle_core::Tensor;
use std::sync::Arc;
use toktune_kernels::layer_norm::{layer_norm_backward, layer_norm_forward};
use toktune_kernels::matmul::Write;
use toktune_kernels::norm::{rms_norm_backward, rms_norm_forward};
use toktune_kernels::rows;

/// A frozen norm over rows of the width of its weight.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    /// Its full name, as transformers names the module.
    pub(super) module: String,
    pub(super) kind: NormKind,
    /// What it multiplies with, `[width]`: the family's offset is in it. Ones where heads have weights of their own.
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
    /// Weight and bias on the host; no bias is empty.
    pub(super) host: Arc<(Vec<f32>, Vec<f32>)>,
    pub(super) eps: f32,
    pub(super) of_heads: Option<HeadWeights>,
}

/// Weights of a norm that each head has for itself, `[heads * width]`.
#[derive(Clone, Debug)]
pub(super) struct HeadWeights {
    pub(super) weight: Tensor,
    pub(super) host: Arc<Vec<f32>>,
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
        let normed = self.forward(&heads)?.reshape(x.shape())?;
        Ok(match &self.of_heads {
            Some(of_heads) => normed.broadcast_mul(&of_heads.weight)?,
            None => normed,
        })
    }

    /// `y` from `x`, without a graph.
    pub(crate) fn run(&self, x: &[f32], y: &mut [f32]) {
        let (weight, bias) = &*self.host;
        time(Part::Rows, 0, || {
            match self.kind {
                NormKind::Rms => rms_norm_forward(x, weight, self.eps, y),
                NormKind::Layer { .. } => layer_norm_forward(x, weight, bias, self.eps, y),
            }
            if let Some(of_heads) = &self.of_heads {
                rows::multiply_each(y, &of_heads.host);
            }
        });
    }

    /// The gradient of `x` from that of `y`.
    pub(crate) fn pull(&self, x: &[f32], dy: &[f32], write: Write, dx: &mut [f32]) {
        let weight = &self.host.0;
        let before_weights = self.of_heads.as_ref().map(|of_heads| {
            let mut dy = dy.to_vec();
            time(Part::Rows, 0, || rows::multiply_each(&mut dy, &of_heads.host));
            dy
        });
        let dy = before_weights.as_deref().unwrap_or(dy);
        time(Part::Rows, 0, || match self.kind {
            NormKind::Rms => rms_norm_backward(x, weight, self.eps, dy, write, dx),
            NormKind::Layer { .. } => layer_norm_backward(x, weight, self.eps, dy, write, dx),
        });
    }

    /// Its stored tensors by their names.
    pub(in crate::models) fn tensors(&self) -> Vec<(String, BlockTensor<'_>)> {
        let (weight, bias) = &*self.host;
        let named = |module: &str, weight| (format!("{module}.weight"), BlockTensor::Norm(weight));
        if let Some(of_heads) = &self.of_heads {
            // heads without a tensor of their own make one matrix, whose rows they are
            let width = if self.module.contains("{}") { weight.len() } else { of_heads.host.len() };
            let heads = of_heads.host.chunks_exact(width.max(1)).enumerate();
            return heads.map(|(head, w)| named(&self.module.replace("{}", &head.to_string()), w)).collect();
        }
        let mut tensors = vec![named(&self.module, weight)];
        if !bias.is_empty() {
            tensors.push((format!("{}.bias", self.module), BlockTensor::Bias(bias)));
        }
        tensors
    }
}
