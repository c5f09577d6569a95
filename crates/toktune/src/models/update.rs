//! Low-rank updates of a block's linear layers: what a caller hands in beside the frozen weights.

use crate::error::Result;
use candle_core::{Tensor, Var};

/// The place of a linear layer among those of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub(crate) usize);

/// `scaling * B (A x)` beside a frozen product.
#[derive(Clone, Debug)]
pub struct LinearUpdate {
    /// Which layer it is for.
    pub slot: Slot,
    /// Where the caller has it among all updates.
    pub index: usize,
    /// `A [r, in]`.
    pub a: Tensor,
    /// `B [out, r]`.
    pub b: Tensor,
    /// The factor.
    pub scaling: f32,
    /// Inputs of `A` that are left out.
    pub dropout: Option<Dropout>,
}

/// Which inputs a training step leaves out: the same ones whenever the same step is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The share that is left out, at least 0 and below 1.
    pub share: f32,
    /// Of the choice.
    pub seed: u64,
}

impl Dropout {
    /// `x [rows, width]` with entries left out and the others made larger for it.
    fn apply(self, x: &Tensor) -> Result<Tensor> {
        let keep = 1.0 / (1.0 - self.share);
        let limit = (f64::from(self.share) * 2f64.powi(32)) as u64;
        // an entry's number decides, so that neither threads nor the order of rows can
        let factor = |at: u64| match mixed(self.seed.wrapping_add(at)) >> 32 < limit {
            true => 0.0,
            false => keep,
        };
        let factors = Tensor::from_iter((0..x.elem_count() as u64).map(factor), x.device())?;
        Ok((x * factors.reshape(x.shape())?)?)
    }
}

/// One step of SplitMix64, whose bits look independent for neighbouring numbers.
fn mixed(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The updates of one block.
#[derive(Clone, Debug, Default)]
pub struct BlockUpdates(pub Vec<LinearUpdate>);

impl BlockUpdates {
    /// Adds the updates of `slot` for the inputs `x` to its outputs `y`.
    pub(super) fn add(&self, slot: Slot, x: &Tensor, mut y: Tensor) -> Result<Tensor> {
        for update in self.0.iter().filter(|update| update.slot == slot) {
            let kept = update.dropout.map(|dropout| dropout.apply(x)).transpose()?;
            let hidden = kept.as_ref().unwrap_or(x).matmul(&update.a.t()?)?;
            y = (y + (hidden.matmul(&update.b.t()?)? * f64::from(update.scaling))?)?;
        }
        Ok(y)
    }

    /// Whether the layer at `slot` has an update.
    pub(super) fn reach(&self, slot: Slot) -> bool {
        self.0.iter().any(|update| update.slot == slot)
    }

    /// The same with variables for `A` and `B` of each update, in order, for a backward pass.
    ///
    /// # Errors
    /// The device refuses.
    pub fn tracked(&self) -> Result<(Self, Vec<Var>)> {
        let (mut updates, mut vars) = (self.clone(), Vec::new());
        for update in &mut updates.0 {
            for tensor in [&mut update.a, &mut update.b] {
                let var = Var::from_tensor(tensor)?;
                *tensor = var.as_tensor().clone();
                vars.push(var);
            }
        }
        Ok((updates, vars))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn dropout_leaves_its_share_out_and_keeps_the_mean() {
        let x = Tensor::ones((100, 50), candle_core::DType::F32, &Device::Cpu).expect("ones");
        let of = |share: f32, seed: u64| -> Vec<f32> {
            let y = Dropout { share, seed }.apply(&x).expect("dropped");
            y.flatten_all().and_then(|y| y.to_vec1()).expect("numbers")
        };
        let y = of(0.25, 3);
        let gone = y.iter().filter(|y| **y == 0.0).count();
        assert!((1150..1350).contains(&gone), "{gone} of 5000");
        assert!(y.iter().all(|y| *y == 0.0 || (*y - 4.0 / 3.0).abs() < 1e-6));
        assert_eq!(y, of(0.25, 3), "the same step leaves out the same");
        assert_ne!(y, of(0.25, 4 << 32));
        assert!(of(0.0, 3).iter().all(|y| *y == 1.0));
    }
}
