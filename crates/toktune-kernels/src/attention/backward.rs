//! The backward pass of attention.

use super::tiles::{KeyTile, Queries, key_tiles, left_room, tile_room};
use super::{Inputs, Shape, Span, TILE_KEYS, TILE_QUERIES};
use crate::Isa;
use crate::gemm::Right;
use crate::math::exp;
use crate::product::Product;
use crate::shared::{SharedMatrix, cut, pieces};
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
/// Each entry has one thread and one order, and each tile of `P` is computed once. Where there are sequences and heads enough
/// for all threads, one task has all of a sequence for a key/value head; else, and where sequences share rows, the keys are cut
/// as `forest.rs` says. The number of threads has no part in the choice. Keys of no sequence get zeros.
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
    let pass = Backward { shape, x, saved, delta: &delta, product: x.product(isa) };
    let whole: Vec<_> =
        spans.iter().flat_map(|span| (0..shape.kv_heads).map(move |head| (span, head))).collect();
    let shares = spans.iter().any(|span| span.before.iter().any(|stretch| !stretch.is_past));
    if shares || whole.len() < WHOLE_SEQUENCES {
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
    whole.into_par_iter().for_each(|(span, head)| pass.sequence(span, head, &dq, (&dk, &dv)));
}

/// What is worked out for a tile of queries and one of keys.
pub(super) struct Square<'a> {
    /// The probabilities, `[m, n]`.
    p: &'a mut [f32],
    /// The gradients of the scores, `[m, n]`.
    ds: &'a mut [f32],
    /// Room for a left operand.
    left: &'a mut [f32],
    /// Room for a right operand.
    right: &'a mut [f32],
}

impl<'a> Square<'a> {
    /// Floats of room that [`Self::cut`] takes.
    pub(super) fn room(product: &Product, head_dim: usize) -> usize {
        2 * TILE_QUERIES * TILE_KEYS
            + left_room(product, head_dim)
            + product.right_len(head_dim, TILE_QUERIES)
    }

    /// Cut off a buffer.
    pub(super) fn cut(product: &Product, head_dim: usize, room: &mut &'a mut [f32]) -> Self {
        Self {
            p: cut(room, TILE_QUERIES * TILE_KEYS),
            ds: cut(room, TILE_QUERIES * TILE_KEYS),
            left: cut(room, left_room(product, head_dim)),
            right: cut(room, product.right_len(head_dim, TILE_QUERIES)),
        }
    }

    /// `dQ += dS K` for `m` queries and `n` keys.
    pub(super) fn add_to_queries(&mut self, keys: &Right<'_>, (m, n): (usize, usize), dq: &mut [f32]) {
        keys.multiply(m, View::rows(&self.ds[..m * n], n), self.left, dq, true);
    }
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
    /// Queries of a span from its row `from` on.
    pub(super) fn queries<'b>(&'b self, span: &'b Span, head: usize, of: Range<usize>) -> Queries<'b> {
        let past = span.position();
        let rows = self.of_head(self.x.q, span.rows.start + of.start, head);
        Queries { span, head, positions: past + of.start..past + of.end, rows }
    }

    /// The gradient of the output of queries.
    fn dout(&self, of: &Queries<'_>) -> View<'_> {
        self.of_head(self.saved.dout, of.span.rows.start + of.positions.start - of.span.position(), of.head)
    }

    /// `P` and `dS` of some queries and `tile`, into those of `to`, `[m, n]`. `keys` and `values` are right operands of its keys
    /// and values.
    pub(super) fn tile(
        &self,
        queries: &Queries<'_>,
        tile: &KeyTile<'_>,
        (keys, values): (&Right<'_>, &Right<'_>),
        to: &mut Square<'_>,
    ) {
        let (isa, shape, m, n) = (self.product.isa(), self.shape, queries.len(), tile.len());
        let (p, ds) = (&mut to.p[..m * n], &mut to.ds[..m * n]);
        let factor = queries.scores(shape, self.x.bias, tile, keys, (p, to.left));
        values.multiply_part(m, self.dout(queries), to.left, (ds, n), queries.reach(shape, tile));
        let first = queries.span.rows.start + queries.positions.start - queries.span.position();
        for (i, (p, ds)) in p.chunks_exact_mut(n).zip(ds.chunks_exact_mut(n)).enumerate() {
            let (row, seen) = ((first + i) * shape.heads + queries.head, queries.seen(shape, tile, i));
            for line in [&mut *p, &mut *ds] {
                line[..seen.start].fill(0.0);
                line[seen.end..].fill(0.0);
            }
            let (p, ds) = (&mut p[seen.clone()], &mut ds[seen]);
            let (lse, delta) = (self.saved.lse[row], self.delta[row]);
            if let Some(cap) = shape.soft_cap {
                capped_gradient(isa, p, ds, lse, delta, shape.scale, cap);
            } else {
                score_gradient(isa, p, ds, factor, lse, delta, shape.scale);
            }
        }
    }

    /// Rows `first..` of a head of a matrix as wide as the queries.
    fn of_head<'b>(&self, rows: &'b [f32], first: usize, head: usize) -> View<'b> {
        let width = self.shape.q_width();
        View::rows(&rows[first * width + head * self.shape.head_dim..], width)
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
        let (room, square) = (tile_room(&self.product, hd), Square::room(&self.product, hd));
        let sums = group.len() * length * hd;
        self.product.task_with(square + 2 * TILE_KEYS * hd + 3 * room + sums, |mut scratch| {
            let mut square = Square::cut(&self.product, hd, &mut scratch);
            let [dk_sum, dv_sum] = [(); 2].map(|()| cut(&mut scratch, TILE_KEYS * hd));
            let [room_1, room_2, room_3] = [(); 3].map(|()| cut(&mut scratch, room));
            let dq_sums = scratch;
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
                for rows in pieces(length, TILE_QUERIES) {
                    let seen = shape.visible_from(&(past + rows.start..past + rows.end), span.total());
                    if seen.end <= tile.at || seen.start >= tile.positions().end {
                        continue;
                    }
                    for (at, head) in group.clone().enumerate() {
                        let queries = self.queries(span, head, rows.clone());
                        self.tile(&queries, &tile, (&keys, &values), &mut square);
                        let sum = &mut dq_sums[(at * length + rows.start) * hd..][..rows.len() * hd];
                        square.add_to_queries(&key_rows, (rows.len(), n), sum);
                        if !tile.is_past {
                            self.add_to_keys(&queries, &tile, &mut square, (dk_sum, dv_sum));
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

    /// `dK += dSᵀ Q`, `dV += Pᵀ dO` of some queries and the keys of `tile` that they reach.
    pub(super) fn add_to_keys(
        &self,
        queries: &Queries<'_>,
        tile: &KeyTile<'_>,
        square: &mut Square<'_>,
        (dk, dv): (&mut [f32], &mut [f32]),
    ) {
        let (hd, m, n) = (self.shape.head_dim, queries.len(), tile.len());
        let reach = queries.reach(self.shape, tile);
        for (rows, weights, sums) in [(queries.rows, &*square.ds, dk), (self.dout(queries), &*square.p, dv)] {
            let rows = Right::new(self.product, rows, (hd, m), reach, square.right);
            rows.multiply(reach, View::transposed(&weights[..m * n], n), square.left, sums, true);
        }
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
            let score = *p;
            *p = exp(score - lse);
            *ds = *p * (*ds - delta) * scale * (1.0 - (score / cap) * (score / cap));
        }
    }
}

crate::isa::multiversion! {
    /// From scores `p`, which a factor is missing from, and the gradient `ds` of their probabilities: the probabilities
    /// `e^(factor p - lse)` and the gradient of `q · k`, `p (ds - delta) scale`.
    fn score_gradient(isa: Isa, p: &mut [f32], ds: &mut [f32], factor: f32, lse: f32, delta: f32, scale: f32) {
        for (ds, p) in ds.iter_mut().zip(p) {
            *p = exp(*p * factor - lse);
            *ds = *p * scale * (*ds - delta);
        }
    }
}
