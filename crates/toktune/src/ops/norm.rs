//! Root-mean-square normalisation.

use super::host::{contiguous, floats};
use crate::profile::{Part, time};
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use toktune_kernels::matmul::Write;
use toktune_kernels::norm::{rms_norm_backward, rms_norm_forward};

/// `x / sqrt(mean(x²) + eps) * weight` over the last dimension of `x [rows, d]`, with `weight [d]`.
///
/// # Errors
/// A tensor is not contiguous `f32`, or the widths differ.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    if x.dim(D::Minus1)? != weight.elem_count() {
        candle_core::bail!("rms_norm: rows of {} and a weight of {}", x.dim(D::Minus1)?, weight.elem_count());
    }
    if x.device().is_cpu() {
        x.apply_op1(RmsNorm { weight: weight.clone(), eps })
    } else {
        composite(x, weight, eps)
    }
}

pub(crate) fn composite(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(variance + eps as f64)?.sqrt()?)?.broadcast_mul(weight)
}

struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout, self.name())?;
        let mut y = vec![0f32; x.len()];
        let weight = floats(&self.weight)?;
        time(Part::Rows, 0, || rms_norm_forward(x, &weight, self.eps, &mut y));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let mut dx = vec![0f32; x.elem_count()];
        let (x_data, weight, dy) = (floats(x)?, floats(&self.weight)?, floats(&dy)?);
        time(Part::Rows, 0, || rms_norm_backward(&x_data, &weight, self.eps, &dy, Write::Over, &mut dx));
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_same_gradients, random};

    #[test]
    fn the_kernel_and_the_composite_agree() -> Result<()> {
        let (x, weight) = (random((5, 12), 1)?, random(12, 2)?);
        assert_same_gradients(&[x], |x| rms_norm(&x[0], &weight, 1e-5), |x| composite(&x[0], &weight, 1e-5))
    }

    #[test]
    fn a_weight_of_another_width_is_refused() -> Result<()> {
        let message =
            rms_norm(&random((2, 4), 1)?, &random(3, 2)?, 1e-5).expect_err("widths differ").to_string();
        assert!(message.contains("rows of 4 and a weight of 3"), "{message}");
        Ok(())
    }
}
