//! Scaled dot-product attention over ragged sequences, in tiles (FlashAttention, Dao 2023): no `T x T` matrix exists.
//!
//! The forward pass keeps one number a row and head, the logarithm of the softmax's denominator; the backward pass
//! recomputes each tile of probabilities from it. Heads may be grouped (several query heads share a key/value head),
//! and a window may limit how far back a row looks.
//!
//! A sequence may have *past* rows: keys and values that are given and constant. They are the cache when text is
//! generated, and the rows before the first trainable token when training; either way they get no gradient.

use crate::gemm::{Right, View, gemm};
use crate::math::{exp_shifted, max, scale};
use crate::shared::{SharedMatrix, pieces, with_scratch};
use rayon::prelude::*;
use std::ops::Range;

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
    /// Row `p` sees keys `p - window + 1 ..= p` only.
    pub window: Option<usize>,
}

/// One sequence: where its rows lie in the queries, keys and values, and where its past lies in the past ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Rows of `q`, `k`, `v` and the output.
    pub rows: Range<usize>,
    /// Rows of the past keys and values; they come before `rows` in the sequence.
    pub past: Range<usize>,
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

    /// The keys that the row at position `at` of its sequence sees.
    fn visible(&self, at: usize) -> Range<usize> {
        self.window.map_or(0, |window| (at + 1).saturating_sub(window))..at + 1
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
        assert!(x.k.len() == rows * self.kv_width() && x.v.len() == x.k.len(), "keys and values");
        assert!(x.past_v.len() == x.past_k.len(), "past keys and values");
        let mut next = 0;
        for span in spans {
            assert!(span.rows.start == next && span.rows.end >= next, "sequences follow one another");
            assert!(span.past.start <= span.past.end && span.past.end <= past, "past rows that exist");
            next = span.rows.end;
        }
        assert_eq!(next, rows, "every row belongs to a sequence");
        rows
    }
}

/// A run of keys of one sequence: positions `at ..`, rows `rows` of `keys` and `values`.
struct KeyTile<'a> {
    at: usize,
    rows: Range<usize>,
    keys: &'a [f32],
    values: &'a [f32],
}

impl KeyTile<'_> {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn positions(&self) -> Range<usize> {
        self.at..self.at + self.rows.len()
    }

    /// The part of the tile at positions inside `seen`.
    fn within(mut self, seen: &Range<usize>) -> Option<Self> {
        let (first, last) = (self.at.max(seen.start), self.positions().end.min(seen.end));
        if first >= last {
            return None;
        }
        self.rows = self.rows.start + (first - self.at)..self.rows.start + (last - self.at);
        self.at = first;
        Some(self)
    }

    /// The keys (or values) of a head, as the right operand of `rows [m, head_dim] keysᵀ`.
    fn transposed<'b>(&self, of: &'b [f32], shape: &Shape, kv_head: usize) -> View<'b> {
        View::transposed(
            &of[self.rows.start * shape.kv_width() + kv_head * shape.head_dim..],
            shape.kv_width(),
        )
    }

    /// The same, as the right operand of `weights [m, keys] values`.
    fn rows_of<'b>(&self, of: &'b [f32], shape: &Shape, kv_head: usize) -> View<'b> {
        View::rows(&of[self.rows.start * shape.kv_width() + kv_head * shape.head_dim..], shape.kv_width())
    }
}

/// The keys of a sequence that a row in `positions` can see, in tiles and in order of position.
fn key_tiles<'a>(shape: &Shape, span: &Span, x: &Inputs<'a>, positions: Range<usize>) -> Vec<KeyTile<'a>> {
    let seen = shape.visible(positions.start).start..positions.end;
    let past = pieces(span.past.len(), TILE_KEYS).into_iter().map(|r| KeyTile {
        at: r.start,
        rows: span.past.start + r.start..span.past.start + r.end,
        keys: x.past_k,
        values: x.past_v,
    });
    let own = pieces(span.rows.len(), TILE_KEYS).into_iter().map(|r| KeyTile {
        at: span.past.len() + r.start,
        rows: span.rows.start + r.start..span.rows.start + r.end,
        keys: x.k,
        values: x.v,
    });
    past.chain(own).filter_map(|tile| tile.within(&seen)).collect()
}

/// Tasks of a pass: `(sequence, key/value head, rows within the sequence)`.
fn tasks(spans: &[Span], heads: usize, tile: usize) -> Vec<(&Span, usize, Range<usize>)> {
    let of = |span| (0..heads).map(move |head| (span, head));
    spans
        .iter()
        .flat_map(of)
        .flat_map(|(span, head)| {
            pieces(span.rows.len(), tile).into_iter().map(move |rows| (span, head, rows))
        })
        .collect()
}

/// `scores[i, j] = scale * q_i · k_j`, and negative infinity where row `i` does not see key `j`.
fn masked_scores(
    shape: &Shape,
    q: View<'_>,
    positions: &Range<usize>,
    tile: &KeyTile<'_>,
    keys: &Right<'_>,
    scores: &mut [f32],
) {
    let n = tile.len();
    keys.multiply(positions.len(), q, scores, false);
    for (row, at) in scores.chunks_exact_mut(n).zip(positions.clone()) {
        scale(row, shape.scale);
        let seen = shape.visible(at);
        let first = seen.start.saturating_sub(tile.at).min(n);
        let last = seen.end.saturating_sub(tile.at).clamp(first, n);
        row[..first].fill(f32::NEG_INFINITY);
        row[last..].fill(f32::NEG_INFINITY);
    }
}

/// `out = softmax(scale q kᵀ + mask) v` for every sequence and head; overwrites `out` (as `q`) and
/// `lse [rows, heads]`, the logarithms of the denominators, which [`backward`] needs.
///
/// Panics when the lengths do not fit.
pub fn forward(shape: &Shape, spans: &[Span], x: &Inputs<'_>, out: &mut [f32], lse: &mut [f32]) {
    let rows = shape.check(spans, x);
    let (hd, width) = (shape.head_dim, shape.q_width());
    let out = SharedMatrix::new(out, rows, width);
    let lse = SharedMatrix::new(lse, rows, shape.heads);
    tasks(spans, shape.kv_heads, TILE_QUERIES).into_par_iter().for_each(|(span, kv_head, tile)| {
        let (m, first) = (tile.len(), span.rows.start + tile.start);
        let positions = span.past.len() + tile.start..span.past.len() + tile.end;
        let group = shape.group(kv_head);
        let queries = |head| View::rows(&x.q[first * width + head * hd..], width);
        let room = Right::room(TILE_KEYS, hd).max(Right::room(hd, TILE_KEYS));
        with_scratch(m * TILE_KEYS + group.len() * m * (hd + 2) + 2 * room, |scratch| {
            let (scores, rest) = scratch.split_at_mut(m * TILE_KEYS);
            let (sums, rest) = rest.split_at_mut(group.len() * m * hd);
            let (largest, rest) = rest.split_at_mut(group.len() * m);
            let (total, rest) = rest.split_at_mut(group.len() * m);
            let (key_room, value_room) = rest.split_at_mut(room);
            sums.fill(0.0);
            largest.fill(f32::NEG_INFINITY);
            total.fill(0.0);
            for tile in key_tiles(shape, span, x, positions.clone()) {
                // one packing serves every head of the group
                let n = tile.len();
                let keys = Right::new(tile.transposed(tile.keys, shape, kv_head), (n, hd), m, key_room);
                let values = Right::new(tile.rows_of(tile.values, shape, kv_head), (hd, n), m, value_room);
                let scores = &mut scores[..m * n];
                for (at, head) in group.clone().enumerate() {
                    let own = at * m..(at + 1) * m;
                    let sums = &mut sums[own.start * hd..own.end * hd];
                    masked_scores(shape, queries(head), &positions, &tile, &keys, scores);
                    let rows = scores.chunks_exact_mut(n).zip(sums.chunks_exact_mut(hd));
                    for ((row, sum), i) in rows.zip(own) {
                        let new = largest[i].max(max(row));
                        if new == f32::NEG_INFINITY {
                            row.fill(0.0); // nothing seen yet: no weight on this tile
                            continue;
                        }
                        let keep = crate::math::exp(largest[i] - new);
                        scale(sum, keep);
                        total[i] = total[i] * keep + exp_shifted(row, new);
                        largest[i] = new;
                    }
                    values.multiply(m, View::rows(scores, n), sums, true);
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
    });
}

/// What the backward pass takes beside the inputs.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// The output of [`forward`].
    pub out: &'a [f32],
    /// Its `lse`.
    pub lse: &'a [f32],
    /// The gradient of the output.
    pub dout: &'a [f32],
}

/// The gradients of `q`, `k` and `v`; overwrites them. Past rows are constants and get none.
///
/// ```text
/// P = exp(S - lse),  dP = dO Vᵀ,  dS = P (dP - rowsum(dO O)),  dQ = dS K,  dK = dSᵀ Q,  dV = Pᵀ dO
/// ```
///
/// One pass over query tiles for `dq` and one over key tiles for `dk` and `dv`: each entry has one thread and one
/// order, at the price of recomputing the tiles of `P` twice.
///
/// Panics when the lengths do not fit.
pub fn backward(
    shape: &Shape,
    spans: &[Span],
    x: &Inputs<'_>,
    saved: &Saved<'_>,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let rows = shape.check(spans, x);
    let (hd, heads) = (shape.head_dim, shape.heads);
    assert!(saved.out.len() == x.q.len() && saved.dout.len() == x.q.len(), "the output and its gradient");
    assert_eq!(saved.lse.len(), rows * heads, "one denominator a row and head");
    // rowsum(dO O), a number a row and head
    let mut delta = vec![0f32; rows * heads];
    delta.par_iter_mut().enumerate().for_each(|(at, delta)| {
        let slice = at * hd..(at + 1) * hd;
        *delta = crate::math::dot(&saved.out[slice.clone()], &saved.dout[slice]);
    });
    let pass = Backward { shape, x, saved, delta: &delta };
    let dq = SharedMatrix::new(dq, rows, shape.q_width());
    tasks(spans, shape.kv_heads, TILE_QUERIES)
        .into_par_iter()
        .for_each(|(span, kv_head, tile)| pass.query_tile(span, kv_head, tile, &dq));
    let dk = SharedMatrix::new(dk, rows, shape.kv_width());
    let dv = SharedMatrix::new(dv, rows, shape.kv_width());
    tasks(spans, shape.kv_heads, TILE_KEYS)
        .into_par_iter()
        .for_each(|(span, head, tile)| pass.key_tile(span, head, tile, &dk, &dv));
}

/// What the two passes share.
struct Backward<'a> {
    shape: &'a Shape,
    x: &'a Inputs<'a>,
    saved: &'a Saved<'a>,
    delta: &'a [f32],
}

impl Backward<'_> {
    /// `P` and `dS` of a tile of queries (rows `first..` at `positions`) and `tile`, into `p` and `ds` `[m, n]`. `keys` and
    /// `values` are right operands of its keys and values.
    #[allow(clippy::too_many_arguments)]
    fn tile(
        &self,
        head: usize,
        first: usize,
        positions: &Range<usize>,
        tile: &KeyTile<'_>,
        (keys, values): (&Right<'_>, &Right<'_>),
        p: &mut [f32],
        ds: &mut [f32],
    ) {
        let (shape, n) = (self.shape, tile.len());
        masked_scores(shape, self.of_head(self.x.q, first, head), positions, tile, keys, p);
        values.multiply(positions.len(), self.of_head(self.saved.dout, first, head), ds, false);
        for (i, (p, ds)) in p.chunks_exact_mut(n).zip(ds.chunks_exact_mut(n)).enumerate() {
            let row = (first + i) * shape.heads + head;
            exp_shifted(p, self.saved.lse[row]);
            score_gradient(p, ds, self.delta[row], shape.scale);
        }
    }

    /// Rows `first..` of a head of a matrix as wide as the queries.
    fn of_head<'b>(&self, rows: &'b [f32], first: usize, head: usize) -> View<'b> {
        let width = self.shape.q_width();
        View::rows(&rows[first * width + head * self.shape.head_dim..], width)
    }

    fn query_tile(&self, span: &Span, kv_head: usize, tile: Range<usize>, dq: &SharedMatrix<'_>) {
        let (shape, hd) = (self.shape, self.shape.head_dim);
        let group = shape.group(kv_head);
        let (m, first) = (tile.len(), span.rows.start + tile.start);
        let positions = span.past.len() + tile.start..span.past.len() + tile.end;
        let room = Right::room(TILE_KEYS, hd).max(Right::room(hd, TILE_KEYS));
        with_scratch(m * (2 * TILE_KEYS + group.len() * hd) + 3 * room, |scratch| {
            let (p, rest) = scratch.split_at_mut(m * TILE_KEYS);
            let (ds, rest) = rest.split_at_mut(m * TILE_KEYS);
            let (sums, rest) = rest.split_at_mut(group.len() * m * hd);
            let (room_1, rest) = rest.split_at_mut(room);
            let (room_2, room_3) = rest.split_at_mut(room);
            sums.fill(0.0);
            for tile in key_tiles(shape, span, self.x, positions.clone()) {
                let n = tile.len();
                let keys = Right::new(tile.transposed(tile.keys, shape, kv_head), (n, hd), m, room_1);
                let values = Right::new(tile.transposed(tile.values, shape, kv_head), (n, hd), m, room_2);
                let key_rows = Right::new(tile.rows_of(tile.keys, shape, kv_head), (hd, n), m, room_3);
                let (p, ds) = (&mut p[..m * n], &mut ds[..m * n]);
                for (head, sum) in group.clone().zip(sums.chunks_exact_mut(m * hd)) {
                    self.tile(head, first, &positions, &tile, (&keys, &values), p, ds);
                    key_rows.multiply(m, View::rows(ds, n), sum, true);
                }
            }
            for (head, sum) in group.zip(sums.chunks_exact(m * hd)) {
                for (i, sum) in sum.chunks_exact(hd).enumerate() {
                    // SAFETY: this task alone has these rows of the heads of this group.
                    unsafe { dq.row(first + i, head * hd, hd) }.copy_from_slice(sum);
                }
            }
        });
    }

    fn key_tile(
        &self,
        span: &Span,
        kv_head: usize,
        tile: Range<usize>,
        dk: &SharedMatrix<'_>,
        dv: &SharedMatrix<'_>,
    ) {
        let (shape, hd) = (self.shape, self.shape.head_dim);
        let (n, past) = (tile.len(), span.past.len());
        let rows = span.rows.start + tile.start..span.rows.start + tile.end;
        let tile = KeyTile { at: past + tile.start, rows: rows.clone(), keys: self.x.k, values: self.x.v };
        let room = Right::room(n, hd);
        with_scratch(n * (2 * TILE_QUERIES + 2 * hd) + 2 * room, |scratch| {
            let (p, rest) = scratch.split_at_mut(n * TILE_QUERIES);
            let (ds, rest) = rest.split_at_mut(n * TILE_QUERIES);
            let (dk_sum, rest) = rest.split_at_mut(n * hd);
            let (dv_sum, rest) = rest.split_at_mut(n * hd);
            let (room_1, room_2) = rest.split_at_mut(room);
            dk_sum.fill(0.0);
            dv_sum.fill(0.0);
            let keys = Right::new(tile.transposed(tile.keys, shape, kv_head), (n, hd), TILE_QUERIES, room_1);
            let values =
                Right::new(tile.transposed(tile.values, shape, kv_head), (n, hd), TILE_QUERIES, room_2);
            for queries in pieces(span.rows.len(), TILE_QUERIES) {
                let positions = past + queries.start..past + queries.end;
                let seen = shape.visible(positions.start).start..positions.end;
                if seen.end <= tile.at || seen.start >= tile.positions().end {
                    continue;
                }
                let (m, first) = (queries.len(), span.rows.start + queries.start);
                let (p, ds) = (&mut p[..m * n], &mut ds[..m * n]);
                for head in shape.group(kv_head) {
                    self.tile(head, first, &positions, &tile, (&keys, &values), p, ds);
                    let (q, dout) =
                        (self.of_head(self.x.q, first, head), self.of_head(self.saved.dout, first, head));
                    gemm((n, hd, m), View::transposed(ds, n), q, dk_sum, hd, true);
                    gemm((n, hd, m), View::transposed(p, n), dout, dv_sum, hd, true);
                }
            }
            for (i, row) in rows.enumerate() {
                // SAFETY: this task alone has these rows of this key/value head.
                unsafe {
                    dk.row(row, kv_head * hd, hd).copy_from_slice(&dk_sum[i * hd..][..hd]);
                    dv.row(row, kv_head * hd, hd).copy_from_slice(&dv_sum[i * hd..][..hd]);
                }
            }
        });
    }
}

crate::isa::multiversion! {
    /// `ds = p (ds - delta) scale`.
    fn score_gradient(p: &[f32], ds: &mut [f32], delta: f32, scale: f32) {
        for (ds, p) in ds.iter_mut().zip(p) {
            *ds = p * (*ds - delta) * scale;
        }
    }
}

#[cfg(test)]
mod tests;
