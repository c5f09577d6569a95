//! The activation of an MLP without a gate.

use super::host::{contiguous, floats};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use toktune_kernels::gated::{Activation, activate, activate_backward};

/// `activation(x)`, entry by entry.
///
/// # Errors
/// `x` is not contiguous `f32`.
pub fn activation(x: &Tensor, activation: Activation) -> Result<Tensor> {
    if x.device().is_cpu() { x.apply_op1(Op { activation }) } else { composite(x, activation) }
}

pub(crate) fn composite(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::GeluTanh => x.gelu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::Relu => x.relu(),
    }
}

struct Op {
    activation: Activation,
}

impl CustomOp1 for Op {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = contiguous(storage, layout, self.name())?.to_vec();
        activate(self.activation, &mut y);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let mut dx = floats(&dy.contiguous()?)?.to_vec();
        activate_backward(self.activation, &floats(x)?, &mut dx);
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_same_gradients, random};

    #[test]
    fn the_kernel_and_the_composite_agree() -> Result<()> {
        for of in Activation::ALL {
            let x = random((5, 7), 1)?;
            assert_same_gradients(&[x], |x| activation(&x[0], of), |x| composite(&x[0], of))?;
        }
        Ok(())
    }
}
