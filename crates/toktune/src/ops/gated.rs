//! The gated activation of an MLP.

use super::host::{contiguous, floats};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use toktune_kernels::gated::{Activation, gated_backward, gated_forward};

/// `activation(gate) * up`, entry by entry.
///
/// # Errors
/// A tensor is not contiguous `f32`, or the shapes differ.
pub fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    if gate.shape() != up.shape() {
        candle_core::bail!("gated: gate {:?} and up {:?}", gate.shape(), up.shape());
    }
    if gate.device().is_cpu() {
        gate.apply_op2(up, Gated { activation })
    } else {
        composite(gate, up, activation)
    }
}

pub(crate) fn composite(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    super::activation::composite(gate, activation)?.mul(up)
}

struct Gated {
    activation: Activation,
}

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (contiguous(s1, l1, self.name())?, contiguous(s2, l2, self.name())?);
        let mut y = vec![0f32; gate.len()];
        gated_forward(self.activation, gate, up, &mut y);
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (mut dgate, mut dup) = (floats(&dy)?.to_vec(), vec![0f32; gate.elem_count()]);
        let (g, u) = (floats(gate)?, floats(up)?);
        gated_backward(self.activation, &g, &u, &mut dgate, &mut dup);
        Ok((
            Some(Tensor::from_vec(dgate, gate.shape(), gate.device())?),
            Some(Tensor::from_vec(dup, up.shape(), up.device())?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_same_gradients, random};

    #[test]
    fn the_kernel_and_the_composite_agree() -> Result<()> {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let (gate, up) = ((random((4, 9), 1)? * 3.0)?, random((4, 9), 2)?);
            assert_same_gradients(
                &[gate, up],
                |x| gated(&x[0], &x[1], activation),
                |x| composite(&x[0], &x[1], activation),
            )?;
        }
        Ok(())
    }

    #[test]
    fn shapes_that_differ_are_refused() -> Result<()> {
        assert!(gated(&random((2, 3), 1)?, &random((3, 2), 1)?, Activation::Silu).is_err());
        Ok(())
    }
}
