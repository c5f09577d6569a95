//! The backward pass of attention.

use super::tiles::{KeyTile, key_tiles, masked_scores, tasks, tile_room};
use super::{Inputs, Shape, Span, TILE_KEYS, TILE_QUERIES};
use crate::Isa;
use crate::gemm::{Right, gemm};
use crate::math::{exp, exp_shifted};
use crate::product::{Precision, Product};
use crate::shared::{SharedMatrix, pieces, with_scratch};
use crate::view::View;
use rayon::prelude::*;
use std::ops::Range;

/// Sequences times key/value heads from which a task has a whole sequence: enough for every thread to be busy.
const WHOLE_SEQUENCES: usize = 12;

/// What the backward pass takes beside the inputs.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// The output of [`super::forward`].
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
/// Each entry has one thread and one order. Where there are sequences and heads enough for all threads, one task has all of
/// a sequence for a key/value head, and each tile of `P` is computed once; else one pass over query tiles gives `dq` and
/// one over key tiles `dk` and `dv`, at the price of computing each tile twice. The number of threads has no part in the
/// choice. Keys of no sequence get zeros. Where sequences share rows, `forest.rs` has a way of its own.
///
/// Panics when the lengths do not fit.
pub fn backward(
    isa: Isa,
    shape: &Shape,
    spans: &[Span],
    x: &Inputs<'_>,
    saved: &Saved<'_>,
    [dq, dk, dv]: [&mut [f32]; 3],
) {
    let rows = shape.check(spans, x);
    assert!(
        dq.len() == x.q.len() && dk.len() == x.k.len() && dv.len() == x.v.len(),
        "gradients like their inputs"
    );
    let (hd, heads) = (shape.head_dim, shape.heads);
    assert!(saved.out.len() == x.q.len() && saved.dout.len() == x.q.len(), "the output and its gradient");
    assert_eq!(saved.lse.len(), rows * heads, "one denominator a row and head");
    // rowsum(dO O), a number a row and head
    let mut delta = vec![0f32; rows * heads];
    delta.par_iter_mut().enumerate().for_each(|(at, delta)| {
        let slice = at * hd..(at + 1) * hd;
        *delta = crate::math::dot(&saved.out[slice.clone()], &saved.dout[slice]);
    });
    let pass = Backward { shape, x, saved, delta: &delta, product: Product::new(isa, Precision::F32) };
    if spans.iter().any(|span| span.before.iter().any(|stretch| !stretch.is_past)) {
        return super::forest::backward(&pass, spans, [dq, dk, dv]);
    }
    let keys = x.k.len() / shape.kv_width().max(1);
    if spans.iter().map(|span| span.keys.len()).sum::<usize>() < keys {
        dk.fill(0.0);
        dv.fill(0.0);
    }
    let dq = SharedMatrix::new(dq, rows, shape.q_width());
    let dk = SharedMatrix::new(dk, keys, shape.kv_width());
    let dv = SharedMatrix::new(dv, keys, shape.kv_width());
    let whole: Vec<_> =
        spans.iter().flat_map(|span| (0..shape.kv_heads).map(move |head| (span, head))).collect();
    if whole.len() >= WHOLE_SEQUENCES {
        whole.into_par_iter().for_each(|(span, head)| pass.sequence(span, head, &dq, (&dk, &dv)));
        return;
    }
    tasks(spans, shape.kv_heads, TILE_QUERIES, |span| span.rows.len())
        .into_par_iter()
        .for_each(|(span, kv_head, tile)| pass.query_tile(span, kv_head, tile, &dq));
    tasks(spans, shape.kv_heads, TILE_KEYS, |span| span.keys.len())
        .into_par_iter()
        .for_each(|(span, head, tile)| pass.key_tile(span, head, tile, (&dk, &dv)));
}

/// What the passes share.
pub(super) struct Backward<'a> {
    pub(super) shape: &'a Shape,
    pub(super) x: &'a Inputs<'a>,
    pub(super) saved: &'a Saved<'a>,
    pub(super) delta: &'a [f32],
    pub(super) product: Product,
}

impl Backward<'_> {
    /// `P` and `dS` of a tile of queries (rows `first..` at `positions`) and `tile`, into `p` and `ds` `[m, n]`. `keys` and
    /// `values` are right operands of its keys and values.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn tile(
        &self,
        (span, head): (&Span, usize),
        first: usize,
        positions: &Range<usize>,
        tile: &KeyTile<'_>,
        (keys, values): (&Right<'_>, &Right<'_>),
        p: &mut [f32],
        ds: &mut [f32],
    ) {
        let (isa, shape, n) = (self.product.isa(), self.shape, tile.len());
        let q = self.of_head(self.x.q, first, head);
        masked_scores(shape, self.x.bias, (span, head), q, positions, tile, keys, p);
        values.multiply(positions.len(), self.of_head(self.saved.dout, first, head), ds, false);
        for (i, (p, ds)) in p.chunks_exact_mut(n).zip(ds.chunks_exact_mut(n)).enumerate() {
            let row = (first + i) * shape.heads + head;
            if let Some(cap) = shape.soft_cap {
                capped_gradient(isa, p, ds, self.saved.lse[row], self.delta[row], shape.scale, cap);
            } else {
                exp_shifted(isa, p, self.saved.lse[row]);
                score_gradient(isa, p, ds, self.delta[row], shape.scale);
            }
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
        let positions = span.position() + tile.start..span.position() + tile.end;
        let room = tile_room(&self.product, hd);
        with_scratch(m * (2 * TILE_KEYS + group.len() * hd) + 3 * room, |scratch| {
            let (p, rest) = scratch.split_at_mut(m * TILE_KEYS);
            let (ds, rest) = rest.split_at_mut(m * TILE_KEYS);
            let (sums, rest) = rest.split_at_mut(group.len() * m * hd);
            let (room_1, rest) = rest.split_at_mut(room);
            let (room_2, room_3) = rest.split_at_mut(room);
            sums.fill(0.0);
            for tile in key_tiles(shape, span, self.x, positions.clone()) {
                let n = tile.len();
                let transposed = |of| tile.transposed(of, shape, kv_head);
                let keys = Right::new(self.product, transposed(tile.keys), (n, hd), m, room_1);
                let values = Right::new(self.product, transposed(tile.values), (n, hd), m, room_2);
                let key_rows = tile.rows_of(tile.keys, shape, kv_head);
                let key_rows = Right::new(self.product, key_rows, (hd, n), m, room_3);
                let (p, ds) = (&mut p[..m * n], &mut ds[..m * n]);
                for (head, sum) in group.clone().zip(sums.chunks_exact_mut(m * hd)) {
                    self.tile((span, head), first, &positions, &tile, (&keys, &values), p, ds);
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
        to: (&SharedMatrix<'_>, &SharedMatrix<'_>),
    ) {
        let (shape, hd) = (self.shape, self.shape.head_dim);
        let (n, past) = (tile.len(), span.position());
        let rows = span.keys.start + tile.start..span.keys.start + tile.end;
        let (keys, values) = (self.x.k, self.x.v);
        let tile = KeyTile { at: past + tile.start, rows, keys, values, is_past: false };
        let room = self.product.right_len(n, hd);
        with_scratch(n * (2 * TILE_QUERIES + 2 * hd) + 2 * room, |scratch| {
            let (p, rest) = scratch.split_at_mut(n * TILE_QUERIES);
            let (ds, rest) = rest.split_at_mut(n * TILE_QUERIES);
            let (dk_sum, rest) = rest.split_at_mut(n * hd);
            let (dv_sum, rest) = rest.split_at_mut(n * hd);
            let (room_1, room_2) = rest.split_at_mut(room);
            dk_sum.fill(0.0);
            dv_sum.fill(0.0);
            let transposed = |of| tile.transposed(of, shape, kv_head);
            let keys = Right::new(self.product, transposed(tile.keys), (n, hd), TILE_QUERIES, room_1);
            let values = Right::new(self.product, transposed(tile.values), (n, hd), TILE_QUERIES, room_2);
            for queries in pieces(span.rows.len(), TILE_QUERIES) {
                let positions = past + queries.start..past + queries.end;
                let seen = shape.visible_from(&positions, span.total());
                if seen.end <= tile.at || seen.start >= tile.positions().end {
                    continue;
                }
                let (m, first) = (queries.len(), span.rows.start + queries.start);
                let (p, ds) = (&mut p[..m * n], &mut ds[..m * n]);
                for head in shape.group(kv_head) {
                    self.tile((span, head), first, &positions, &tile, (&keys, &values), p, ds);
                    self.add_to_keys(head, first, (m, n), (p, ds), (dk_sum, dv_sum));
                }
            }
            // SAFETY: this task alone has these rows of this key/value head.
            unsafe { self.write_keys(&tile, kv_head, (dk_sum, dv_sum), to) };
        });
    }

    /// All gradients of a sequence and key/value head.
    fn sequence(
        &self,
        span: &Span,
        kv_head: usize,
        dq: &SharedMatrix<'_>,
        to: (&SharedMatrix<'_>, &SharedMatrix<'_>),
    ) {
        let (shape, hd) = (self.shape, self.shape.head_dim);
        let (group, past, length) = (shape.group(kv_head), span.position(), span.rows.len());
        let room = tile_room(&self.product, hd);
        let square = TILE_QUERIES * TILE_KEYS;
        with_scratch(2 * square + 2 * TILE_KEYS * hd + 3 * room + group.len() * length * hd, |scratch| {
            let (p, rest) = scratch.split_at_mut(square);
            let (ds, rest) = rest.split_at_mut(square);
            let (dk_sum, rest) = rest.split_at_mut(TILE_KEYS * hd);
            let (dv_sum, rest) = rest.split_at_mut(TILE_KEYS * hd);
            let (room_1, rest) = rest.split_at_mut(room);
            let (room_2, rest) = rest.split_at_mut(room);
            let (room_3, dq_sums) = rest.split_at_mut(room);
            dq_sums.fill(0.0);
            for tile in key_tiles(shape, span, self.x, past..past + length) {
                let n = tile.len();
                let transposed = |of| tile.transposed(of, shape, kv_head);
                let keys = Right::new(self.product, transposed(tile.keys), (n, hd), TILE_QUERIES, room_1);
                let values = Right::new(self.product, transposed(tile.values), (n, hd), TILE_QUERIES, room_2);
                let key_rows = tile.rows_of(tile.keys, shape, kv_head);
                let key_rows = Right::new(self.product, key_rows, (hd, n), TILE_QUERIES, room_3);
                dk_sum.fill(0.0);
                dv_sum.fill(0.0);
                for queries in pieces(length, TILE_QUERIES) {
                    let positions = past + queries.start..past + queries.end;
                    let seen = shape.visible_from(&positions, span.total());
                    if seen.end <= tile.at || seen.start >= tile.positions().end {
                        continue;
                    }
                    let (m, first) = (queries.len(), span.rows.start + queries.start);
                    let (p, ds) = (&mut p[..m * n], &mut ds[..m * n]);
                    for (at, head) in group.clone().enumerate() {
                        self.tile((span, head), first, &positions, &tile, (&keys, &values), p, ds);
                        let sum = &mut dq_sums[(at * length + queries.start) * hd..][..m * hd];
                        key_rows.multiply(m, View::rows(ds, n), sum, true);
                        if !tile.is_past {
                            self.add_to_keys(head, first, (m, n), (p, ds), (dk_sum, dv_sum));
                        }
                    }
                }
                if !tile.is_past {
                    // SAFETY: this task alone has these rows of this key/value head.
                    unsafe { self.write_keys(&tile, kv_head, (dk_sum, dv_sum), to) };
                }
            }
            for (head, sums) in group.zip(dq_sums.chunks_exact((length * hd).max(1))) {
                for (i, sum) in sums.chunks_exact(hd).enumerate() {
                    // SAFETY: this task alone has these rows of the heads of this group.
                    unsafe { dq.row(span.rows.start + i, head * hd, hd) }.copy_from_slice(sum);
                }
            }
        });
    }

    /// `dK += dSᵀ Q`, `dV += Pᵀ dO` for `m` queries from row `first` on and `n` keys.
    pub(super) fn add_to_keys(
        &self,
        head: usize,
        first: usize,
        (m, n): (usize, usize),
        (p, ds): (&[f32], &[f32]),
        (dk, dv): (&mut [f32], &mut [f32]),
    ) {
        let (isa, hd) = (self.product.isa(), self.shape.head_dim);
        let (q, dout) = (self.of_head(self.x.q, first, head), self.of_head(self.saved.dout, first, head));
        gemm(isa, (n, hd, m), [View::transposed(ds, n), q], dk, hd, true);
        gemm(isa, (n, hd, m), [View::transposed(p, n), dout], dv, hd, true);
    }

    /// Writes the gradients of a tile's keys and values.
    ///
    /// # Safety
    /// No other thread has these rows of this key/value head.
    unsafe fn write_keys(
        &self,
        tile: &KeyTile<'_>,
        kv_head: usize,
        (dk_sum, dv_sum): (&[f32], &[f32]),
        (dk, dv): (&SharedMatrix<'_>, &SharedMatrix<'_>),
    ) {
        let hd = self.shape.head_dim;
        for (i, row) in tile.rows.clone().enumerate() {
            // SAFETY: the caller's.
            unsafe {
                dk.row(row, kv_head * hd, hd).copy_from_slice(&dk_sum[i * hd..][..hd]);
                dv.row(row, kv_head * hd, hd).copy_from_slice(&dv_sum[i * hd..][..hd]);
            }
        }
    }
}

crate::isa::multiversion! {
    /// From capped scores `p` and the gradient `ds` of their probabilities: the probabilities, and the gradient of the
    /// scores before the cap, whose slope is `1 - (score / cap)²`.
    fn capped_gradient(isa: Isa, p: &mut [f32], ds: &mut [f32], lse: f32, delta: f32, scale: f32, cap: f32) {
        for (ds, p) in ds.iter_mut().zip(p) {
            // a key that is not seen has no probability, whatever its slope
            let score = p.max(-cap);
            *p = exp(*p - lse);
            *ds = *p * (*ds - delta) * scale * (1.0 - (score / cap) * (score / cap));
        }
    }
}

crate::isa::multiversion! {
    /// `ds = p (ds - delta) scale`.
    fn score_gradient(isa: Isa, p: &[f32], ds: &mut [f32], delta: f32, scale: f32) {
        for (ds, p) in ds.iter_mut().zip(p) {
            *ds = p * (*ds - delta) * scale;
        }
    }
}
