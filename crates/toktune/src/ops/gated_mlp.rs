//! A gated MLP with frozen weights as one operation: what is between its products never leaves the kernel.

use super::host::{contiguous, floats};
use crate::profile::{Part, time};
use crate::weights::FrozenMatrix;
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use toktune_kernels::Weight;
use toktune_kernels::gated::Activation;
use toktune_kernels::gated_mlp::GatedMlp;
use toktune_kernels::matmul::Write;

/// The frozen weights of a gated MLP: `gate` and `up` are `[inner, d]`, `down` is `[d, inner]`.
#[derive(Clone, Copy, Debug)]
pub struct GatedMlpWeights<'a> {
    /// Gate projection.
    pub gate: &'a FrozenMatrix,
    /// Up projection.
    pub up: &'a FrozenMatrix,
    /// Down projection.
    pub down: &'a FrozenMatrix,
    /// Of the gate.
    pub activation: Activation,
}

/// `(activation(x gateᵀ) * (x upᵀ)) downᵀ` for `x [rows, d]`.
///
/// # Errors
/// `x` is not contiguous `f32`, or its width is not the weights'.
pub fn gated_mlp(x: &Tensor, weights: &GatedMlpWeights<'_>) -> Result<Tensor> {
    let (gate, up, down) = (weights.gate, weights.up, weights.down);
    let fits = (up.rows(), up.cols()) == (gate.rows(), gate.cols())
        && (down.rows(), down.cols()) == (gate.cols(), gate.rows());
    if !fits || x.dim(D::Minus1)? != gate.cols() {
        candle_core::bail!(
            "{}: rows of {} against weights [{}, {}], [{}, {}] and [{}, {}]",
            gate.name(),
            x.dim(D::Minus1)?,
            gate.rows(),
            gate.cols(),
            up.rows(),
            up.cols(),
            down.rows(),
            down.cols()
        );
    }
    let activation = weights.activation;
    x.apply_op1(GatedMlpOp { gate: gate.clone(), up: up.clone(), down: down.clone(), activation })
}

struct GatedMlpOp {
    gate: FrozenMatrix,
    up: FrozenMatrix,
    down: FrozenMatrix,
    activation: Activation,
}

impl GatedMlpOp {
    fn run<R>(&self, work: impl FnOnce(GatedMlp<'_, Weight<'_>>) -> R) -> R {
        let (gate, up, down) = (self.gate.view(), self.up.view(), self.down.view());
        let (activation, precision) = (self.activation, self.gate.precision());
        work(GatedMlp { gate: &gate, up: &up, down: &down, activation, precision })
    }

    /// Operations of one of the three products over `rows` rows.
    fn flops(&self, rows: usize) -> usize {
        2 * rows * self.gate.rows() * self.gate.cols()
    }
}

impl CustomOp1 for GatedMlpOp {
    fn name(&self) -> &'static str {
        "gated_mlp"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout, self.name())?;
        let mut y = vec![0f32; x.len()];
        let flops = 3 * self.flops(x.len() / self.gate.cols().max(1));
        time(Part::Products, flops, || self.run(|mlp| mlp.forward(x, Write::Over, &mut y, None)));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let mut dx = vec![0f32; x.elem_count()];
        let (x_data, dy) = (floats(x)?, floats(&dy)?);
        let flops = 5 * self.flops(dx.len() / self.gate.cols().max(1));
        time(Part::Products, flops, || {
            self.run(|mlp| mlp.backward(&x_data, &dy, None, &mut dx));
        });
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::host::to_vec;
    use crate::ops::testing::{assert_same_gradients, random};
    use crate::ops::{StoredAs, frozen_linear, gated};

    fn matrix(rows: usize, cols: usize, seed: u64) -> Result<FrozenMatrix> {
        let w = random((rows, cols), seed)?;
        FrozenMatrix::from_f32("w", rows, cols, to_vec(&w)?).map_err(candle_core::Error::wrap)
    }

    #[test]
    fn it_agrees_with_its_parts() -> Result<()> {
        let (gate, up, down) = (matrix(9, 5, 1)?, matrix(9, 5, 2)?, matrix(5, 9, 3)?);
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let weights = GatedMlpWeights { gate: &gate, up: &up, down: &down, activation };
            assert_same_gradients(
                &[random((6, 5), 4)?],
                |x| gated_mlp(&x[0], &weights),
                |x| {
                    let inner = gated(
                        &frozen_linear(&x[0], &gate, StoredAs::Rows, None)?,
                        &frozen_linear(&x[0], &up, StoredAs::Rows, None)?,
                        activation,
                    )?;
                    frozen_linear(&inner, &down, StoredAs::Rows, None)
                },
            )?;
        }
        Ok(())
    }

    #[test]
    fn weights_that_do_not_fit_are_named() -> Result<()> {
        let (gate, up, down) = (matrix(9, 5, 1)?, matrix(8, 5, 2)?, matrix(5, 9, 3)?);
        let weights = GatedMlpWeights { gate: &gate, up: &up, down: &down, activation: Activation::Silu };
        let message = gated_mlp(&random((2, 5), 1)?, &weights).expect_err("8 is not 9").to_string();
        assert!(message.contains("[9, 5], [8, 5]"), "{message}");
        Ok(())
    }
}
