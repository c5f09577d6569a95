//! Disentangled attention (DeBERTa, He et al. 2021): content and distance meet in the scores.
//!
//! ```text
//! score(i, j) = scale (q_i · k_j + q_i · K[r] + k_j · Q[r]),   r the place of the distance i - j
//! ```
//!
//! `K` and `Q` are rows for distances, given as keys and as queries; either may be missing. The backward pass gives the gradients
//! of `q`, `k` and `v`, and [`backward_distances`] those of `K` and `Q`.
//!
//! Unlike [`crate::attention`] this holds all scores of a sequence, one head at a time on each thread: memory grows with the
//! square of the longest sequence, but not with the batch or the number of heads. The rows that encoders of this kind read
//! are short.

use crate::Isa;
use crate::attention::{Saved, Span};
use crate::gemm::gemm;
use crate::math::{dot, exp_shifted, max, scale};
use crate::shared::{SharedMatrix, with_scratch};
use crate::view::View;
use rayon::prelude::*;
use std::ops::Range;

/// What every row of a disentangled attention shares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Heads of queries, keys and values.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on the sum of the scores.
    pub scale: f32,
}

/// The rows for distances.
#[derive(Clone, Copy, Debug)]
pub struct Distances<'a> {
    /// As keys, `[places, heads * head_dim]`; empty where no query meets them.
    pub keys: &'a [f32],
    /// As queries, likewise.
    pub queries: &'a [f32],
    /// The place of each distance `i - j` of query and key, from `-(n - 1)` to `n - 1` for an `n` that no sequence exceeds.
    pub places: &'a [u32],
}

/// Queries, keys and values `[rows, heads * head_dim]` and what they meet.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Queries.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// The rows for distances.
    pub distances: Distances<'a>,
}

/// One sequence with one head.
struct Part<'a> {
    isa: Isa,
    shape: &'a Shape,
    x: &'a Inputs<'a>,
    rows: Range<usize>,
    head: usize,
    /// The places of its distances, from `-(n - 1)` on.
    places: &'a [u32],
    /// The places that it needs.
    needed: Range<usize>,
}

impl Shape {
    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Checks the lengths; the sequences with each head, and the number of rows.
    fn parts<'a>(&'a self, isa: Isa, spans: &[Span], x: &'a Inputs<'a>) -> (Vec<Part<'a>>, usize) {
        let (width, of) = (self.width(), &x.distances);
        assert!(width > 0 && x.q.len().is_multiple_of(width), "rows of {width}");
        assert!(x.k.len() == x.q.len() && x.v.len() == x.q.len(), "as many keys and values as queries");
        let (rows, reach) = (x.q.len() / width, of.places.len().div_ceil(2));
        let places = of.places.iter().max().map_or(0, |place| *place as usize + 1);
        let enough = |rows: &[f32]| rows.is_empty() || rows.len() >= places * width;
        assert!(enough(of.keys) && enough(of.queries), "a row for each of {places} places");
        let (mut parts, mut next) = (Vec::new(), 0);
        for span in spans {
            let n = span.rows.len();
            assert!(span.rows.start == next && span.keys == span.rows, "sequences follow one another");
            assert!(
                span.before.is_empty() && n <= reach,
                "{n} rows, {} past ones, {reach} at most",
                span.position()
            );
            next = span.rows.end;
            if n == 0 {
                continue;
            }
            let places = &of.places[reach - n..reach + n - 1];
            let first = places.iter().min().map_or(0, |place| *place as usize);
            let end = places.iter().max().map_or(0, |place| *place as usize + 1);
            parts.extend((0..self.heads).map(|head| Part {
                isa,
                shape: self,
                x,
                rows: span.rows.clone(),
                head,
                places,
                needed: first..end,
            }));
        }
        assert_eq!(next, rows, "every row belongs to a sequence");
        (parts, rows)
    }
}

impl<'a> Part<'a> {
    fn len(&self) -> usize {
        self.rows.len()
    }

    /// Floats of a matrix of rows against the places that are needed.
    fn by_place(&self) -> usize {
        self.len() * self.needed.len()
    }

    /// From row `first` on, the columns of the head, and how far apart rows are.
    fn of_head<'b>(&self, x: &'b [f32], first: usize) -> (&'b [f32], usize) {
        let width = self.shape.width();
        (&x[first * width + self.head * self.shape.head_dim..], width)
    }

    fn rows<'b>(&self, x: &'b [f32]) -> View<'b> {
        let (data, stride) = self.of_head(x, self.rows.start);
        View::rows(data, stride)
    }

    /// The places of row `i`'s distances to the keys in order, among those that are needed.
    fn places_of(&self, i: usize) -> impl Iterator<Item = usize> {
        // the first key is the furthest back
        self.places[i..i + self.len()].iter().rev().map(|place| *place as usize - self.needed.start)
    }

    /// The scores `[n, n]`, scaled.
    fn scores(&self, scores: &mut [f32], room: &mut [f32]) {
        let (n, hd, w) = (self.len(), self.shape.head_dim, self.needed.len());
        let (q, k) = (self.rows(self.x.q), self.rows(self.x.k));
        let (keys, stride) = self.of_head(self.x.k, self.rows.start);
        gemm(self.isa, (n, n, hd), [q, View::transposed(keys, stride)], scores, n, false);
        let of = self.x.distances;
        if !of.keys.is_empty() {
            let (rows, stride) = self.of_head(of.keys, self.needed.start);
            gemm(self.isa, (n, w, hd), [q, View::transposed(rows, stride)], room, w, false);
            for (i, line) in scores.chunks_exact_mut(n).enumerate() {
                line.iter_mut().zip(self.places_of(i)).for_each(|(s, place)| *s += room[i * w + place]);
            }
        }
        if !of.queries.is_empty() {
            let (rows, stride) = self.of_head(of.queries, self.needed.start);
            gemm(self.isa, (n, w, hd), [k, View::transposed(rows, stride)], room, w, false);
            for (i, line) in scores.chunks_exact_mut(n).enumerate() {
                for (j, (s, place)) in line.iter_mut().zip(self.places_of(i)).enumerate() {
                    *s += room[j * w + place];
                }
            }
        }
        scale(self.isa, scores, self.shape.scale);
    }

    /// `sum [n, head_dim] = ds k`, with what the rows for distances give; `of_keys` takes `dSᵀ` for the keys.
    fn pull_scores(&self, ds: &[f32], of_keys: bool, room: &mut [f32], sum: &mut [f32]) {
        let (n, hd, w) = (self.len(), self.shape.head_dim, self.needed.len());
        let of = self.x.distances;
        let (left, other, rows) = match of_keys {
            false => (View::rows(ds, n), self.x.k, of.keys),
            true => (View::transposed(ds, n), self.x.q, of.queries),
        };
        gemm(self.isa, (n, hd, n), [left, self.rows(other)], sum, hd, false);
        if rows.is_empty() {
            return;
        }
        self.sum_by_place(ds, of_keys, room);
        let (rows, stride) = self.of_head(rows, self.needed.start);
        gemm(self.isa, (n, hd, w), [View::rows(room, w), View::rows(rows, stride)], sum, hd, true);
    }

    /// `room [n, needed]`: the entries of `ds [n, n]` summed by the place of their distance, for each query or, with `by_key`, for
    /// each key.
    fn sum_by_place(&self, ds: &[f32], by_key: bool, room: &mut [f32]) {
        let (n, w) = (self.len(), self.needed.len());
        room.fill(0.0);
        for (i, ds) in ds.chunks_exact(n).enumerate() {
            for (j, (ds, place)) in ds.iter().zip(self.places_of(i)).enumerate() {
                room[if by_key { j } else { i } * w + place] += ds;
            }
        }
    }

    /// The probabilities `p [n, n]` and the gradients `ds` of the scores before their factor.
    fn pull_softmax(&self, saved: &Saved<'_>, p: &mut [f32], ds: &mut [f32], room: &mut [f32]) {
        let (n, hd, width) = (self.len(), self.shape.head_dim, self.shape.width());
        self.scores(p, room);
        let (values, stride) = self.of_head(self.x.v, self.rows.start);
        gemm(self.isa, (n, n, hd), [self.rows(saved.dout), View::transposed(values, stride)], ds, n, false);
        for ((row, p), ds) in self.rows.clone().zip(p.chunks_exact_mut(n)).zip(ds.chunks_exact_mut(n)) {
            exp_shifted(self.isa, p, saved.lse[row * self.shape.heads + self.head]);
            let at = row * width + self.head * hd;
            let delta = dot(&saved.out[at..at + hd], &saved.dout[at..at + hd]);
            ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = self.shape.scale * *p * (*ds - delta));
        }
    }

    /// Copies `own [n, head_dim]` to where it belongs.
    ///
    /// # Safety
    /// Nobody else uses these rows of the head meanwhile.
    unsafe fn put(&self, own: &[f32], to: &SharedMatrix<'_>) {
        let hd = self.shape.head_dim;
        for (row, own) in self.rows.clone().zip(own.chunks_exact(hd)) {
            // SAFETY: passed on.
            unsafe { to.row(row, self.head * hd, hd) }.copy_from_slice(own);
        }
    }
}

/// The attention of every sequence to itself; overwrites `out` (as `q`) and `lse [rows, heads]`, the logarithms of the
/// denominators, which [`backward`] needs.
///
/// Panics when the lengths do not fit, or a sequence has past rows.
pub fn forward(isa: Isa, shape: &Shape, spans: &[Span], x: &Inputs<'_>, out: &mut [f32], lse: &mut [f32]) {
    let (parts, rows) = shape.parts(isa, spans, x);
    let hd = shape.head_dim;
    let (out, lse) = (SharedMatrix::new(out, rows, shape.width()), SharedMatrix::new(lse, rows, shape.heads));
    parts.into_par_iter().for_each(|part| {
        let n = part.len();
        with_scratch(n * n + part.by_place() + n * hd, |scratch| {
            let (scores, rest) = scratch.split_at_mut(n * n);
            let (room, own) = rest.split_at_mut(part.by_place());
            part.scores(scores, room);
            for (row, line) in part.rows.clone().zip(scores.chunks_exact_mut(n)) {
                let top = max(isa, line);
                let total = exp_shifted(isa, line, top);
                scale(isa, line, 1.0 / total);
                // SAFETY: each row of each head belongs to one part.
                unsafe { lse.row(row, part.head, 1) }.fill(top + total.ln());
            }
            gemm(isa, (n, hd, n), [View::rows(scores, n), part.rows(x.v)], own, hd, false);
            // SAFETY: as above.
            unsafe { part.put(own, &out) };
        });
    });
}

/// The gradients of `q`, `k` and `v`; overwrites them.
///
/// ```text
/// P = exp(S - lse),  dP = dO Vᵀ,  dS = scale P (dP - rowsum(dO O)),  dV = Pᵀ dO
/// dq_i = Σ_j dS_ij (k_j + K[r]),   dk_j = Σ_i dS_ij (q_i + Q[r])
/// ```
///
/// Panics when the lengths do not fit.
pub fn backward(
    isa: Isa,
    shape: &Shape,
    spans: &[Span],
    x: &Inputs<'_>,
    saved: &Saved<'_>,
    (dq, dk, dv): (&mut [f32], &mut [f32], &mut [f32]),
) {
    let (parts, rows) = shape.parts(isa, spans, x);
    let (hd, width) = (shape.head_dim, shape.width());
    assert!(saved.out.len() == x.q.len() && saved.dout.len() == x.q.len(), "the output and its gradient");
    assert_eq!(saved.lse.len(), rows * shape.heads, "one denominator a row and head");
    let [dq, dk, dv] = [dq, dk, dv].map(|d| SharedMatrix::new(d, rows, width));
    parts.into_par_iter().for_each(|part| {
        let n = part.len();
        with_scratch(2 * n * n + part.by_place() + n * hd, |scratch| {
            let (p, rest) = scratch.split_at_mut(n * n);
            let (ds, rest) = rest.split_at_mut(n * n);
            let (room, own) = rest.split_at_mut(part.by_place());
            part.pull_softmax(saved, p, ds, room);
            gemm(isa, (n, hd, n), [View::transposed(p, n), part.rows(saved.dout)], own, hd, false);
            // SAFETY: each row of each head belongs to one part.
            unsafe { part.put(own, &dv) };
            part.pull_scores(ds, false, room, own);
            // SAFETY: as above.
            unsafe { part.put(own, &dq) };
            part.pull_scores(ds, true, room, own);
            // SAFETY: as above.
            unsafe { part.put(own, &dk) };
        });
    });
}

/// The gradients of the rows for distances, as keys and as queries: `dK_r = Σ dS_ij q_i` and `dQ_r = Σ dS_ij k_j` over the pairs
/// at their distance. Overwrites what is there; a list is empty where it is not wanted.
///
/// Each head has one thread, which takes the sequences in their order. Panics when the lengths do not fit.
pub fn backward_distances(
    isa: Isa,
    shape: &Shape,
    spans: &[Span],
    x: &Inputs<'_>,
    saved: &Saved<'_>,
    (dkeys, dqueries): (&mut [f32], &mut [f32]),
) {
    let (parts, _) = shape.parts(isa, spans, x);
    let (hd, width) = (shape.head_dim, shape.width());
    dkeys.fill(0.0);
    dqueries.fill(0.0);
    let rows = |d: &[f32]| d.len() / width;
    let (of_keys, of_queries) = (rows(dkeys), rows(dqueries));
    let enough = |rows: usize| rows == 0 || parts.iter().all(|part| part.needed.end <= rows);
    assert!(enough(of_keys) && enough(of_queries), "a row for each place");
    let dkeys = SharedMatrix::new(dkeys, of_keys, width);
    let dqueries = SharedMatrix::new(dqueries, of_queries, width);
    (0..shape.heads).into_par_iter().for_each(|head| {
        for part in parts.iter().filter(|part| part.head == head) {
            let (n, w) = (part.len(), part.needed.len());
            with_scratch(2 * n * n + part.by_place() + w * hd, |scratch| {
                let (p, rest) = scratch.split_at_mut(n * n);
                let (ds, rest) = rest.split_at_mut(n * n);
                let (room, own) = rest.split_at_mut(part.by_place());
                part.pull_softmax(saved, p, ds, room);
                for (rows, by_key, to) in [(of_keys, false, &dkeys), (of_queries, true, &dqueries)] {
                    if rows == 0 {
                        continue;
                    }
                    part.sum_by_place(ds, by_key, room);
                    let other = part.rows(if by_key { x.k } else { x.q });
                    gemm(isa, (w, hd, n), [View::transposed(room, w), other], own, hd, false);
                    for (place, own) in part.needed.clone().zip(own.chunks_exact(hd)) {
                        // SAFETY: this thread alone has the head.
                        let sums = unsafe { to.row(place, head * hd, hd) };
                        sums.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
                    }
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, central_differences, each_isa, random};

    /// Attention one row and head at a time.
    fn reference(shape: &Shape, spans: &[Span], x: &Inputs<'_>) -> Vec<f64> {
        let (hd, width, of) = (shape.head_dim, shape.width(), &x.distances);
        let reach = of.places.len().div_ceil(2);
        let product = |a: &[f32], i: usize, b: &[f32], j: usize, head: usize| -> f64 {
            let at = |i: usize| i * width + head * hd..i * width + (head + 1) * hd;
            a[at(i)].iter().zip(&b[at(j)]).map(|(a, b)| *a as f64 * *b as f64).sum()
        };
        let mut out = vec![0f64; x.q.len()];
        for span in spans {
            for i in span.rows.clone() {
                for head in 0..shape.heads {
                    let score = |j: usize| {
                        let place = of.places[reach - 1 + i - j] as usize;
                        let mut score = product(x.q, i, x.k, j, head);
                        if !of.keys.is_empty() {
                            score += product(x.q, i, of.keys, place, head);
                        }
                        if !of.queries.is_empty() {
                            score += product(x.k, j, of.queries, place, head);
                        }
                        (score * shape.scale as f64).exp()
                    };
                    let total: f64 = span.rows.clone().map(score).sum();
                    for d in head * hd..(head + 1) * hd {
                        let of = |j: usize| score(j) / total * x.v[j * width + d] as f64;
                        out[i * width + d] = span.rows.clone().map(of).sum();
                    }
                }
            }
        }
        out
    }

    fn spans(lengths: &[usize]) -> Vec<Span> {
        let mut row = 0;
        lengths
            .iter()
            .map(|n| {
                row += n;
                Span::new(row - n..row, 0..0)
            })
            .collect()
    }

    #[test]
    fn forward_and_backward_match_the_reference() {
        each_isa(|isa| {
            for (heads, head_dim, lengths) in
                [(2, 5, &[3, 1, 7][..]), (1, 6, &[17, 0, 2]), (3, 1, &[4]), (2, 8, &[])]
            {
                let shape = Shape { heads, head_dim, scale: 0.4 };
                let (spans, rows) = (spans(lengths), lengths.iter().sum::<usize>());
                let width = shape.width();
                let [q, k, v, dout] = [1, 2, 3, 4].map(|seed| random(rows * width, seed));
                // one longer than the longest, and distances that share a place
                let reach = lengths.iter().max().map_or(0, |n| n + 1) as isize;
                let places: Vec<u32> = (1 - reach..reach).map(|d| (d.clamp(-3, 4) + 3) as u32).collect();
                let (keys, queries) = (random(8 * width, 5), random(8 * width, 6));
                for (keys, queries) in [(&keys[..], &queries[..]), (&keys, &[]), (&[], &queries), (&[], &[])]
                {
                    let distances = Distances { keys, queries, places: &places };
                    let x = Inputs { q: &q, k: &k, v: &v, distances };
                    let what =
                        format!("{isa} {heads}x{head_dim} {lengths:?} {} {}", keys.len(), queries.len());
                    let (mut out, mut lse) = (vec![f32::NAN; q.len()], vec![f32::NAN; rows * heads]);
                    forward(isa, &shape, &spans, &x, &mut out, &mut lse);
                    assert_close(&out, &reference(&shape, &spans, &x), 1e-5, &what);
                    let saved = Saved { out: &out, lse: &lse, dout: &dout };
                    let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![f32::NAN; q.len()]);
                    backward(isa, &shape, &spans, &x, &saved, (&mut dq, &mut dk, &mut dv));
                    let loss = |x: &Inputs<'_>| -> f64 {
                        reference(&shape, &spans, x).iter().zip(&dout).map(|(y, l)| y * *l as f64).sum()
                    };
                    let of_q = central_differences(&q, |q| loss(&Inputs { q, ..x }));
                    assert_close(&dq, &of_q, 1e-3, &format!("{what}: queries"));
                    let of_k = central_differences(&k, |k| loss(&Inputs { k, ..x }));
                    assert_close(&dk, &of_k, 1e-3, &format!("{what}: keys"));
                    let of_v = central_differences(&v, |v| loss(&Inputs { v, ..x }));
                    assert_close(&dv, &of_v, 1e-3, &format!("{what}: values"));
                    let [mut dkeys, mut dqueries] = [keys, queries].map(|rows| vec![f32::NAN; rows.len()]);
                    backward_distances(isa, &shape, &spans, &x, &saved, (&mut dkeys, &mut dqueries));
                    let of_keys = central_differences(keys, |keys| {
                        loss(&Inputs { distances: Distances { keys, ..distances }, ..x })
                    });
                    assert_close(&dkeys, &of_keys, 1e-3, &format!("{what}: keys of distances"));
                    let of_queries = central_differences(queries, |queries| {
                        loss(&Inputs { distances: Distances { queries, ..distances }, ..x })
                    });
                    assert_close(&dqueries, &of_queries, 1e-3, &format!("{what}: queries of distances"));
                }
            }
        });
    }
}
