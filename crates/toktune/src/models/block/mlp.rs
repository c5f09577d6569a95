//! The MLP of a block, gated or plain.

use super::linear::Linear;
use crate::error::Result;
use crate::models::buffers::Buffers;
use crate::models::update::BlockUpdates;
use crate::ops::{self, Activation, StoredAs};
use crate::profile::{Part, time};
use crate::weights::FrozenMatrix;
use candle_core::Tensor;
use rayon::prelude::*;
use toktune_kernels::Weight;
use toktune_kernels::gated::{activate, activate_backward, gated_backward, gated_forward};
use toktune_kernels::gated_mlp::{self, CHUNK_ROWS, GatedMlp};
use toktune_kernels::matmul::Write;

/// Frozen weights of an MLP.
#[derive(Clone, Debug)]
pub(crate) struct Mlp {
    pub(super) up: Up,
    pub(super) down: Linear,
    pub(super) activation: Activation,
}

/// The projections to the inner width.
#[derive(Clone, Debug)]
pub(super) enum Up {
    /// One, followed by the activation.
    Plain(Linear),
    /// The gate, which gets the activation, and what it gates.
    Gated(Linear, Linear),
    /// The same as one matrix, the gate first.
    Fused(Linear),
}

/// What is kept of an MLP for its backward pass.
#[derive(Debug)]
pub(super) enum KeptMlp {
    Gated(gated_mlp::Kept),
    /// The inner rows before the activation.
    Plain(Vec<f32>),
    /// Those of the experts of a mixture, in the order in which they take their rows.
    Experts(Vec<KeptMlp>),
}

impl Mlp {
    pub(super) fn inner(&self) -> usize {
        self.down.inputs()
    }

    pub(super) fn linears(&self) -> Vec<&Linear> {
        match &self.up {
            Up::Plain(up) | Up::Fused(up) => vec![up, &self.down],
            Up::Gated(gate, up) => vec![gate, up, &self.down],
        }
    }

    pub(super) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match &mut self.up {
            Up::Plain(up) | Up::Fused(up) => vec![up, &mut self.down],
            Up::Gated(gate, up) => vec![gate, up, &mut self.down],
        }
    }

    /// Gate and up projection, if the three weights are all there is to the MLP.
    fn bare_gate_and_up(&self) -> Option<(FrozenMatrix, FrozenMatrix)> {
        let bare = |linear: &Linear| linear.bias.is_none() && linear.stored == StoredAs::Rows;
        if !self.linears().into_iter().all(bare) {
            return None;
        }
        match &self.up {
            Up::Plain(_) => None,
            Up::Gated(gate, up) => Some((gate.weight.clone(), up.weight.clone())),
            Up::Fused(both) => {
                let inner = self.inner();
                Some((both.weight.part(0..inner)?, both.weight.part(inner..2 * inner)?))
            }
        }
    }

    /// Floats a row that are kept so that no product is computed twice; 0 where there is no such way.
    pub(super) fn kept_floats(&self) -> usize {
        match &self.up {
            Up::Plain(_) => self.inner(),
            _ if self.bare_gate_and_up().is_some() => 2 * self.inner(),
            _ => 0,
        }
    }

    pub(super) fn forward(&self, x: &Tensor, updates: Option<&BlockUpdates>) -> Result<Tensor> {
        let updated = updates.is_some_and(|u| self.linears().into_iter().any(|l| u.reach(l.slot)));
        if let Some((gate, up)) = self.bare_gate_and_up().filter(|_| !updated) {
            let (down, activation) = (&self.down.weight, self.activation);
            return Ok(ops::gated_mlp(x, &ops::GatedMlpWeights { gate: &gate, up: &up, down, activation })?);
        }
        let inner = match &self.up {
            Up::Plain(up) => ops::activation(&up.forward(x, updates)?, self.activation)?,
            Up::Gated(gate, up) => {
                ops::gated(&gate.forward(x, updates)?, &up.forward(x, updates)?, self.activation)?
            }
            Up::Fused(both) => {
                let (both, inner) = (both.forward(x, updates)?, self.inner());
                let half = |at| both.narrow(1, at, inner).and_then(|half| half.contiguous());
                ops::gated(&half(0)?, &half(inner)?, self.activation)?
            }
        };
        self.down.forward(&inner, updates)
    }

    fn kernel<R>(
        &self,
        (gate, up): &(FrozenMatrix, FrozenMatrix),
        work: impl FnOnce(GatedMlp<'_, Weight<'_>>) -> R,
    ) -> R {
        let (gate_view, up, down) = (gate.view(), up.view(), self.down.weight.view());
        let (activation, precision) = (self.activation, gate.precision());
        work(GatedMlp { gate: &gate_view, up: &up, down: &down, activation, precision })
    }

    /// `y` from `x [rows, d]` without a graph; with `keep`, what the backward pass wants is left.
    pub(super) fn run(
        &self,
        x: &[f32],
        write: Write,
        y: &mut [f32],
        keep: bool,
        buffers: &Buffers,
    ) -> Option<KeptMlp> {
        if let Some(weights) = self.bare_gate_and_up() {
            let mut kept = keep.then(gated_mlp::Kept::default);
            let flops = 3 * self.down.flops(x.len() / self.down.outputs().max(1));
            time(Part::Products, flops, || {
                self.kernel(&weights, |mlp| mlp.forward(x, write, y, kept.as_mut()));
            });
            return kept.map(KeptMlp::Gated);
        }
        let mut kept = Vec::new();
        let (d, inner) = (self.down.outputs(), self.inner());
        for (x, y) in x.chunks(CHUNK_ROWS * d.max(1)).zip(y.chunks_mut(CHUNK_ROWS * d.max(1))) {
            let rows = x.len() / d.max(1);
            match &self.up {
                Up::Plain(up) => {
                    let mut hidden = buffers.take(rows * inner);
                    up.run(x, Write::Over, &mut hidden);
                    if keep {
                        kept.extend_from_slice(&hidden);
                    }
                    activate(self.activation, &mut hidden);
                    self.down.run(&hidden, write, y);
                }
                _ => {
                    let [gate, up, mut product] = self.gate_and_up(x, buffers);
                    gated_forward(self.activation, &gate, &up, &mut product);
                    self.down.run(&product, write, y);
                }
            }
        }
        (keep && matches!(self.up, Up::Plain(_))).then_some(KeptMlp::Plain(kept))
    }

    /// The gate, the up projection and room for as much again, where the kernel does not take them together.
    fn gate_and_up(&self, x: &[f32], buffers: &Buffers) -> [crate::models::buffers::Buffer; 3] {
        let (inner, rows) = (self.inner(), x.len() / self.down.outputs().max(1));
        let mut out = [(); 3].map(|()| buffers.take(rows * inner));
        match &self.up {
            Up::Gated(gate, up) => {
                gate.run(x, Write::Over, &mut out[0]);
                up.run(x, Write::Over, &mut out[1]);
            }
            Up::Plain(both) | Up::Fused(both) => {
                let mut fused = buffers.take(rows * 2 * inner);
                both.run(x, Write::Over, &mut fused);
                for (row, fused) in fused.chunks_exact(2 * inner).enumerate() {
                    out[0][row * inner..][..inner].copy_from_slice(&fused[..inner]);
                    out[1][row * inner..][..inner].copy_from_slice(&fused[inner..]);
                }
            }
        }
        out
    }

    /// `dx [rows, d]` from the input and the gradient of the output; overwrites `dx`.
    pub(super) fn pull(
        &self,
        x: &[f32],
        dy: &[f32],
        kept: Option<KeptMlp>,
        dx: &mut [f32],
        buffers: &Buffers,
    ) {
        let (d, inner) = (self.down.outputs(), self.inner());
        if let Some(weights) = self.bare_gate_and_up() {
            let kept = match &kept {
                Some(KeptMlp::Gated(kept)) => Some(kept),
                _ => None,
            };
            let products = if kept.is_some() { 3 } else { 5 };
            time(Part::Products, products * self.down.flops(x.len() / d.max(1)), || {
                self.kernel(&weights, |mlp| mlp.backward(x, dy, kept, dx));
            });
            return;
        }
        let kept = match &kept {
            Some(KeptMlp::Plain(kept)) => Some(&kept[..]),
            _ => None,
        };
        let chunk = CHUNK_ROWS * d.max(1);
        for (i, ((x, dy), dx)) in x.chunks(chunk).zip(dy.chunks(chunk)).zip(dx.chunks_mut(chunk)).enumerate()
        {
            let rows = x.len() / d.max(1);
            if let Up::Plain(up) = &self.up {
                let hidden = match kept {
                    Some(kept) => buffers.copy(&kept[i * CHUNK_ROWS * inner..][..rows * inner]),
                    None => {
                        let mut hidden = buffers.take(rows * inner);
                        up.run(x, Write::Over, &mut hidden);
                        hidden
                    }
                };
                let mut dhidden = buffers.take(rows * inner);
                self.down.pull(dy, Write::Over, &mut dhidden);
                activate_backward(self.activation, &hidden, &mut dhidden);
                up.pull(&dhidden, Write::Over, dx);
                continue;
            }
            let [gate, up, mut dgate] = self.gate_and_up(x, buffers);
            let mut dup = buffers.take(up.len());
            self.down.pull(dy, Write::Over, &mut dgate);
            gated_backward(self.activation, &gate, &up, &mut dgate, &mut dup);
            self.pull_gate_and_up(&dgate, &dup, dx, buffers);
        }
    }

    /// Overwrites `dx` with the gradient of the input from those of the gate and of the up projection.
    fn pull_gate_and_up(&self, dgate: &[f32], dup: &[f32], dx: &mut [f32], buffers: &Buffers) {
        match &self.up {
            Up::Gated(gate, up) => {
                gate.pull(dgate, Write::Over, dx);
                up.pull(dup, Write::Add, dx);
            }
            Up::Plain(both) | Up::Fused(both) => {
                let inner = self.inner();
                let mut fused = buffers.take(dgate.len() + dup.len());
                for (row, fused) in fused.chunks_exact_mut(2 * inner).enumerate() {
                    fused[..inner].copy_from_slice(&dgate[row * inner..][..inner]);
                    fused[inner..].copy_from_slice(&dup[row * inner..][..inner]);
                }
                both.pull(&fused, Write::Over, dx);
            }
        }
    }

    /// As [`Mlp::pull`] for the output of a gated MLP times a weight for each row, for at most [`CHUNK_ROWS`] rows: overwrites
    /// `dx` and the gradients of the weights `dweights`.
    ///
    /// These need no output: with the inner rows `h`, `dy · (h Wᵀ)` is `(dy W) · h`, and `dy W` is wanted anyway.
    pub(super) fn pull_weighted(
        &self,
        (x, weights): (&[f32], &[f32]),
        dy: &[f32],
        kept: Option<KeptMlp>,
        (dx, dweights): (&mut [f32], &mut [f32]),
        buffers: &Buffers,
    ) {
        let inner = self.inner();
        let computed = match &kept {
            Some(KeptMlp::Gated(_)) => None,
            _ => Some(self.gate_and_up(x, buffers)),
        };
        let (gate, up): (&[f32], &[f32]) = match (&computed, &kept) {
            (None, Some(KeptMlp::Gated(kept))) => (&kept.gate, &kept.up),
            (Some([gate, up, _]), _) => (gate, up),
            (None, _) => return,
        };
        let mut hidden = buffers.take(gate.len());
        gated_forward(self.activation, gate, up, &mut hidden);
        let mut dgate = buffers.take(gate.len());
        self.down.pull(dy, Write::Over, &mut dgate);
        let each = dgate.par_chunks_mut(inner.max(1)).zip(hidden.par_chunks(inner.max(1)));
        each.zip(weights).zip(dweights).for_each(|(((dhidden, hidden), weight), dweight)| {
            *dweight = dhidden.iter().zip(hidden).map(|(d, h)| d * h).sum();
            dhidden.iter_mut().for_each(|d| *d *= weight);
        });
        let mut dup = hidden;
        gated_backward(self.activation, gate, up, &mut dgate, &mut dup);
        self.pull_gate_and_up(&dgate, &dup, dx, buffers);
    }
}
