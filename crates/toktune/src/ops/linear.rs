//! The product with a frozen weight: one product forward, one backward, never a gradient of the weight.

use super::host::{contiguous, floats};
use crate::profile::{Part, time};
use crate::weights::FrozenMatrix;
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use toktune_kernels::matmul::{self, Write};

/// How the weight of a linear layer is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoredAs {
    /// `[out, in]`, as `torch.nn.Linear` has it.
    #[default]
    Rows,
    /// `[in, out]`, as the `Conv1D` of GPT-2 has it.
    Columns,
}

impl StoredAs {
    /// Inputs and outputs of a layer with this weight.
    pub(crate) fn sizes(self, weight: &FrozenMatrix) -> (usize, usize) {
        match self {
            StoredAs::Rows => (weight.cols(), weight.rows()),
            StoredAs::Columns => (weight.rows(), weight.cols()),
        }
    }

    /// `y (+)= x Wᵀ` for `W [out, in]`, whichever way it is stored.
    pub(crate) fn forward(self, x: &[f32], weight: &FrozenMatrix, write: Write, y: &mut [f32]) {
        let (w, precision) = (weight.view(), weight.precision());
        match self {
            StoredAs::Rows => matmul::forward(x, &w, precision, write, y),
            StoredAs::Columns => matmul::backward(x, &w, precision, write, y),
        }
    }

    /// `dx (+)= dy W`.
    pub(crate) fn backward(self, dy: &[f32], weight: &FrozenMatrix, write: Write, dx: &mut [f32]) {
        let (w, precision) = (weight.view(), weight.precision());
        match self {
            StoredAs::Rows => matmul::backward(dy, &w, precision, write, dx),
            StoredAs::Columns => matmul::forward(dy, &w, precision, write, dx),
        }
    }
}

/// `x [rows, in] Wᵀ + bias` for a frozen `W [out, in]`.
///
/// # Errors
/// `x` is not contiguous `f32`, or its width is not the weight's.
pub fn frozen_linear(
    x: &Tensor,
    weight: &FrozenMatrix,
    stored: StoredAs,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (inputs, outputs) = stored.sizes(weight);
    if x.dim(D::Minus1)? != inputs {
        candle_core::bail!(
            "{}: rows of {} against a weight [{outputs}, {inputs}]",
            weight.name(),
            x.dim(D::Minus1)?
        );
    }
    let y = x.apply_op1(FrozenLinear { weight: weight.clone(), stored })?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

struct FrozenLinear {
    weight: FrozenMatrix,
    stored: StoredAs,
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
        let (inputs, outputs) = self.stored.sizes(&self.weight);
        let rows = x.len() / inputs.max(1);
        let mut y = vec![0f32; rows * outputs];
        time(Part::Products, self.flops(rows), || {
            if rows < matmul::FEW_ROWS && self.stored == StoredAs::Rows {
                matmul::stream(x, &self.weight.view(), Write::Over, &mut y);
            } else {
                self.stored.forward(x, &self.weight, Write::Over, &mut y);
            }
        });
        Ok((CpuStorage::F32(y), Shape::from((rows, outputs))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let mut dx = vec![0f32; x.elem_count()];
        let dy = floats(&dy)?;
        time(Part::Products, self.flops(dx.len() / self.stored.sizes(&self.weight).0.max(1)), || {
            self.stored.backward(&dy, &self.weight, Write::Over, &mut dx);
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
        let columns = to_vec(&w.t()?.contiguous()?)?;
        let columns = FrozenMatrix::from_f32("w", 12, 7, columns).map_err(candle_core::Error::wrap)?;
        for rows in [1, 5] {
            for (weight, stored) in [(&weight, StoredAs::Rows), (&columns, StoredAs::Columns)] {
                assert_same_gradients(
                    &[random((rows, 12), 3)?],
                    |x| frozen_linear(&x[0], weight, stored, Some(&bias)),
                    |x| x[0].matmul(&w.t()?)?.broadcast_add(&bias),
                )?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_width_that_is_not_the_weights_names_the_weight() -> Result<()> {
        let weight =
            FrozenMatrix::from_f32("some.weight", 2, 3, vec![0.0; 6]).map_err(candle_core::Error::wrap)?;
        let message = frozen_linear(&random((1, 4), 1)?, &weight, StoredAs::Rows, None)
            .expect_err("4 is not 3")
            .to_string();
        assert!(message.contains("some.weight") && message.contains("[2, 3]"), "{message}");
        Ok(())
    }
}
