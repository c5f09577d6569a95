//! The backward pass of attention.

use super::tiles::{KeyTile, key_tiles, left_room, masked_scores, tasks, tile_room};
use super::{Inputs, Shape, Span, TILE_KEYS, TILE_QUERIES};
use crate::Isa;
use crate::gemm::Right;
use crate::math::{exp, exp_shifted};
use crate::product::Product;
use crate::shared::{SharedMatrix, cut, pieces, with_scratch};
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
    let pass = Backward { shape, x, saved, delta: &delta, product: x.product(isa) };
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
    /// `P` and `dS` of a tile of queries (rows `first..` at `positions`) and `tile`, into those of `to`, `[m, n]`. `keys` and
    /// `values` are right operands of its keys and values.
    pub(super) fn tile(
        &self,
        (span, head): (&Span, usize),
        first: usize,
        positions: &Range<usize>,
        tile: &KeyTile<'_>,
        (keys, values): (&Right<'_>, &Right<'_>),
        to: &mut Square<'_>,
    ) {
        let (isa, shape, n) = (self.product.isa(), self.shape, tile.len());
        let (p, ds) = (&mut to.p[..positions.len() * n], &mut to.ds[..positions.len() * n]);
        let q = self.of_head(self.x.q, first, head);
        masked_scores(shape, self.x.bias, (span, head), q, positions, tile, keys, (p, to.left));
        let dout = self.of_head(self.saved.dout, first, head);
        values.multiply(positions.len(), dout, to.left, ds, false);
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
        let (room, square) = (tile_room(&self.product, hd), Square::room(&self.product, hd));
        with_scratch(square + group.len() * m * hd + 3 * room, |mut scratch| {
            let mut square = Square::cut(&self.product, hd, &mut scratch);
            let sums = cut(&mut scratch, group.len() * m * hd);
            let [room_1, room_2, room_3] = [(); 3].map(|()| cut(&mut scratch, room));
            sums.fill(0.0);
            for tile in key_tiles(shape, span, self.x, positions.clone()) {
                let n = tile.len();
                let transposed = |of| tile.transposed(of, shape, kv_head);
                let keys = Right::new(self.product, transposed(tile.keys), (n, hd), m, room_1);
                let values = Right::new(self.product, transposed(tile.values), (n, hd), m, room_2);
                let key_rows = tile.rows_of(tile.keys, shape, kv_head);
                let key_rows = Right::new(self.product, key_rows, (hd, n), m, room_3);
                for (head, sum) in group.clone().zip(sums.chunks_exact_mut(m * hd)) {
                    self.tile((span, head), first, &positions, &tile, (&keys, &values), &mut square);
                    square.add_to_queries(&key_rows, (m, n), sum);
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
        let (room, square) = (self.product.right_len(n, hd), Square::room(&self.product, hd));
        with_scratch(square + 2 * n * hd + 2 * room, |mut scratch| {
            let mut square = Square::cut(&self.product, hd, &mut scratch);
            let [dk_sum, dv_sum] = [(); 2].map(|()| cut(&mut scratch, n * hd));
            let [room_1, room_2] = [(); 2].map(|()| cut(&mut scratch, room));
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
                for head in shape.group(kv_head) {
                    self.tile((span, head), first, &positions, &tile, (&keys, &values), &mut square);
                    self.add_to_keys((head, first), (m, n), &mut square, (dk_sum, dv_sum));
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
        let (room, square) = (tile_room(&self.product, hd), Square::room(&self.product, hd));
        let sums = group.len() * length * hd;
        with_scratch(square + 2 * TILE_KEYS * hd + 3 * room + sums, |mut scratch| {
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
                for queries in pieces(length, TILE_QUERIES) {
                    let positions = past + queries.start..past + queries.end;
                    let seen = shape.visible_from(&positions, span.total());
                    if seen.end <= tile.at || seen.start >= tile.positions().end {
                        continue;
                    }
                    let (m, first) = (queries.len(), span.rows.start + queries.start);
                    for (at, head) in group.clone().enumerate() {
                        self.tile((span, head), first, &positions, &tile, (&keys, &values), &mut square);
                        let sum = &mut dq_sums[(at * length + queries.start) * hd..][..m * hd];
                        square.add_to_queries(&key_rows, (m, n), sum);
                        if !tile.is_past {
                            self.add_to_keys((head, first), (m, n), &mut square, (dk_sum, dv_sum));
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
        (head, first): (usize, usize),
        (m, n): (usize, usize),
        square: &mut Square<'_>,
        (dk, dv): (&mut [f32], &mut [f32]),
    ) {
        let hd = self.shape.head_dim;
        for (rows, weights, sums) in [(self.x.q, &*square.ds, dk), (self.saved.dout, &*square.p, dv)] {
            let rows = Right::new(self.product, self.of_head(rows, first, head), (hd, m), n, square.right);
            rows.multiply(n, View::transposed(&weights[..m * n], n), square.left, sums, true);
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
