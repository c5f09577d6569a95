//! An MLP, plain or gated.

use super::around::{Around, Gradients};
use super::linear::Linear;
use crate::backend::{Activation, Backend, GatedMlp, Write};
use std::ops::Range;
use toktune_weights::FrozenMatrix;

/// Frozen weights of an MLP.
#[derive(Debug)]
pub(super) struct Mlp<B: Backend> {
    pub(super) up: Up<B>,
    pub(super) down: Linear<B>,
    pub(super) activation: Activation,
    /// Gate, up and down projection as the backend takes them together, where the three weights are all there is to the MLP.
    pub(super) together: Option<[B::Matrix; 3]>,
}

/// The projections to the inner width.
#[derive(Debug)]
pub(super) enum Up<B: Backend> {
    /// One, followed by the activation.
    Plain(Linear<B>),
    /// The gate, which gets the activation, and what it gates.
    Gated(Linear<B>, Linear<B>),
    /// The same as one matrix, the gate first.
    Fused(Linear<B>),
    /// The same as one matrix, each output of the gate before that which it gates.
    Interleaved(Linear<B>),
}

/// What is kept of an MLP for its backward pass.
#[derive(Debug)]
pub(super) enum KeptMlp<B: Backend> {
    /// The gate and the up projection.
    Gated([B::Buffer; 2]),
    /// The inner rows before the activation.
    Plain(B::Buffer),
}

/// Some rows that pass through an MLP together, and the number of the first of them.
type Piece<'a, X> = (&'a X, usize);

impl<B: Backend> Mlp<B> {
    /// The MLP of these layers.
    pub(super) fn new(backend: &B, up: Up<B>, down: Linear<B>, activation: Activation) -> Self {
        let mut mlp = Self { up, down, activation, together: None };
        mlp.put_together(backend);
        mlp
    }

    /// Takes the three weights together where that can be; after one of them has changed, too.
    pub(super) fn put_together(&mut self, backend: &B) {
        self.together = None;
        if !self.linears().into_iter().all(Linear::is_bare) {
            return;
        }
        let pair: Option<[FrozenMatrix; 2]> = match &self.up {
            Up::Plain(_) | Up::Interleaved(_) => None,
            Up::Gated(gate, up) => Some([gate.frozen.clone(), up.frozen.clone()]),
            Up::Fused(both) => {
                let inner = self.inner();
                let part = |rows: Range<usize>| both.frozen.part(rows);
                part(0..inner).zip(part(inner..2 * inner)).map(|(gate, up)| [gate, up])
            }
        };
        self.together = pair.map(|[gate, up]| [&gate, &up, &self.down.frozen].map(|w| backend.matrix(w)));
    }

    fn inner(&self) -> usize {
        self.down.inputs()
    }

    pub(super) fn linears(&self) -> Vec<&Linear<B>> {
        match &self.up {
            Up::Plain(up) | Up::Fused(up) | Up::Interleaved(up) => vec![up, &self.down],
            Up::Gated(gate, up) => vec![gate, up, &self.down],
        }
    }

    pub(super) fn linears_mut(&mut self) -> Vec<&mut Linear<B>> {
        match &mut self.up {
            Up::Plain(up) | Up::Fused(up) | Up::Interleaved(up) => vec![up, &mut self.down],
            Up::Gated(gate, up) => vec![gate, up, &mut self.down],
        }
    }

    /// The three weights, where the backend takes them together and no update comes between.
    fn whole(&self, around: &Around<'_, B>) -> Option<GatedMlp<'_, B::Matrix>> {
        let [gate, up, down] = self.together.as_ref()?;
        let updated = self.linears().into_iter().any(|linear| linear.is_updated(around));
        (!updated).then_some(GatedMlp { gate, up, down, activation: self.activation })
    }

    /// Floats a row that are kept so that no product is computed twice.
    pub(super) fn kept_floats(&self) -> usize {
        match &self.up {
            Up::Plain(_) => self.inner(),
            Up::Gated(..) | Up::Fused(_) | Up::Interleaved(_) => 2 * self.inner(),
        }
    }

    /// `y` from `x [rows, d]`; with `keep`, what the backward pass wants is left.
    pub(super) fn run(
        &self,
        around: &Around<'_, B>,
        x: &B::Buffer,
        write: Write,
        y: &mut B::Buffer,
        keep: bool,
    ) -> Option<KeptMlp<B>> {
        let backend = around.backend;
        if let Some(whole) = self.whole(around) {
            return backend.gated_mlp(&whole, x, write, y, keep).map(KeptMlp::Gated);
        }
        let d = self.down.outputs();
        let rows = backend.len(x) / d.max(1);
        let pieces = pieces(rows, self.inner());
        if pieces.len() <= 1 {
            return self.run_piece(around, (x, 0), write, y, keep);
        }
        let mut whole: Option<KeptMlp<B>> = None;
        for piece in pieces {
            let own = piece.start * d..piece.end * d;
            let (x, mut part) = (backend.part(x, own.clone()), backend.part(y, own.clone()));
            let kept = self.run_piece(around, (&x, piece.start), write, &mut part, keep);
            backend.put(&part, own.start, y);
            if let Some(kept) = kept {
                let whole = whole.get_or_insert_with(|| kept.room_for(backend, rows * self.inner()));
                whole.put(backend, &kept, piece.start * self.inner());
            }
        }
        whole
    }

    /// As [`Mlp::run`] for one piece of the rows.
    fn run_piece(
        &self,
        around: &Around<'_, B>,
        (x, first): Piece<'_, B::Buffer>,
        write: Write,
        y: &mut B::Buffer,
        keep: bool,
    ) -> Option<KeptMlp<B>> {
        let backend = around.backend;
        let (hidden, kept) = match &self.up {
            Up::Plain(up) => {
                let mut hidden = up.apply(around, (x, first));
                let kept = keep.then(|| KeptMlp::Plain(backend.part(&hidden, 0..backend.len(&hidden))));
                backend.activate(self.activation, &mut hidden);
                (hidden, kept)
            }
            Up::Gated(..) | Up::Fused(_) | Up::Interleaved(_) => {
                let both = self.gate_and_up(around, (x, first));
                let mut product = backend.take(backend.len(&both[0]));
                backend.gate(self.activation, &both[0], &both[1], &mut product);
                (product, keep.then_some(KeptMlp::Gated(both)))
            }
        };
        self.down.run(around, (&hidden, first), write, y);
        kept
    }

    /// Which columns of a fused projection are the gate, and which what it gates: runs `(first, first of the half, how many)`.
    fn halves(&self) -> [Vec<[usize; 3]>; 2] {
        let inner = self.inner();
        [0, 1].map(|half| match &self.up {
            Up::Interleaved(_) => (0..inner).map(|at| [2 * at + half, at, 1]).collect(),
            _ => vec![[half * inner, 0, inner]],
        })
    }

    /// The gate and the up projection, where the backend does not take them together.
    fn gate_and_up(&self, around: &Around<'_, B>, (x, first): Piece<'_, B::Buffer>) -> [B::Buffer; 2] {
        let (backend, inner) = (around.backend, self.inner());
        match &self.up {
            Up::Gated(gate, up) => [gate.apply(around, (x, first)), up.apply(around, (x, first))],
            Up::Plain(both) | Up::Fused(both) | Up::Interleaved(both) => {
                let fused = both.apply(around, (x, first));
                let rows = backend.len(&fused) / both.outputs().max(1);
                self.halves().map(|runs| {
                    let mut half = backend.take(rows * inner);
                    backend.columns(&fused, &mut half, [2 * inner, inner], &runs);
                    half
                })
            }
        }
    }

    /// `dx [rows, d]` from the input and the gradient of the output; overwrites `dx`.
    pub(super) fn pull(
        &self,
        around: &Around<'_, B>,
        [x, dy]: [&B::Buffer; 2],
        kept: Option<KeptMlp<B>>,
        dx: &mut B::Buffer,
        gradients: &mut Gradients<'_, B>,
    ) {
        let backend = around.backend;
        if let Some(whole) = self.whole(around) {
            let kept = match &kept {
                Some(KeptMlp::Gated(kept)) => Some(kept),
                _ => None,
            };
            return backend.pull_gated_mlp(&whole, x, dy, kept, dx);
        }
        let (d, inner) = (self.down.outputs(), self.inner());
        let rows = backend.len(x) / d.max(1);
        let pieces = pieces(rows, inner);
        if pieces.len() <= 1 {
            return self.pull_piece(around, [x, dy], (kept, 0), dx, gradients);
        }
        for piece in pieces {
            let own = piece.start * d..piece.end * d;
            let (x, dy) = (backend.part(x, own.clone()), backend.part(dy, own.clone()));
            let kept = kept.as_ref().map(|kept| kept.part(backend, piece.start * inner..piece.end * inner));
            let mut part = backend.take(own.len());
            self.pull_piece(around, [&x, &dy], (kept, piece.start), &mut part, gradients);
            backend.put(&part, own.start, dx);
        }
    }

    /// As [`Mlp::pull`] for one piece of the rows, with the number of the first of them.
    fn pull_piece(
        &self,
        around: &Around<'_, B>,
        [x, dy]: [&B::Buffer; 2],
        (kept, first): (Option<KeptMlp<B>>, usize),
        dx: &mut B::Buffer,
        gradients: &mut Gradients<'_, B>,
    ) {
        let (backend, inner) = (around.backend, self.inner());
        let entries = backend.len(x) / self.down.outputs().max(1) * inner;
        let mut dinner = backend.take(entries);
        if let Up::Plain(up) = &self.up {
            let hidden = match kept {
                Some(KeptMlp::Plain(kept)) => kept,
                _ => up.apply(around, (x, first)),
            };
            let activated = self.down.is_updated(around).then(|| {
                let mut activated = backend.part(&hidden, 0..entries);
                backend.activate(self.activation, &mut activated);
                activated
            });
            let read = activated.as_ref().unwrap_or(&hidden);
            self.down.pull(around, (read, first), dy, (Write::Over, &mut dinner), gradients);
            backend.pull_activate(self.activation, &hidden, &mut dinner);
            return up.pull(around, (x, first), &dinner, (Write::Over, dx), gradients);
        }
        let [gate, up] = match kept {
            Some(KeptMlp::Gated(kept)) => kept,
            _ => self.gate_and_up(around, (x, first)),
        };
        let product = self.down.is_updated(around).then(|| {
            let mut product = backend.take(entries);
            backend.gate(self.activation, &gate, &up, &mut product);
            product
        });
        let read = product.as_ref().unwrap_or(&gate);
        self.down.pull(around, (read, first), dy, (Write::Over, &mut dinner), gradients);
        drop(product);
        let mut dup = backend.take(entries);
        backend.pull_gate(self.activation, [&gate, &up], &mut dinner, &mut dup);
        drop([gate, up]);
        self.pull_gate_and_up(around, (x, first), [&dinner, &dup], dx, gradients);
    }

    /// Overwrites `dx` with the gradient of the input from those of the gate and of the up projection.
    fn pull_gate_and_up(
        &self,
        around: &Around<'_, B>,
        x: Piece<'_, B::Buffer>,
        [dgate, dup]: [&B::Buffer; 2],
        dx: &mut B::Buffer,
        gradients: &mut Gradients<'_, B>,
    ) {
        match &self.up {
            Up::Gated(gate, up) => {
                gate.pull(around, x, dgate, (Write::Over, dx), gradients);
                up.pull(around, x, dup, (Write::Add, dx), gradients);
            }
            Up::Plain(both) | Up::Fused(both) | Up::Interleaved(both) => {
                let (backend, inner) = (around.backend, self.inner());
                let mut fused = backend.take(2 * backend.len(dgate));
                for (half, runs) in [dgate, dup].into_iter().zip(self.halves()) {
                    let back: Vec<[usize; 3]> = runs.into_iter().map(|[from, to, n]| [to, from, n]).collect();
                    backend.columns(half, &mut fused, [inner, 2 * inner], &back);
                }
                both.pull(around, x, &fused, (Write::Over, dx), gradients);
            }
        }
    }

    /// As [`Mlp::pull`] for the output of an MLP times a weight for each row, without updates, for at most as many rows as the
    /// backend takes of a gated MLP at once: overwrites `dx`, and gives the gradients of the weights.
    ///
    /// These need no output: with the inner rows `h`, `dy · (h Wᵀ)` is `(dy W) · h`, and `dy W` is wanted anyway.
    pub(super) fn pull_weighted(
        &self,
        around: &Around<'_, B>,
        [x, dy, weights]: [&B::Buffer; 3],
        kept: Option<KeptMlp<B>>,
        dx: &mut B::Buffer,
        gradients: &mut Gradients<'_, B>,
    ) -> B::Buffer {
        let backend = around.backend;
        if let Up::Plain(up) = &self.up {
            return self.pull_plain_weighted(around, up, [x, dy, weights], kept, dx, gradients);
        }
        let [gate, up] = match kept {
            Some(KeptMlp::Gated(kept)) => kept,
            _ => self.gate_and_up(around, (x, 0)),
        };
        let mut hidden = backend.take(backend.len(&gate));
        backend.gate(self.activation, &gate, &up, &mut hidden);
        let mut dgate = backend.take(backend.len(&gate));
        self.down.pull_frozen(backend, dy, Write::Over, &mut dgate);
        let mut dweights = backend.take(backend.len(weights));
        backend.weigh(&mut dgate, &hidden, weights, &mut dweights);
        self.add_of_bias(backend, dy, &mut dweights);
        let mut dup = hidden;
        backend.pull_gate(self.activation, [&gate, &up], &mut dgate, &mut dup);
        self.pull_gate_and_up(around, (x, 0), [&dgate, &dup], dx, gradients);
        dweights
    }

    /// Adds to the gradients of the weights what the bias of the output, which is weighed too, has of them.
    fn add_of_bias(&self, backend: &B, dy: &B::Buffer, dweights: &mut B::Buffer) {
        if let Some(bias) = &self.down.bias {
            let mut products = backend.take(backend.len(dweights));
            backend.low_rank_down(dy, bias, 1, 1.0, &mut products);
            backend.add(dweights, &products);
        }
    }

    /// As [`Mlp::pull_weighted`] without a gate.
    fn pull_plain_weighted(
        &self,
        around: &Around<'_, B>,
        up: &Linear<B>,
        [x, dy, weights]: [&B::Buffer; 3],
        kept: Option<KeptMlp<B>>,
        dx: &mut B::Buffer,
        gradients: &mut Gradients<'_, B>,
    ) -> B::Buffer {
        let backend = around.backend;
        let hidden = match kept {
            Some(KeptMlp::Plain(kept)) => kept,
            _ => up.apply(around, (x, 0)),
        };
        let mut activated = backend.part(&hidden, 0..backend.len(&hidden));
        backend.activate(self.activation, &mut activated);
        let mut dinner = backend.take(backend.len(&hidden));
        self.down.pull_frozen(backend, dy, Write::Over, &mut dinner);
        let mut dweights = backend.take(backend.len(weights));
        backend.weigh(&mut dinner, &activated, weights, &mut dweights);
        self.add_of_bias(backend, dy, &mut dweights);
        backend.pull_activate(self.activation, &hidden, &mut dinner);
        up.pull(around, (x, 0), &dinner, (Write::Over, dx), gradients);
        dweights
    }
}

impl<B: Backend> KeptMlp<B> {
    /// Room for what this is a piece of, with so many entries in each buffer.
    fn room_for(&self, backend: &B, entries: usize) -> Self {
        match self {
            KeptMlp::Gated(_) => KeptMlp::Gated([(); 2].map(|()| backend.zeros(entries))),
            KeptMlp::Plain(_) => KeptMlp::Plain(backend.zeros(entries)),
        }
    }

    /// Puts a piece into its place.
    fn put(&mut self, backend: &B, piece: &Self, at: usize) {
        match (self, piece) {
            (KeptMlp::Gated(whole), KeptMlp::Gated(piece)) => {
                whole.iter_mut().zip(piece).for_each(|(whole, piece)| backend.put(piece, at, whole));
            }
            (KeptMlp::Plain(whole), KeptMlp::Plain(piece)) => backend.put(piece, at, whole),
            _ => {}
        }
    }

    /// A piece of it.
    fn part(&self, backend: &B, own: Range<usize>) -> Self {
        match self {
            KeptMlp::Gated(whole) => {
                KeptMlp::Gated(whole.each_ref().map(|whole| backend.part(whole, own.clone())))
            }
            KeptMlp::Plain(whole) => KeptMlp::Plain(backend.part(whole, own)),
        }
    }
}

/// Floats of inner rows in one piece, at most: what a piece has in flight is a few times as much.
#[cfg(not(test))]
const PIECE_FLOATS: usize = 4 << 20;
/// A few rows of the committed models.
#[cfg(test)]
const PIECE_FLOATS: usize = 512;

/// The most rows of so wide an inner width that pass through together, where the backend does not take the weights together.
pub fn piece_rows(inner: usize) -> usize {
    (PIECE_FLOATS / inner.max(1)).max(1)
}

/// Rows that pass through together, in pieces of nearly one size: products of a few rows left over would be slow.
fn pieces(rows: usize, inner: usize) -> Vec<Range<usize>> {
    let count = rows.div_ceil(piece_rows(inner)).max(1);
    (0..count).map(|i| rows * i / count..rows * (i + 1) / count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::RaggedBatch;
    use crate::models::testing::{fixture, load};
    use crate::models::{ModelKind, PretrainedModel};
    use crate::runner::{StepOptions, Wanted};
    use crate::trained::{LowRank, Trained};

    #[test]
    fn pieces_are_of_nearly_one_size_and_hold_every_row_once() {
        for (rows, inner, sizes) in
            [(0, 56, vec![0]), (9, 56, vec![9]), (10, 56, vec![5, 5]), (20, 56, vec![6, 7, 7])]
        {
            let pieces = pieces(rows, inner);
            assert_eq!(pieces.iter().map(Range::len).collect::<Vec<_>>(), sizes);
            assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
    }

    /// The loss of some sequences, and the gradients of all updates, end to end.
    fn step(model: &PretrainedModel, sequences: &[Vec<u32>], kept_bytes: u64) -> (f64, Vec<f32>) {
        let linears = model.runner().linears();
        let numbers = |count: usize, by: f32| {
            (0..count).map(|i| 0.1 * (by * i as f32 + 1.0).sin()).collect::<Vec<f32>>()
        };
        let values: Vec<[Vec<f32>; 2]> =
            linears.iter().map(|of| [numbers(2 * of.inputs, 0.7), numbers(2 * of.outputs, 1.3)]).collect();
        let update = |(of, [a, b]): (&crate::runner::LinearLayer<'_>, &[Vec<f32>; 2])| {
            (of.module.to_owned(), a.clone(), b.clone())
        };
        let owned: Vec<_> = linears.iter().zip(&values).map(update).collect();
        let updates =
            owned.iter().map(|(module, a, b)| LowRank { module, r: 2, a, b, scaling: 1.0, dropout: 0.0 });
        let trained = Trained { updates: updates.collect(), ..Trained::default() };
        let mut batch = RaggedBatch::new(ModelKind::Causal);
        for ids in sequences {
            batch.push(ids.iter().copied(), ids.iter().skip(1).map(|id| Some(*id)), &[]);
        }
        let options = StepOptions::new(kept_bytes, None);
        let output = model.step(&batch, &trained, Wanted::Gradients, options).expect("a step");
        (output.losses.sum(), output.gradients.concat())
    }

    #[test]
    fn rows_in_pieces_give_what_they_give_in_one() {
        // gated, in one matrix, and plain
        for name in ["llama_untied", "phi3", "opt_125m"] {
            let model = load(&fixture(name));
            let most = piece_rows(model.intermediate_size());
            let sequences: Vec<Vec<u32>> =
                (0..4).map(|s| (0..most as u32).map(|at| 5 + (7 * at + 11 * s) % 40).collect()).collect();
            for kept in [0, u64::MAX] {
                let (loss, gradients) = step(&model, &sequences, kept);
                let mut sum = (0.0, vec![0.0; gradients.len()]);
                for one in &sequences {
                    let (loss, gradients) = step(&model, std::slice::from_ref(one), kept);
                    sum.0 += loss;
                    sum.1.iter_mut().zip(&gradients).for_each(|(sum, x)| *sum += x);
                }
                let largest = gradients.iter().fold(0f32, |most, x| most.max(x.abs()));
                let off = gradients.iter().zip(&sum.1).fold(0f32, |most, (x, y)| most.max((x - y).abs()));
                assert!((loss - sum.0).abs() <= 1e-5 * loss.abs(), "{name}: {loss} and {}", sum.0);
                assert!(largest > 0.0 && off <= 1e-5 * largest, "{name}: {off:e} off, {largest:e} at most");
            }
        }
    }
}
