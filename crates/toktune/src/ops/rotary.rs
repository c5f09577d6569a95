//! Rotary position embedding.

use super::host::contiguous;
use crate::profile::{Part, time};
use candle_core::{CpuStorage, CustomOp1, D, Device, Layout, Result, Shape, Tensor};
use std::sync::Arc;
use toktune_kernels::rotary::{Direction, Heads, Pairing, rotate};

/// Cosines and sines `[rows, rotated / 2]`, one line for each row of a batch.
#[derive(Clone, Debug)]
pub struct RotaryRows {
    rows: usize,
    cos: Arc<Vec<f32>>,
    sin: Arc<Vec<f32>>,
}

impl RotaryRows {
    /// One line for each position of `positions`: the angle of pair `j` at position `p` is `p * frequencies[j]`, taken
    /// in `f32` as transformers takes it; both are multiplied by `scale` (1 for most variants).
    pub fn new(positions: &[u32], frequencies: &[f32], scale: f32) -> Self {
        let mut rows = Self::empty();
        rows.append(positions, frequencies, scale);
        rows
    }

    /// No row yet.
    pub(crate) fn empty() -> Self {
        Self { rows: 0, cos: Arc::default(), sin: Arc::default() }
    }

    /// Adds rows, which may have frequencies of their own.
    pub(crate) fn append(&mut self, positions: &[u32], frequencies: &[f32], scale: f32) {
        let angles = || positions.iter().flat_map(|&p| frequencies.iter().map(move |f| p as f32 * f));
        self.rows += positions.len();
        Arc::make_mut(&mut self.cos).extend(angles().map(|a| a.cos() * scale));
        Arc::make_mut(&mut self.sin).extend(angles().map(|a| a.sin() * scale));
    }

    /// Rotates the heads of `x` into `y`, or back for the backward pass.
    pub(crate) fn rotate(&self, x: &[f32], heads: Heads, direction: Direction, y: &mut [f32]) {
        time(Part::Rows, 0, || rotate(x, (&self.cos, &self.sin), heads, self.rows, direction, y));
    }

    fn tensors(&self, device: &Device) -> Result<(Tensor, Tensor)> {
        let shape = (self.rows, 1, self.cos.len().checked_div(self.rows).unwrap_or(0));
        Ok((Tensor::from_slice(&self.cos, shape, device)?, Tensor::from_slice(&self.sin, shape, device)?))
    }
}

/// Rotates the heads of `x [rows, heads * head_dim]` by each row's angles.
///
/// # Errors
/// `x` is not contiguous `f32`, or its rows are not those of `lines`.
pub fn rotary(x: &Tensor, lines: &RotaryRows, heads: Heads) -> Result<Tensor> {
    let head_dim = heads.head_dim;
    let (rows, width) = x.dims2()?;
    let half = lines.cos.len().checked_div(rows).unwrap_or(0);
    if rows != lines.rows || !width.is_multiple_of(head_dim) || 2 * half > head_dim {
        candle_core::bail!("rotary: {rows} rows of {width}, {} positions, heads of {head_dim}", lines.rows);
    }
    if x.device().is_cpu() {
        x.apply_op1(Rotary { lines: lines.clone(), heads })
    } else {
        composite(x, lines, heads)
    }
}

pub(crate) fn composite(x: &Tensor, lines: &RotaryRows, of: Heads) -> Result<Tensor> {
    let ((rows, width), head_dim) = (x.dims2()?, of.head_dim);
    let (cos, sin) = lines.tensors(x.device())?;
    let half = cos.dim(D::Minus1)?;
    let count = width / head_dim;
    let heads = x.reshape((rows, count, head_dim))?;
    let (x1, x2) = match of.pairing {
        Pairing::Halves => (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?),
        Pairing::Neighbours => {
            let pairs = heads.narrow(2, 0, 2 * half)?.reshape((rows, count, half, 2))?;
            (pairs.narrow(3, 0, 1)?.squeeze(3)?, pairs.narrow(3, 1, 1)?.squeeze(3)?)
        }
    };
    let y1 = (x1.broadcast_mul(&cos)? - x2.broadcast_mul(&sin)?)?;
    let y2 = (x2.broadcast_mul(&cos)? + x1.broadcast_mul(&sin)?)?;
    let turned = match of.pairing {
        Pairing::Halves => Tensor::cat(&[y1, y2], 2)?,
        Pairing::Neighbours => Tensor::stack(&[y1, y2], 3)?.reshape((rows, count, 2 * half))?,
    };
    let rest = heads.narrow(2, 2 * half, head_dim - 2 * half)?;
    let parts = if head_dim > 2 * half { vec![turned, rest] } else { vec![turned] };
    Tensor::cat(&parts, 2)?.reshape((rows, width))
}

struct Rotary {
    lines: RotaryRows,
    heads: Heads,
}

impl Rotary {
    fn run(&self, x: &[f32], direction: Direction) -> Vec<f32> {
        let mut y = vec![0f32; x.len()];
        self.lines.rotate(x, self.heads, direction, &mut y);
        y
    }
}

impl CustomOp1 for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout, self.name())?;
        Ok((CpuStorage::F32(self.run(x, Direction::Forward)), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let dx = self.run(&super::host::floats(&dy)?, Direction::Backward);
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_same_gradients, random};

    #[test]
    fn the_kernel_and_the_composite_agree() -> Result<()> {
        for (rotated, pairing) in
            [(6, Pairing::Halves), (4, Pairing::Halves), (6, Pairing::Neighbours), (4, Pairing::Neighbours)]
        {
            let heads = Heads { head_dim: 6, pairing };
            let frequencies: Vec<f32> = (0..rotated / 2).map(|j| 1.0 / (j as f32 + 1.0)).collect();
            let lines = RotaryRows::new(&[0, 1, 2, 0, 7], &frequencies, 1.1);
            let x = random((5, 12), 1)?;
            assert_same_gradients(
                &[x],
                |x| rotary(&x[0], &lines, heads),
                |x| composite(&x[0], &lines, heads),
            )?;
        }
        Ok(())
    }

    #[test]
    fn rows_without_a_position_are_refused() -> Result<()> {
        let lines = RotaryRows::new(&[0, 1], &[1.0], 1.0);
        let heads = Heads { head_dim: 4, pairing: Pairing::Halves };
        assert!(rotary(&random((3, 4), 1)?, &lines, heads).is_err());
        Ok(())
    }
}
