//! The product with a frozen weight: one product forward, one backward, never a gradient of the weight.

use super::host::{contiguous, floats};
use crate::profile::{Part, time};
use crate::weights::FrozenMatrix;
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use toktune_kernels::matmul::{self, Write};

/// `x [rows, in] Wᵀ + bias` for a frozen `W [out, in]`.
///
/// # Errors
/// `x` is not contiguous `f32`, or its width is not the weight's.
pub fn frozen_linear(x: &Tensor, weight: &FrozenMatrix, bias: Option<&Tensor>) -> Result<Tensor> {
    if x.dim(D::Minus1)? != weight.cols() {
        candle_core::bail!(
            "{}: rows of {} against a weight [{}, {}]",
            weight.name(),
            x.dim(D::Minus1)?,
            weight.rows(),
            weight.cols()
        );
    }
    let y = x.apply_op1(FrozenLinear { weight: weight.clone() })?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

struct FrozenLinear {
    weight: FrozenMatrix,
}

impl FrozenLinear {
    fn flops(&self, rows: usize) -> usize {
        2 * rows * self.weight.rows() * self.weight.cols()
    }
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "frozen_linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout, self.name())?;
        let rows = x.len() / self.weight.cols().max(1);
        let mut y = vec![0f32; rows * self.weight.rows()];
        let precision = self.weight.precision();
        time(Part::Products, self.flops(rows), || {
            if rows < matmul::FEW_ROWS {
                matmul::stream(x, &self.weight.view(), Write::Over, &mut y);
            } else {
                matmul::forward(x, &self.weight.view(), precision, Write::Over, &mut y);
            }
        });
        Ok((CpuStorage::F32(y), Shape::from((rows, self.weight.rows()))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let mut dx = vec![0f32; x.elem_count()];
        let dy = floats(&dy)?;
        time(Part::Products, self.flops(dx.len() / self.weight.cols().max(1)), || {
            matmul::backward(&dy, &self.weight.view(), self.weight.precision(), Write::Over, &mut dx);
        });
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::host::to_vec;
    use crate::ops::testing::{assert_same_gradients, random};

    #[test]
    fn it_agrees_with_candles_product() -> Result<()> {
        let (w, bias) = (random((7, 12), 1)?, random(7, 2)?);
        let weight = FrozenMatrix::from_f32("w", 7, 12, to_vec(&w)?).map_err(candle_core::Error::wrap)?;
        let x = random((5, 12), 3)?;
        assert_same_gradients(
            &[x],
            |x| frozen_linear(&x[0], &weight, Some(&bias)),
            |x| x[0].matmul(&w.t()?)?.broadcast_add(&bias),
        )
    }

    #[test]
    fn a_width_that_is_not_the_weights_names_the_weight() -> Result<()> {
        let weight =
            FrozenMatrix::from_f32("some.weight", 2, 3, vec![0.0; 6]).map_err(candle_core::Error::wrap)?;
        let message = frozen_linear(&random((1, 4), 1)?, &weight, None).expect_err("4 is not 3").to_string();
        assert!(message.contains("some.weight") && message.contains("[2, 3]"), "{message}");
        Ok(())
    }
}
