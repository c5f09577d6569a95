//! A short convolution in the place of an attention (LFM 2): `y = W_out (c * convolve(b * x))`, where `b`, `c` and `x` are
//! projections of a row.
//!
//! What a row leaves for those after it is `b * x`, of which they read the few nearest. It takes the place of keys, so that a
//! past, shared prefixes, caches and generated tokens have it as they have keys; there are no values.

use super::LayerTensor;
use super::around::{Around, Gradients, KeyValues};
use super::linear::Linear;
use crate::backend::{Backend, Taps, Write};

/// Frozen weights of a short convolution.
#[derive(Debug)]
pub(super) struct Convolution<B: Backend> {
    /// To `b`, `c` and `x`, one after the other.
    pub(super) input: Linear<B>,
    pub(super) output: Linear<B>,
    /// The module of the factors.
    pub(super) module: String,
    /// `[taps, d]`, those of a row itself first.
    pub(super) weight: B::Buffer,
    pub(super) bias: Option<B::Buffer>,
}

/// What the backward pass reads of a forward pass.
pub(super) struct Convolved<B: Backend> {
    /// `b`, `c` and `x`, fused as they were projected.
    pub(super) fused: B::Buffer,
    parts: [B::Buffer; 3],
    /// `b * x`.
    pub(super) mixed: B::Buffer,
    /// The convolution of that.
    convolved: B::Buffer,
    /// Times `c`: what the output projection reads.
    pub(super) out: B::Buffer,
}

impl<B: Backend> Convolution<B> {
    pub(super) fn width(&self) -> usize {
        self.output.inputs()
    }

    fn taps(&self) -> Taps<'_, B::Buffer> {
        Taps { weight: &self.weight, bias: self.bias.as_ref(), width: self.width() }
    }

    /// Its factors by their names.
    pub(super) fn tensors(&self, backend: &B) -> Vec<(String, LayerTensor<'static>)> {
        let weight = LayerTensor::Taps(self.stored_weight(backend));
        let bias = self.bias.as_ref().map(|bias| LayerTensor::Bias(backend.read(bias)));
        let bias = bias.map(|bias| (format!("{}.bias", self.module), bias));
        [(format!("{}.weight", self.module), weight)].into_iter().chain(bias).collect()
    }

    /// The factors in the order of a checkpoint, `[d, 1, taps]` with the row itself last.
    fn stored_weight(&self, backend: &B) -> Vec<f32> {
        let (weight, width) = (backend.read(&self.weight), self.width());
        let of = |column: usize| weight.iter().skip(column).step_by(width.max(1)).rev().copied();
        (0..width).flat_map(of).collect()
    }

    /// `b`, `c` and `x` apart.
    fn parts(&self, backend: &B, fused: &B::Buffer) -> [B::Buffer; 3] {
        let width = self.width();
        std::array::from_fn(|part| {
            let mut own = backend.take(backend.len(fused) / 3);
            backend.columns(fused, &mut own, [3 * width, width], &[[part * width, 0, width]]);
            own
        })
    }

    /// What it makes of the rows `x`, or of their projections where they are known.
    pub(super) fn convolve(
        &self,
        around: &Around<'_, B>,
        x: &B::Buffer,
        known: Option<B::Buffer>,
    ) -> Convolved<B> {
        let backend = around.backend;
        let fused = known.unwrap_or_else(|| self.input.apply(around, (x, 0)));
        let parts = self.parts(backend, &fused);
        let mixed = product(backend, &parts[0], &parts[2]);
        let mut convolved = backend.take(backend.len(&mixed));
        let past = around.past.map(|past| &past.k);
        backend.convolve(&self.taps(), &around.rows.sequences, &mixed, past, &mut convolved);
        let out = product(backend, &convolved, &parts[1]);
        Convolved { fused, parts, mixed, convolved, out }
    }

    /// What the rows `x` leave for those after them.
    pub(super) fn key_values(&self, around: &Around<'_, B>, x: &B::Buffer) -> KeyValues<B::Buffer> {
        let backend = around.backend;
        let [b, _, x] = self.parts(backend, &self.input.apply(around, (x, 0)));
        KeyValues { k: product(backend, &b, &x), v: backend.zeros(0) }
    }

    /// From the gradient `dout` of what the output projection reads: overwrites `dx` with the gradient of the rows `x`.
    pub(super) fn pull(
        &self,
        around: &Around<'_, B>,
        of: &Convolved<B>,
        (x, dout): (&B::Buffer, &B::Buffer),
        dx: &mut B::Buffer,
        gradients: &mut Gradients<'_, B>,
    ) {
        let (backend, width, [b, c, own]) = (around.backend, self.width(), &of.parts);
        let dc = product(backend, dout, &of.convolved);
        let dconvolved = product(backend, dout, c);
        let mut dmixed = backend.take(backend.len(&of.mixed));
        backend.pull_convolve(&self.taps(), &around.rows.sequences, &dconvolved, &mut dmixed);
        let db = product(backend, &dmixed, own);
        backend.multiply(&mut dmixed, b);
        let mut dfused = backend.take(backend.len(&of.fused));
        for (part, gradient) in [&db, &dc, &dmixed].into_iter().enumerate() {
            backend.columns(gradient, &mut dfused, [width, 3 * width], &[[0, part * width, width]]);
        }
        self.input.pull(around, (x, 0), &dfused, (Write::Over, dx), gradients);
    }
}

/// `a * b`, entry by entry.
fn product<B: Backend>(backend: &B, a: &B::Buffer, b: &B::Buffer) -> B::Buffer {
    let mut product = backend.part(a, 0..backend.len(a));
    backend.multiply(&mut product, b);
    product
}
