//! Layer normalisation.

use super::host::{contiguous, floats};
use crate::profile::{Part, time};
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use toktune_kernels::layer_norm::{layer_norm_backward, layer_norm_forward};
use toktune_kernels::matmul::Write;

/// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias` over the last dimension of `x [rows, d]`, with `weight` and `bias`
/// `[d]`.
///
/// # Errors
/// A tensor is not contiguous `f32`, or the widths differ.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f32) -> Result<Tensor> {
    let d = weight.elem_count();
    if x.dim(D::Minus1)? != d || bias.is_some_and(|b| b.elem_count() != d) {
        candle_core::bail!("layer_norm: rows of {} and a weight of {d}", x.dim(D::Minus1)?);
    }
    if x.device().is_cpu() {
        x.apply_op1(LayerNorm { weight: weight.clone(), bias: bias.cloned(), eps })
    } else {
        composite(x, weight, bias, eps)
    }
}

pub(crate) fn composite(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f32) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let y = centred.broadcast_div(&(variance + eps as f64)?.sqrt()?)?.broadcast_mul(weight)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

struct LayerNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f32,
}

impl CustomOp1 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout, self.name())?;
        let mut y = vec![0f32; x.len()];
        let weight = floats(&self.weight)?;
        let bias = self.bias.as_ref().map(floats).transpose()?;
        let bias = bias.as_deref().unwrap_or(&[]);
        time(Part::Rows, 0, || layer_norm_forward(x, &weight, bias, self.eps, &mut y));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let mut dx = vec![0f32; x.elem_count()];
        let (x_data, weight, dy) = (floats(x)?, floats(&self.weight)?, floats(&dy)?);
        time(Part::Rows, 0, || layer_norm_backward(&x_data, &weight, self.eps, &dy, Write::Over, &mut dx));
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_same_gradients, random};

    #[test]
    fn the_kernel_and_the_composite_agree() -> Result<()> {
        let (x, weight, bias) = (random((5, 12), 1)?, random(12, 2)?, random(12, 3)?);
        for bias in [None, Some(&bias)] {
            assert_same_gradients(
                std::slice::from_ref(&x),
                |x| layer_norm(&x[0], &weight, bias, 1e-5),
                |x| composite(&x[0], &weight, bias, 1e-5),
            )?;
        }
        Ok(())
    }

    #[test]
    fn a_weight_of_another_width_is_refused() -> Result<()> {
        let error = layer_norm(&random((2, 4), 1)?, &random(3, 2)?, None, 1e-5).expect_err("widths differ");
        assert!(error.to_string().contains("rows of 4 and a weight of 3"), "{error}");
        Ok(())
    }
}
