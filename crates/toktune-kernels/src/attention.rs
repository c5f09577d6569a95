//! Scaled dot-product attention over ragged sequences, in tiles (FlashAttention, Dao 2023): no `T x T` matrix exists.
//!
//! The forward pass keeps one number a row and head, the logarithm of the softmax's denominator; the backward pass
//! recomputes each tile of probabilities from it. Heads may be grouped (several query heads share a key/value head), a
//! window may limit how far a row looks, scores may be capped, and a bias may be added to them that depends on the
//! distance of query and key. A head may have a sink, a score that takes its share of the softmax and gives nothing. Rows attend to the rows before them, to their whole sequence, or to the rows of another
//! sequence.
//!
//! Before its own rows a span may see others, stretch by stretch. *Past* ones are keys and values that are given and constant:
//! the cache when text is generated, and the rows before the first trainable token when training; they get no gradient. The
//! others are rows of earlier spans. So a batch is a forest whose sequences share their beginnings: a span is a node, and
//! what it sees are its ancestors and itself.

mod backward;
mod forest;
mod softmax;
mod tiles;

pub use backward::{Saved, backward};

use crate::Isa;
use crate::gemm::Right;
use crate::math::scale;
use crate::product::{Precision, Product};
use crate::shared::{SharedMatrix, cut};
use crate::view::View;
use rayon::prelude::*;
use softmax::add_scores;
use std::ops::Range;
use tiles::{Queries, key_tiles, left_room, tasks, tile_room};

/// Query rows in a tile.
const TILE_QUERIES: usize = 64;

/// Keys in a tile.
const TILE_KEYS: usize = 128;

/// What every row of an attention shares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on the scores, `1 / sqrt(head_dim)` in most models.
    pub scale: f32,
    /// A row sees keys at a distance below `window` only: row `p` sees `p - window + 1 ..= p`, and as far ahead when the
    /// attention is not causal.
    pub window: Option<usize>,
    /// A row sees keys of its own run of so many positions only, the runs lying end to end (Llama 4).
    pub chunk: Option<usize>,
    /// A row sees no key after its own position.
    pub causal: bool,
    /// Scores `s` become `cap tanh(s / cap)` (Gemma 2).
    pub soft_cap: Option<f32>,
}

/// What is added to the score of a query head and a key.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreBias {
    by: BiasBy,
    heads: usize,
    /// The longest sequence it is for.
    length: usize,
    /// `[heads, length]` by position, `[heads, 2 length - 1]` by distance.
    values: Vec<f32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BiasBy {
    Distance,
    Key,
}

impl ScoreBias {
    /// `of(head, distance)` for the distance of key and query (`key - query`), in sequences of up to `length` (T5's
    /// buckets).
    pub fn by_distance(heads: usize, length: usize, of: impl Fn(usize, isize) -> f32) -> Self {
        let length = length.max(1);
        let reach = length as isize - 1;
        let values = (0..heads).flat_map(|h| (-reach..=reach).map(move |d| (h, d))).map(|(h, d)| of(h, d));
        Self { by: BiasBy::Distance, heads, length, values: values.collect() }
    }

    /// `of(head, key)` for the position of the key, in sequences of up to `length` (ALiBi, where only differences count).
    pub fn by_key(heads: usize, length: usize, of: impl Fn(usize, usize) -> f32) -> Self {
        let length = length.max(1);
        let values = (0..heads).flat_map(|h| (0..length).map(move |k| (h, k))).map(|(h, k)| of(h, k));
        Self { by: BiasBy::Key, heads, length, values: values.collect() }
    }

    /// Where the value of a query at `at` and a key stands.
    fn place(&self, head: usize, at: usize, key: usize) -> usize {
        match self.by {
            BiasBy::Distance => head * (2 * self.length - 1) + self.length - 1 + key - at,
            BiasBy::Key => head * self.length + key,
        }
    }

    /// What is added to the scores of the query at `at` with `n` keys from position `key` on.
    fn line(&self, head: usize, at: usize, key: usize, n: usize) -> &[f32] {
        &self.values[self.place(head, at, key)..][..n]
    }

    /// What is added to the score of the query at `at` with a key.
    pub fn get(&self, head: usize, at: usize, key: usize) -> f32 {
        self.values[self.place(head, at, key)]
    }
}

/// A run of rows that come before a span's own in its sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The rows.
    pub rows: Range<usize>,
    /// Of the past keys and values, which get no gradient; else of `k` and `v`.
    pub is_past: bool,
}

/// One sequence: where its rows lie in the queries, keys and values, and where its past lies in the past ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Rows of `q` and the output.
    pub rows: Range<usize>,
    /// What comes before its keys in the sequence.
    pub before: Vec<Stretch>,
    /// Rows of `k` and `v`: the same as `rows`, unless the rows attend to another sequence.
    pub keys: Range<usize>,
}

impl Span {
    /// Rows that attend to the past and to themselves.
    pub fn new(rows: Range<usize>, past: Range<usize>) -> Self {
        let before = if past.is_empty() { Vec::new() } else { vec![Stretch { rows: past, is_past: true }] };
        Self { keys: rows.clone(), rows, before }
    }

    /// Rows that come before its own.
    pub fn position(&self) -> usize {
        self.before.iter().map(|stretch| stretch.rows.len()).sum()
    }

    /// How many keys there are.
    fn total(&self) -> usize {
        self.position() + self.keys.len()
    }
}

/// The inputs: `q [rows, heads * head_dim]`, `k` and `v [rows, kv_heads * head_dim]`, the past ones `[past, ...]`.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Queries.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Keys of past rows.
    pub past_k: &'a [f32],
    /// Values of past rows.
    pub past_v: &'a [f32],
    /// For each query head the score of a key that every row sees and that has no value (GPT-OSS), or nothing.
    pub sinks: &'a [f32],
    /// What is added to the scores, for every query head; of the length of the longest sequence at least.
    pub bias: Option<&'a ScoreBias>,
    /// In which precision the products are taken: with bf16, where the instruction set multiplies it, of queries, keys and
    /// values and, in the backward pass, of probabilities and gradients. Scores, sums and the softmax are `f32` always, and
    /// so is everything else.
    pub precision: Precision,
}

impl Inputs<'_> {
    /// What multiplies tiles.
    fn product(&self, isa: Isa) -> Product {
        Product::new(isa, if isa.has_fast_bf16() { self.precision } else { Precision::F32 })
    }
}

impl Shape {
    fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// The query heads of a key/value head.
    fn group(&self, kv_head: usize) -> Range<usize> {
        let size = self.heads / self.kv_heads;
        kv_head * size..(kv_head + 1) * size
    }

    /// The keys, of `total`, that the row at position `at` of its sequence sees.
    pub fn visible(&self, at: usize, total: usize) -> Range<usize> {
        let of_window = self.window.map_or(0, |window| (at + 1).saturating_sub(window));
        let of_chunk = self.chunk.map_or(0, |chunk| at / chunk.max(1) * chunk);
        let first = of_window.max(of_chunk);
        let end = if self.causal { at + 1 } else { self.window.map_or(total, |window| at + window) };
        first.min(total)..end.min(total)
    }

    /// The keys, of `total`, that some row at `positions` sees.
    fn visible_from(&self, positions: &Range<usize>, total: usize) -> Range<usize> {
        let last = positions.end.saturating_sub(1).max(positions.start);
        self.visible(positions.start, total).start..self.visible(last, total).end
    }

    fn check(&self, spans: &[Span], x: &Inputs<'_>) -> usize {
        assert!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "{} / {}",
            self.heads,
            self.kv_heads
        );
        let rows = x.q.len() / self.q_width().max(1);
        let past = x.past_k.len() / self.kv_width().max(1);
        assert_eq!(x.q.len(), rows * self.q_width(), "queries");
        let keys = x.k.len() / self.kv_width().max(1);
        assert!(x.k.len() == keys * self.kv_width() && x.v.len() == x.k.len(), "keys and values");
        assert!(x.sinks.is_empty() || x.sinks.len() == self.heads, "a sink for each head");
        assert!(self.chunk.is_none() || self.causal, "runs of causal rows");
        assert!(self.soft_cap.is_none() || x.bias.is_none(), "capped scores with a bias");
        assert!(x.past_v.len() == x.past_k.len(), "past keys and values");
        let (mut next, mut next_key) = (0, 0);
        for span in spans {
            assert!(span.rows.start == next && span.rows.end >= next, "sequences follow one another");
            for stretch in &span.before {
                let before = if stretch.is_past { past } else { span.keys.start };
                assert!(stretch.rows.end <= before, "rows before a span's own that exist");
            }
            assert!(
                span.keys.start >= next_key && span.keys.end >= span.keys.start,
                "each key in one sequence"
            );
            assert!(
                !self.causal || span.keys.len() == span.rows.len(),
                "as many keys as rows in causal attention"
            );
            if let Some(bias) = x.bias {
                let longest = span.total().max(span.position() + span.rows.len());
                assert!(bias.heads == self.heads && longest <= bias.length, "a bias for every key");
            }
            (next, next_key) = (span.rows.end, span.keys.end.max(next_key));
        }
        assert!(next_key <= keys, "keys that exist");
        assert_eq!(next, rows, "every row belongs to a sequence");
        rows
    }
}

/// `out = softmax(scale q kᵀ + mask) v`, a sink being one more score of the softmax, for every sequence and head; overwrites `out` (as `q`) and
/// `lse [rows, heads]`, the logarithms of the denominators, which [`backward`] needs.
///
/// Panics when the lengths do not fit.
pub fn forward(isa: Isa, shape: &Shape, spans: &[Span], x: &Inputs<'_>, out: &mut [f32], lse: &mut [f32]) {
    let rows = shape.check(spans, x);
    let (hd, width) = (shape.head_dim, shape.q_width());
    let out = SharedMatrix::new(out, rows, width);
    let lse = SharedMatrix::new(lse, rows, shape.heads);
    let product = x.product(isa);
    let (room, left) = (tile_room(&product, hd), left_room(&product, hd));
    tasks(spans, shape.kv_heads, TILE_QUERIES, |span| span.rows.len()).into_par_iter().for_each(
        |(span, kv_head, tile)| {
            let (m, first) = (tile.len(), span.rows.start + tile.start);
            let positions = span.position() + tile.start..span.position() + tile.end;
            let group = shape.group(kv_head);
            let queries = |head| Queries {
                span,
                head,
                positions: positions.clone(),
                rows: View::rows(&x.q[first * width + head * hd..], width),
            };
            product.task_with(m * TILE_KEYS + group.len() * m * (hd + 2) + 2 * room + left, |mut scratch| {
                let scores = cut(&mut scratch, m * TILE_KEYS);
                let sums = cut(&mut scratch, group.len() * m * hd);
                let [largest, total] = [(); 2].map(|()| cut(&mut scratch, group.len() * m));
                let [key_room, value_room] = [(); 2].map(|()| cut(&mut scratch, room));
                sums.fill(0.0);
                for (at, head) in group.clone().enumerate() {
                    // a sink counts from the first, as a key without a value
                    let sink = x.sinks.get(head);
                    largest[at * m..][..m].fill(sink.copied().unwrap_or(f32::NEG_INFINITY));
                    total[at * m..][..m].fill(if sink.is_some() { 1.0 } else { 0.0 });
                }
                for tile in key_tiles(shape, span, x, positions.clone()) {
                    // one packing serves every head of the group
                    let n = tile.len();
                    let keys = tile.transposed(tile.keys, shape, kv_head);
                    let keys = Right::new(product, keys, (n, hd), m, key_room);
                    let values = tile.rows_of(tile.values, shape, kv_head);
                    let values = Right::new(product, values, (hd, n), m, value_room);
                    let scores = &mut scores[..m * n];
                    for (at, head) in group.clone().enumerate() {
                        let own = at * m..(at + 1) * m;
                        let sums = &mut sums[own.start * hd..own.end * hd];
                        let queries = queries(head);
                        let factor = queries.scores(shape, x.bias, &tile, &keys, (scores, scratch));
                        let rows = scores.chunks_exact_mut(n).zip(sums.chunks_exact_mut(hd));
                        for (i, (row, sum)) in rows.enumerate() {
                            let (seen, own) = (queries.seen(shape, &tile, i), own.start + i);
                            row[..seen.start].fill(0.0);
                            row[seen.end..].fill(0.0);
                            let [new, keep, weight] = add_scores(isa, &mut row[seen], factor, largest[own]);
                            if keep != 1.0 {
                                scale(isa, sum, keep);
                            }
                            (largest[own], total[own]) = (new, total[own] * keep + weight);
                        }
                        values.multiply(m, View::rows(scores, n), scratch, sums, true);
                    }
                }
                for (at, head) in group.enumerate() {
                    for i in 0..m {
                        let own = at * m + i;
                        // SAFETY: this task alone has these rows of the heads of this group.
                        let (out, lse) =
                            unsafe { (out.row(first + i, head * hd, hd), lse.row(first + i, head, 1)) };
                        out.iter_mut().zip(&sums[own * hd..][..hd]).for_each(|(o, s)| *o = s / total[own]);
                        lse[0] = largest[own] + total[own].ln();
                    }
                }
            });
        },
    );
}

#[cfg(test)]
mod tests;
