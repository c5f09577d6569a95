//! What the passes ask of a device.
//!
//! A [`Backend`] owns buffers of floats and frozen matrices, and knows the operations of the layers on them, forward and
//! backward (`pull_*`: from the gradient of the result to that of an input). Nothing of it is a slice of the host's memory:
//! values go in by [`Backend::place`] and come out by [`Backend::read`], so that a device can stand behind it. Lists of row
//! numbers, sequences and shapes are the host's, as they are where a device's work is put together.
//!
//! There are two: [`Cpu`] over the kernels, and [`Reference`], plain loops in `f64` that are obviously right and slow, which
//! the tests hold every layer against. This module knows no layers, models or adapters.

mod cpu;
mod reference;
mod sequences;

pub use cpu::Cpu;
pub use reference::Reference;
pub use sequences::Sequences;

use std::fmt::Debug;
use std::ops::Range;
use toktune_kernels::Precision;
pub use toktune_kernels::attention::{ScoreBias, Shape as AttentionShape, Span};
pub use toktune_kernels::cross_entropy::FrozenPart;
pub use toktune_kernels::gated::Activation;
pub use toktune_kernels::matmul::Write;
pub use toktune_kernels::rotary::{Direction, Heads, Pairing};
use toktune_weights::FrozenMatrix;

/// A device. A clone is another handle of the same one.
///
/// Buffers hold rows one after the other, `[rows, width]`; the operations know the width from their other arguments and panic
/// where lengths do not fit, which is a fault of the layers and never of an input.
pub trait Backend: Clone + Debug + Send + Sync + 'static {
    /// Some floats on the device.
    type Buffer: Debug + Send + Sync;
    /// A frozen matrix as the device's products read it.
    type Matrix: Clone + Debug + Send + Sync;

    /// `len` floats of arbitrary content.
    fn take(&self, len: usize) -> Self::Buffer;

    /// These values on the device.
    fn place(&self, values: Vec<f32>) -> Self::Buffer;

    /// `len` zeros.
    fn zeros(&self, len: usize) -> Self::Buffer {
        self.place(vec![0.0; len])
    }

    /// The values of a buffer.
    fn read(&self, x: &Self::Buffer) -> Vec<f32>;

    /// How many floats a buffer holds.
    fn len(&self, x: &Self::Buffer) -> usize;

    /// A copy of some of its floats.
    fn part(&self, x: &Self::Buffer, floats: Range<usize>) -> Self::Buffer;

    /// A copy of no more than its own size, to be held for long: a buffer that was [taken](Backend::take) may lie in more
    /// memory than it needs.
    fn keep(&self, x: &Self::Buffer) -> Self::Buffer;

    /// Overwrites the floats of `to` from `at` on with those of `from`.
    fn put(&self, from: &Self::Buffer, at: usize, to: &mut Self::Buffer);

    /// The same device, with products that are as fast as they can be for few rows, whose bits need not be those of products of
    /// many.
    fn decoding(&self) -> Self;

    /// As [`Backend::decoding`], and products of few rows with quantised weights may round what they multiply them with to 8
    /// bits: for text that is generated, never for losses.
    fn generating(&self) -> Self {
        self.decoding()
    }

    /// Calls `work`, a sequence of many small operations, with the device's threads awake all the while.
    fn awake<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }

    /// Gives memory back that was kept for buffers to come.
    fn release(&self);

    /// A frozen matrix, to be multiplied with.
    fn matrix(&self, of: &FrozenMatrix) -> Self::Matrix;

    /// `y (+)= x Wᵀ` for `x [rows, in]`, `y [rows, out]`.
    fn product(&self, x: &Self::Buffer, w: &Stored<Self::Matrix>, write: Write, y: &mut Self::Buffer);

    /// `dx (+)= dy W`.
    fn pull_product(&self, dy: &Self::Buffer, w: &Stored<Self::Matrix>, write: Write, dx: &mut Self::Buffer);

    /// `h [rows, r] = scale x Aᵀ` for a narrow `a [r, k]`.
    fn low_rank_down(&self, x: &Self::Buffer, a: &Self::Buffer, r: usize, scale: f32, h: &mut Self::Buffer);

    /// `y [rows, n] += scale h B` for a narrow `b [r, n]`.
    fn low_rank_up(&self, h: &Self::Buffer, b: &Self::Buffer, r: usize, scale: f32, y: &mut Self::Buffer);

    /// `sums [r, n] += hᵀ x`: the gradient of either narrow matrix.
    fn low_rank_gradient(&self, h: &Self::Buffer, x: &Self::Buffer, r: usize, sums: &mut Self::Buffer);

    /// A whole MLP `y (+)= (act(x Gᵀ) * (x Uᵀ)) Dᵀ`; with `keep`, the gate and the up projection `[rows, inner]` are left.
    fn gated_mlp(
        &self,
        mlp: &GatedMlp<'_, Self::Matrix>,
        x: &Self::Buffer,
        write: Write,
        y: &mut Self::Buffer,
        keep: bool,
    ) -> Option<[Self::Buffer; 2]>;

    /// Overwrites `dx`; `kept` is what the forward pass left, which is computed again where it is missing.
    fn pull_gated_mlp(
        &self,
        mlp: &GatedMlp<'_, Self::Matrix>,
        x: &Self::Buffer,
        dy: &Self::Buffer,
        kept: Option<&[Self::Buffer; 2]>,
        dx: &mut Self::Buffer,
    );

    /// `y = norm(x)`, in runs of the norm's width.
    fn norm(&self, of: &NormWeights<'_, Self::Buffer>, x: &Self::Buffer, y: &mut Self::Buffer);

    /// The gradient of `x` from that of `y`.
    fn pull_norm(
        &self,
        of: &NormWeights<'_, Self::Buffer>,
        x: &Self::Buffer,
        dy: &Self::Buffer,
        write: Write,
        dx: &mut Self::Buffer,
    );

    /// Turns the heads of `x` into `y`, or back.
    fn rotate(
        &self,
        by: &Rotation<Self::Buffer>,
        heads: Heads,
        to: Direction,
        x: &Self::Buffer,
        y: &mut Self::Buffer,
    );

    /// `out = softmax(scale q kᵀ + mask) v`, and the logarithms of the denominators `lse [rows, heads]`.
    fn attention(
        &self,
        of: &AttentionInputs<'_, Self::Buffer>,
        out: &mut Self::Buffer,
        lse: &mut Self::Buffer,
    );

    /// The gradients of `q`, `k` and `v`, which are overwritten; past rows get none.
    fn pull_attention(
        &self,
        of: &AttentionInputs<'_, Self::Buffer>,
        saved: Saved<'_, Self::Buffer>,
        gradients: [&mut Self::Buffer; 3],
    );

    /// As [`Backend::attention`], where queries and keys meet rows for distances too.
    fn disentangled(
        &self,
        of: &AttentionInputs<'_, Self::Buffer>,
        distances: &Distances<'_, Self::Buffer>,
        out: &mut Self::Buffer,
        lse: &mut Self::Buffer,
    );

    /// As [`Backend::pull_attention`]; the gradients of the rows for distances are written where they are asked for, first
    /// those of the keys.
    fn pull_disentangled(
        &self,
        of: &AttentionInputs<'_, Self::Buffer>,
        distances: &Distances<'_, Self::Buffer>,
        saved: Saved<'_, Self::Buffer>,
        gradients: [&mut Self::Buffer; 3],
        of_distances: [Option<&mut Self::Buffer>; 2],
    );

    /// `y[t] = bias + Σ_j weight[j] x[t - j]` along the sequences, column by column, over rows of the past too.
    fn convolve(
        &self,
        by: &Taps<'_, Self::Buffer>,
        sequences: &Sequences,
        x: &Self::Buffer,
        past: Option<&Self::Buffer>,
        y: &mut Self::Buffer,
    );

    /// The gradient of `x` from that of `y`; it is overwritten, and past rows get none.
    fn pull_convolve(
        &self,
        by: &Taps<'_, Self::Buffer>,
        sequences: &Sequences,
        dy: &Self::Buffer,
        dx: &mut Self::Buffer,
    );

    /// `x = act(x)`.
    fn activate(&self, activation: Activation, x: &mut Self::Buffer);

    /// Turns the gradient of `act(x)` into that of `x`.
    fn pull_activate(&self, activation: Activation, x: &Self::Buffer, dx: &mut Self::Buffer);

    /// `y = act(gate) * up`.
    fn gate(&self, activation: Activation, gate: &Self::Buffer, up: &Self::Buffer, y: &mut Self::Buffer);

    /// Turns the gradient of `act(gate) * up` in `dgate` into that of the gate, and writes that of `up` into `dup`.
    fn pull_gate(
        &self,
        activation: Activation,
        gate_and_up: [&Self::Buffer; 2],
        dgate: &mut Self::Buffer,
        dup: &mut Self::Buffer,
    );

    /// `y += x`.
    fn add(&self, y: &mut Self::Buffer, x: &Self::Buffer);

    /// `y *= x`, entry by entry.
    fn multiply(&self, y: &mut Self::Buffer, x: &Self::Buffer);

    /// `y *= factor`.
    fn scale(&self, y: &mut Self::Buffer, factor: f32);

    /// Adds `row [width]` to every row of `y`.
    fn add_to_each(&self, y: &mut Self::Buffer, row: &Self::Buffer);

    /// Multiplies every row of `y` with `row [width]`, entry by entry.
    fn multiply_each(&self, y: &mut Self::Buffer, row: &Self::Buffer);

    /// Multiplies each row of `y [factors, width]` with its factor.
    fn scale_rows(&self, y: &mut Self::Buffer, factors: &Self::Buffer);

    /// As [`Backend::scale_rows`], after writing the product of the two rows of `x` and `y`
    /// into `products`.
    fn weigh(
        &self,
        y: &mut Self::Buffer,
        x: &Self::Buffer,
        factors: &Self::Buffer,
        products: &mut Self::Buffer,
    );

    /// Leaves entries of `x` out: an entry's number, `first` and those before it, decides, so that neither threads nor the
    /// order of rows can.
    fn drop_out(&self, x: &mut Self::Buffer, dropout: Dropout, first: usize);

    /// Copies runs of columns of each row, as `(first in from, first in to, how many)`; `widths` are those of the rows of
    /// `from` and of `to`.
    fn columns(&self, from: &Self::Buffer, to: &mut Self::Buffer, widths: [usize; 2], runs: &[[usize; 3]]);

    /// The given rows of `x [.., width]`, one after the other.
    fn gather(&self, x: &Self::Buffer, rows: &[u32], width: usize) -> Self::Buffer;

    /// `y[rows[i]] += factors[i] x[i]`, factors being 1 where there are none; `rows` do not descend.
    fn scatter(
        &self,
        x: &Self::Buffer,
        rows: &[u32],
        factors: Option<&Self::Buffer>,
        width: usize,
        y: &mut Self::Buffer,
    );

    /// `scale` times the rows of a table, `[ids, width]`.
    fn embed(&self, ids: &[u32], table: &Table<'_, Self>, scale: f32) -> Self::Buffer;

    /// Adds `scale` times row `i` of `dx` to row `at` of `sums`, for each `(i, at)` in order.
    fn pull_embed(
        &self,
        dx: &Self::Buffer,
        places: &[(usize, usize)],
        scale: f32,
        width: usize,
        sums: &mut Self::Buffer,
    );

    /// The losses of rows `hidden [labels, d]` against the vocabulary, in nats, and the gradients of their weighted sum:
    /// that of the rows is overwritten, that of the trained entries added to.
    fn cross_entropy(
        &self,
        hidden: &Self::Buffer,
        head: &Head<'_, Self>,
        labels: Labels<'_>,
        dhidden: Option<&mut Self::Buffer>,
        dtrained: Option<&mut Self::Buffer>,
    ) -> Vec<f32>;

    /// What of each row's loss comes from the entries that are not trained.
    fn frozen_parts(&self, hidden: &Self::Buffer, head: &Head<'_, Self>, targets: &[u32]) -> Vec<FrozenPart>;

    /// The losses of rows whose frozen parts are known; the gradient of the trained entries is added to.
    fn with_trained_entries(
        &self,
        hidden: &Self::Buffer,
        head: &Head<'_, Self>,
        labels: Labels<'_>,
        frozen: &[FrozenPart],
        dtrained: Option<&mut Self::Buffer>,
    ) -> Vec<f32>;

    /// The logits of a few rows, `[rows, vocabulary]`.
    fn logits(&self, hidden: &Self::Buffer, head: &Head<'_, Self>) -> Self::Buffer;
}

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
    pub fn sizes(self, weight: &FrozenMatrix) -> (usize, usize) {
        match self {
            StoredAs::Rows => (weight.cols(), weight.rows()),
            StoredAs::Columns => (weight.rows(), weight.cols()),
        }
    }
}

/// A frozen matrix, and which way round it lies.
#[derive(Clone, Debug)]
pub struct Stored<M> {
    /// The matrix.
    pub matrix: M,
    /// Which way round.
    pub stored: StoredAs,
}

/// The frozen weights of a gated MLP, all stored by rows: `gate` and `up [inner, d]`, `down [d, inner]`.
#[derive(Clone, Copy, Debug)]
pub struct GatedMlp<'a, M> {
    /// Gate projection.
    pub gate: &'a M,
    /// Up projection.
    pub up: &'a M,
    /// Down projection.
    pub down: &'a M,
    /// Of the gate.
    pub activation: Activation,
}

/// What a norm divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norming {
    /// The root of the mean square.
    Rms,
    /// The standard deviation, after the mean is taken away.
    Layer,
}

/// A norm over runs of the width of its weight.
#[derive(Clone, Copy, Debug)]
pub struct NormWeights<'a, X> {
    /// What it divides by.
    pub norming: Norming,
    /// The factors, `[width]`.
    pub weight: &'a X,
    /// What is added, `[width]`.
    pub bias: Option<&'a X>,
    /// Added to the mean square or the variance.
    pub eps: f32,
}

/// What a convolution along a sequence multiplies with.
#[derive(Clone, Copy, Debug)]
pub struct Taps<'a, X> {
    /// `[taps, width]`: first the factors of a row itself, then those of the row before it, and so on.
    pub weight: &'a X,
    /// What is added to every row, `[width]`.
    pub bias: Option<&'a X>,
    /// The columns.
    pub width: usize,
}

/// Cosines and sines `[rows, rotated / 2]`, one line for each row of a batch.
#[derive(Debug)]
pub struct Rotation<X> {
    /// Rows.
    pub rows: usize,
    /// Their cosines.
    pub cos: X,
    /// Their sines.
    pub sin: X,
}

/// What an attention reads: `q [rows, heads * head_dim]`, `k` and `v [keys, kv_heads * head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionInputs<'a, X> {
    /// What all rows share.
    pub shape: &'a AttentionShape,
    /// Where the rows stand.
    pub sequences: &'a Sequences,
    /// Queries.
    pub q: &'a X,
    /// Keys.
    pub k: &'a X,
    /// Values.
    pub v: &'a X,
    /// Keys and values of past rows, which get no gradient.
    pub past: Option<(&'a X, &'a X)>,
    /// For each query head the score of a key without a value that every row sees, `[heads]`.
    pub sinks: Option<&'a X>,
    /// In which precision its products may be taken.
    pub precision: Precision,
}

/// What the backward pass of an attention takes beside its inputs.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a, X> {
    /// The output.
    pub out: &'a X,
    /// The logarithms of the denominators.
    pub lse: &'a X,
    /// The gradient of the output.
    pub dout: &'a X,
}

/// The rows for distances of a disentangled attention, `[places, heads * head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct Distances<'a, X> {
    /// As keys, where queries meet them.
    pub keys: Option<&'a X>,
    /// As queries, where keys meet them.
    pub queries: Option<&'a X>,
    /// The place of each distance, from `-(n - 1)` to `n - 1` for the longest sequence.
    pub places: &'a [u32],
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
    /// What entry number `at` is multiplied with: 0, or what keeps the mean.
    pub fn factor(self, at: u64) -> f32 {
        let limit = (f64::from(self.share) * 2f64.powi(32)) as u64;
        if mixed(self.seed.wrapping_add(at)) >> 32 < limit { 0.0 } else { 1.0 / (1.0 - self.share) }
    }
}

/// One step of SplitMix64, whose bits look independent for neighbouring numbers.
fn mixed(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A token matrix: frozen rows, appended rows, and trained rows over both.
#[derive(Debug)]
pub struct Table<'a, B: Backend> {
    /// The frozen rows.
    pub base: &'a B::Matrix,
    /// The rows after them, where there are any.
    pub extra: Option<&'a B::Buffer>,
    /// `(row of the matrix, row of the values)`, sorted by row, none twice.
    pub overrides: &'a [(usize, usize)],
    /// The values that replace rows; missing where nothing is replaced.
    pub values: Option<&'a B::Buffer>,
}

impl<B: Backend> Clone for Table<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Table<'_, B> {}

/// What makes logits of rows: `l_v = h · w_v + b_v`, then `cap tanh(l_v / cap)` where there is a cap.
#[derive(Debug)]
pub struct Head<'a, B: Backend> {
    /// The rows `w`.
    pub table: Table<'a, B>,
    /// The biases of the first entries; the others have none.
    pub bias: Option<&'a B::Buffer>,
    /// The cap.
    pub soft_cap: Option<f32>,
}

/// The labels of some rows.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// Entries of the vocabulary.
    pub targets: &'a [u32],
    /// What each loss counts in the gradients; empty where each counts once.
    pub weights: &'a [f32],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_leaves_its_share_out_and_keeps_the_mean() {
        let of = |share: f32, seed: u64| -> Vec<f32> {
            (0..5000).map(|at| Dropout { share, seed }.factor(at)).collect()
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
