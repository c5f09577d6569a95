//! The CPU: buffers that are used again, and the kernels.

mod awake;
mod pool;

pub use pool::Buffer;

use super::*;
use crate::profile::{Part, time};
use pool::Pool;
use rayon::prelude::*;
use toktune_kernels::attention::{self, Inputs};
use toktune_kernels::cross_entropy::{self, Gradients, Labelled};
use toktune_kernels::layer_norm::LayerNorm;
use toktune_kernels::matmul;
use toktune_kernels::norm::RmsNorm;
use toktune_kernels::{
    Isa, Matrix, Precision, TokenTable, convolution, disentangled, embedding, gated, gated_mlp, low_rank,
    rotary, rows,
};
use toktune_weights::FrozenMatrix;

/// The CPU with the kernels of its instruction set.
#[derive(Clone, Debug)]
pub struct Cpu {
    isa: Isa,
    pool: Pool,
    few_rows: FewRows,
}

/// How products of few rows are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FewRows {
    /// As those of many.
    AsMany,
    /// They stream through the weights.
    Streamed,
    /// And where the weights are quantised, the rows are rounded to 8 bits.
    InIntegers,
}

/// Rows of `y` that one task of a scatter adds to.
const TASK_ROWS: usize = 64;

impl Cpu {
    /// The CPU, computing with `isa`.
    pub fn new(isa: Isa) -> Self {
        Self { isa, pool: Pool::default(), few_rows: FewRows::AsMany }
    }

    /// Whether a product of so many rows streams through the weight.
    fn streams(&self, rows: usize) -> bool {
        self.few_rows != FewRows::AsMany && rows <= matmul::FEW_ROWS
    }

    /// A product that streams through the weight.
    fn stream(&self, x: &[f32], w: &impl Matrix, precision: Precision, write: Write, y: &mut [f32]) {
        match self.few_rows {
            FewRows::InIntegers => matmul::stream_in_integers(self.isa, x, w, precision, write, y),
            _ => matmul::stream(self.isa, x, w, precision, write, y),
        }
    }

    fn table<'a>(&self, of: &Table<'a, Self>) -> TokenTable<'a> {
        let floats = |x: Option<&'a Buffer>| x.map_or(&[][..], |x| x);
        TokenTable::new(of.base.view(), floats(of.extra), of.overrides, floats(of.values))
    }

    /// Calls `work` with the vocabulary as the kernels read it, and the precision of products with it.
    fn head<R>(
        &self,
        of: &Head<'_, Self>,
        work: impl FnOnce(&toktune_kernels::cross_entropy::Head<'_>, Precision) -> R,
    ) -> R {
        let table = self.table(&of.table);
        let bias = of.bias.map_or(&[][..], |bias| bias);
        let head = toktune_kernels::cross_entropy::Head {
            isa: self.isa,
            table: &table,
            bias,
            soft_cap: of.soft_cap,
        };
        work(&head, of.table.base.precision())
    }

    fn gated_kernel<R>(
        &self,
        of: &GatedMlp<'_, FrozenMatrix>,
        work: impl FnOnce(gated_mlp::GatedMlp<'_, toktune_kernels::Weight<'_>>) -> R,
    ) -> R {
        let (gate, up, down) = (of.gate.view(), of.up.view(), of.down.view());
        let (activation, precision) = (of.activation, of.gate.precision());
        work(gated_mlp::GatedMlp { isa: self.isa, gate: &gate, up: &up, down: &down, activation, precision })
    }
}

/// Operations of a product with a matrix over so many floats of its outputs or inputs.
fn flops(w: &FrozenMatrix, rows: usize) -> usize {
    2 * rows * w.rows() * w.cols()
}

fn taps<'a>(of: &Taps<'a, Buffer>) -> convolution::Taps<'a> {
    convolution::Taps { weight: of.weight, bias: of.bias.map_or(&[][..], |bias| bias), width: of.width }
}

fn attention_inputs<'a>(of: &AttentionInputs<'a, Buffer>) -> Inputs<'a> {
    let (past_k, past_v): (&[f32], &[f32]) = of.past.map_or((&[], &[]), |(k, v)| (k, v));
    let (bias, precision) = (of.sequences.bias.as_deref(), of.precision);
    let sinks = of.sinks.map_or(&[][..], |sinks| sinks);
    Inputs { q: of.q, k: of.k, v: of.v, past_k, past_v, sinks, bias, precision }
}

fn disentangled_parts<'a>(
    of: &AttentionInputs<'a, Buffer>,
    distances: &Distances<'a, Buffer>,
) -> (disentangled::Shape, disentangled::Inputs<'a>) {
    let shape =
        disentangled::Shape { heads: of.shape.heads, head_dim: of.shape.head_dim, scale: of.shape.scale };
    let rows = |x: Option<&'a Buffer>| x.map_or(&[][..], |x| x);
    let distances = disentangled::Distances {
        keys: rows(distances.keys),
        queries: rows(distances.queries),
        places: distances.places,
    };
    (shape, disentangled::Inputs { q: of.q, k: of.k, v: of.v, distances })
}

fn labelled<'a>(hidden: &'a Buffer, labels: Labels<'a>) -> Labelled<'a> {
    Labelled { hidden, targets: labels.targets, weights: labels.weights }
}

fn saved<'a>(of: &Saved<'a, Buffer>) -> attention::Saved<'a> {
    attention::Saved { out: of.out, lse: of.lse, dout: of.dout }
}

impl Backend for Cpu {
    type Buffer = Buffer;
    type Matrix = FrozenMatrix;

    fn take(&self, len: usize) -> Buffer {
        self.pool.take(len)
    }

    fn place(&self, values: Vec<f32>) -> Buffer {
        Buffer::from(values)
    }

    fn read(&self, x: &Buffer) -> Vec<f32> {
        x.to_vec()
    }

    fn len(&self, x: &Buffer) -> usize {
        x.len()
    }

    fn part(&self, x: &Buffer, floats: Range<usize>) -> Buffer {
        let mut part = self.take(floats.len());
        part.copy_from_slice(&x[floats]);
        part
    }

    fn keep(&self, x: &Buffer) -> Buffer {
        Buffer::from(x.to_vec())
    }

    fn put(&self, from: &Buffer, at: usize, to: &mut Buffer) {
        to[at..at + from.len()].copy_from_slice(from);
    }

    fn decoding(&self) -> Self {
        Self { few_rows: FewRows::Streamed, ..self.clone() }
    }

    fn generating(&self) -> Self {
        Self { few_rows: FewRows::InIntegers, ..self.clone() }
    }

    fn awake<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        awake::awake(work)
    }

    fn release(&self) {
        self.pool.release();
    }

    fn matrix(&self, of: &FrozenMatrix) -> FrozenMatrix {
        of.clone()
    }

    fn product(&self, x: &Buffer, w: &Stored<FrozenMatrix>, write: Write, y: &mut Buffer) {
        let (inputs, _) = w.stored.sizes(&w.matrix);
        let (view, precision) = (w.matrix.view(), w.matrix.precision());
        time(Part::Products, flops(&w.matrix, x.len() / inputs.max(1)), || match w.stored {
            StoredAs::Rows if self.streams(x.len() / inputs.max(1)) => {
                self.stream(x, &view, precision, write, y)
            }
            StoredAs::Rows => matmul::forward(self.isa, x, &view, precision, write, y),
            StoredAs::Columns => matmul::backward(self.isa, x, &view, precision, write, y),
        });
    }

    fn pull_product(&self, dy: &Buffer, w: &Stored<FrozenMatrix>, write: Write, dx: &mut Buffer) {
        let (_, outputs) = w.stored.sizes(&w.matrix);
        let (view, precision) = (w.matrix.view(), w.matrix.precision());
        time(Part::Products, flops(&w.matrix, dy.len() / outputs.max(1)), || match w.stored {
            StoredAs::Rows => matmul::backward(self.isa, dy, &view, precision, write, dx),
            StoredAs::Columns => matmul::forward(self.isa, dy, &view, precision, write, dx),
        });
    }

    fn low_rank_down(&self, x: &Buffer, a: &Buffer, r: usize, scale: f32, h: &mut Buffer) {
        time(Part::Lora, 2 * h.len() * (a.len() / r.max(1)), || low_rank::down(self.isa, x, a, r, scale, h));
    }

    fn low_rank_up(&self, h: &Buffer, b: &Buffer, r: usize, scale: f32, y: &mut Buffer) {
        time(Part::Lora, 2 * h.len() * (b.len() / r.max(1)), || low_rank::up(self.isa, h, b, r, scale, y));
    }

    fn low_rank_gradient(&self, h: &Buffer, x: &Buffer, r: usize, sums: &mut Buffer) {
        time(Part::Lora, 2 * h.len() * (sums.len() / r.max(1)), || {
            low_rank::gradient(self.isa, h, x, r, sums)
        });
    }

    fn gated_mlp(
        &self,
        mlp: &GatedMlp<'_, FrozenMatrix>,
        x: &Buffer,
        write: Write,
        y: &mut Buffer,
        keep: bool,
    ) -> Option<[Buffer; 2]> {
        let mut kept = keep.then(gated_mlp::Kept::default);
        let rows = x.len() / mlp.down.rows().max(1);
        if self.streams(rows) && !keep {
            let (gate, up, down) = (mlp.gate.view(), mlp.up.view(), mlp.down.view());
            let precision = mlp.gate.precision();
            let [mut g, mut u, mut product] = [(); 3].map(|()| self.take(rows * mlp.gate.rows()));
            time(Part::Products, 3 * flops(mlp.down, rows), || {
                rayon::join(
                    || self.stream(x, &gate, precision, Write::Over, &mut g),
                    || self.stream(x, &up, precision, Write::Over, &mut u),
                );
                gated::gated_forward(self.isa, mlp.activation, &g, &u, &mut product);
                self.stream(&product, &down, precision, write, y);
            });
            return None;
        }
        time(Part::Products, 3 * flops(mlp.down, rows), || {
            self.gated_kernel(mlp, |mlp| mlp.forward(x, write, y, kept.as_mut()));
        });
        kept.map(|kept| [Buffer::from(kept.gate), Buffer::from(kept.up)])
    }

    fn pull_gated_mlp(
        &self,
        mlp: &GatedMlp<'_, FrozenMatrix>,
        x: &Buffer,
        dy: &Buffer,
        kept: Option<&[Buffer; 2]>,
        dx: &mut Buffer,
    ) {
        let rows = x.len() / mlp.down.rows().max(1);
        let products = if kept.is_some() { 3 } else { 5 };
        let kept = kept.map(|[gate, up]| [&gate[..], up]);
        time(Part::Products, products * flops(mlp.down, rows), || {
            self.gated_kernel(mlp, |mlp| mlp.backward(x, dy, kept, dx));
        });
    }

    fn norm(&self, of: &NormWeights<'_, Buffer>, x: &Buffer, y: &mut Buffer) {
        let bias = of.bias.map_or(&[][..], |bias| bias);
        let (isa, weight, eps) = (self.isa, &of.weight[..], of.eps);
        time(Part::Rows, 0, || match of.norming {
            Norming::Rms => RmsNorm { isa, weight, eps }.forward(x, y),
            Norming::Layer => LayerNorm { isa, weight, bias, eps }.forward(x, y),
        });
    }

    fn pull_norm(
        &self,
        of: &NormWeights<'_, Buffer>,
        x: &Buffer,
        dy: &Buffer,
        write: Write,
        dx: &mut Buffer,
    ) {
        let (isa, weight, eps) = (self.isa, &of.weight[..], of.eps);
        time(Part::Rows, 0, || match of.norming {
            Norming::Rms => RmsNorm { isa, weight, eps }.backward(x, dy, write, dx),
            Norming::Layer => LayerNorm { isa, weight, bias: &[], eps }.backward(x, dy, write, dx),
        });
    }

    fn rotate(&self, by: &Rotation<Buffer>, heads: Heads, to: Direction, x: &Buffer, y: &mut Buffer) {
        let angles = rotary::Angles { rows: by.rows, cos: &by.cos, sin: &by.sin };
        time(Part::Rows, 0, || rotary::rotate(self.isa, x, angles, heads, to, y));
    }

    fn attention(&self, of: &AttentionInputs<'_, Buffer>, out: &mut Buffer, lse: &mut Buffer) {
        time(Part::Attention, of.sequences.flops(of.shape), || {
            attention::forward(self.isa, of.shape, &of.sequences.spans, &attention_inputs(of), out, lse);
        });
    }

    fn pull_attention(
        &self,
        of: &AttentionInputs<'_, Buffer>,
        by: Saved<'_, Buffer>,
        gradients: [&mut Buffer; 3],
    ) {
        let [dq, dk, dv] = gradients;
        // the two products of the forward pass again, and three that give the gradients
        time(Part::Attention, of.sequences.flops(of.shape) / 2 * 5, || {
            let (spans, inputs) = (&of.sequences.spans, attention_inputs(of));
            attention::backward(self.isa, of.shape, spans, &inputs, &saved(&by), [dq, dk, dv]);
        });
    }

    fn convolve(
        &self,
        by: &Taps<'_, Buffer>,
        sequences: &Sequences,
        x: &Buffer,
        past: Option<&Buffer>,
        y: &mut Buffer,
    ) {
        time(Part::Rows, 2 * by.weight.len() * (x.len() / by.width.max(1)), || {
            let past = past.map_or(&[][..], |past| past);
            convolution::forward(self.isa, &taps(by), &sequences.spans, [x, past], y);
        });
    }

    fn pull_convolve(&self, by: &Taps<'_, Buffer>, sequences: &Sequences, dy: &Buffer, dx: &mut Buffer) {
        time(Part::Rows, 2 * by.weight.len() * (dy.len() / by.width.max(1)), || {
            convolution::backward(self.isa, &taps(by), &sequences.spans, dy, dx);
        });
    }

    fn disentangled(
        &self,
        of: &AttentionInputs<'_, Buffer>,
        distances: &Distances<'_, Buffer>,
        out: &mut Buffer,
        lse: &mut Buffer,
    ) {
        time(Part::Attention, of.sequences.flops(of.shape), || {
            let (shape, inputs) = disentangled_parts(of, distances);
            disentangled::forward(self.isa, &shape, &of.sequences.spans, &inputs, out, lse);
        });
    }

    fn pull_disentangled(
        &self,
        of: &AttentionInputs<'_, Buffer>,
        distances: &Distances<'_, Buffer>,
        by: Saved<'_, Buffer>,
        gradients: [&mut Buffer; 3],
        of_distances: [Option<&mut Buffer>; 2],
    ) {
        let [dq, dk, dv] = gradients;
        time(Part::Attention, of.sequences.flops(of.shape) / 2 * 5, || {
            let (shape, inputs) = disentangled_parts(of, distances);
            let spans = &of.sequences.spans;
            disentangled::backward(self.isa, &shape, spans, &inputs, &saved(&by), (dq, dk, dv));
            if of_distances.iter().any(Option::is_some) {
                let [dkeys, dqueries] = of_distances.map(|d| d.map_or(&mut [][..], |d| d));
                let gradients = (dkeys, dqueries);
                disentangled::backward_distances(self.isa, &shape, spans, &inputs, &saved(&by), gradients);
            }
        });
    }

    fn activate(&self, activation: Activation, x: &mut Buffer) {
        gated::activate(self.isa, activation, x);
    }

    fn pull_activate(&self, activation: Activation, x: &Buffer, dx: &mut Buffer) {
        gated::activate_backward(self.isa, activation, x, dx);
    }

    fn gate(&self, activation: Activation, gate: &Buffer, up: &Buffer, y: &mut Buffer) {
        gated::gated_forward(self.isa, activation, gate, up, y);
    }

    fn pull_gate(
        &self,
        activation: Activation,
        [gate, up]: [&Buffer; 2],
        dgate: &mut Buffer,
        dup: &mut Buffer,
    ) {
        gated::gated_backward(self.isa, activation, gate, up, dgate, dup);
    }

    fn add(&self, y: &mut Buffer, x: &Buffer) {
        rows::add(self.isa, y, x);
    }

    fn multiply(&self, y: &mut Buffer, x: &Buffer) {
        rows::multiply(self.isa, y, x);
    }

    fn scale(&self, y: &mut Buffer, factor: f32) {
        rows::scale(self.isa, y, factor);
    }

    fn add_to_each(&self, y: &mut Buffer, row: &Buffer) {
        rows::add_to_each(self.isa, y, row);
    }

    fn multiply_each(&self, y: &mut Buffer, row: &Buffer) {
        rows::multiply_each(self.isa, y, row);
    }

    fn scale_rows(&self, y: &mut Buffer, factors: &Buffer) {
        let width = y.len().checked_div(factors.len()).unwrap_or(0).max(1);
        let each = y.par_chunks_mut(width).zip(&**factors);
        each.for_each(|(y, factor)| y.iter_mut().for_each(|y| *y *= factor));
    }

    fn weigh(&self, y: &mut Buffer, x: &Buffer, factors: &Buffer, products: &mut Buffer) {
        let width = y.len().checked_div(factors.len()).unwrap_or(0).max(1);
        let each = y.par_chunks_mut(width).zip(x.par_chunks(width));
        each.zip(&**factors).zip(&mut **products).for_each(|(((y, x), factor), product)| {
            *product = y.iter().zip(x).map(|(y, x)| y * x).sum();
            y.iter_mut().for_each(|y| *y *= factor);
        });
    }

    fn drop_out(&self, x: &mut Buffer, dropout: Dropout, first: usize) {
        const TASK: usize = 16 * 1024;
        x.par_chunks_mut(TASK).enumerate().for_each(|(task, x)| {
            let first = (first + task * TASK) as u64;
            x.iter_mut().zip(first..).for_each(|(x, at)| *x *= dropout.factor(at));
        });
    }

    fn columns(&self, from: &Buffer, to: &mut Buffer, [wide, width]: [usize; 2], runs: &[[usize; 3]]) {
        to.par_chunks_mut(width.max(1)).zip(from.par_chunks(wide.max(1))).for_each(|(to, from)| {
            for &[source, at, len] in runs {
                to[at..at + len].copy_from_slice(&from[source..source + len]);
            }
        });
    }

    fn gather(&self, x: &Buffer, rows: &[u32], width: usize) -> Buffer {
        let mut own = self.take(rows.len() * width);
        own.par_chunks_mut(width.max(1))
            .zip(rows)
            .for_each(|(own, &row)| own.copy_from_slice(&x[row as usize * width..][..width]));
        own
    }

    fn scatter(&self, x: &Buffer, rows: &[u32], factors: Option<&Buffer>, width: usize, y: &mut Buffer) {
        y.par_chunks_mut((TASK_ROWS * width).max(1)).enumerate().for_each(|(task, y)| {
            let first = (task * TASK_ROWS) as u32;
            let begin = rows.partition_point(|&row| row < first);
            let end = rows.partition_point(|&row| row < first + TASK_ROWS as u32);
            for at in begin..end {
                let (y, x) =
                    (&mut y[(rows[at] - first) as usize * width..][..width], &x[at * width..][..width]);
                let factor = factors.map_or(1.0, |factors| factors[at]);
                y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
            }
        });
    }

    fn embed(&self, ids: &[u32], table: &Table<'_, Self>, scale: f32) -> Buffer {
        let table = self.table(table);
        let mut x = self.take(ids.len() * Matrix::cols(&table));
        time(Part::Embedding, 0, || embedding::gather(self.isa, ids, &table, scale, &mut x));
        x
    }

    fn pull_embed(
        &self,
        dx: &Buffer,
        places: &[(usize, usize)],
        scale: f32,
        width: usize,
        sums: &mut Buffer,
    ) {
        time(Part::Embedding, 0, || embedding::scatter_add(self.isa, dx, places, scale, width, sums));
    }

    fn cross_entropy(
        &self,
        hidden: &Buffer,
        head: &Head<'_, Self>,
        labels: Labels<'_>,
        dhidden: Option<&mut Buffer>,
        dtrained: Option<&mut Buffer>,
    ) -> Vec<f32> {
        let mut losses = vec![0f32; labels.targets.len()];
        self.head(head, |head, precision| {
            let rows = Matrix::rows(head.table);
            let flops = 2 * hidden.len() * rows * if dhidden.is_some() { 2 } else { 1 };
            let wanted =
                Gradients { hidden: dhidden.map(|dh| &mut dh[..]), trained: dtrained.map(|dt| &mut dt[..]) };
            time(Part::Head, flops, || {
                let of = labelled(hidden, labels);
                cross_entropy::cross_entropy(of, head, &mut losses, wanted, precision);
            });
        });
        losses
    }

    fn frozen_parts(&self, hidden: &Buffer, head: &Head<'_, Self>, targets: &[u32]) -> Vec<FrozenPart> {
        self.head(head, |head, precision| {
            let flops = 2 * hidden.len() * Matrix::rows(head.table);
            time(Part::Head, flops, || cross_entropy::frozen_parts(hidden, head, targets, precision))
        })
    }

    fn with_trained_entries(
        &self,
        hidden: &Buffer,
        head: &Head<'_, Self>,
        labels: Labels<'_>,
        frozen: &[FrozenPart],
        dtrained: Option<&mut Buffer>,
    ) -> Vec<f32> {
        let mut losses = vec![0f32; labels.targets.len()];
        self.head(head, |head, _| {
            let trained = dtrained.map(|dt| &mut dt[..]);
            time(Part::Head, 0, || {
                let of = labelled(hidden, labels);
                cross_entropy::with_trained_entries(of, head, frozen, &mut losses, trained);
            });
        });
        losses
    }

    fn logits(&self, hidden: &Buffer, head: &Head<'_, Self>) -> Buffer {
        self.head(head, |head, precision| {
            let (entries, d) = (head.table.rows(), head.table.cols());
            let rows = hidden.len() / d.max(1);
            let mut logits = self.take(rows * entries);
            if self.streams(rows) {
                self.stream(hidden, head.table, precision, Write::Over, &mut logits);
            } else {
                matmul::forward(self.isa, hidden, head.table, precision, Write::Over, &mut logits);
            }
            logits.par_chunks_mut(entries.max(1)).for_each(|row| head.finish(0..entries, row));
            logits
        })
    }
}
