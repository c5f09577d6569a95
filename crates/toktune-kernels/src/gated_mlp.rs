//! A gated MLP with frozen weights, `y = (act(x W_gᵀ) * (x W_uᵀ)) W_dᵀ`, and its vector-Jacobian product.
//!
//! The gate and the up projection of a tile are multiplied side by side and meet in the cache: neither exists as a
//! whole, unless the caller wants to keep them for the backward pass. What is between them and the down projection
//! exists for [`CHUNK_ROWS`] rows at a time.

use crate::Isa;
use crate::gated::{Activation, backward_tile, forward_tile, gated_backward};
use crate::matmul::{self, Write};
use crate::product::{Left, Precision, Product};
use crate::shared::{SharedMatrix, aligned_pieces, with_scratch};
use crate::weight::Matrix;
use rayon::prelude::*;

/// Rows that pass through the whole MLP together.
pub const CHUNK_ROWS: usize = 1536;

/// The frozen weights: `gate` and `up` are `[inner, d]`, `down` is `[d, inner]`.
#[derive(Clone, Copy, Debug)]
pub struct GatedMlp<'a, M> {
    /// The instructions that it runs with.
    pub isa: Isa,
    /// Gate projection.
    pub gate: &'a M,
    /// Up projection.
    pub up: &'a M,
    /// Down projection.
    pub down: &'a M,
    /// Of the gate.
    pub activation: Activation,
    /// Of the products.
    pub precision: Precision,
}

/// The gate and the up projection of every row, `[rows, inner]` each, kept for the backward pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// `x W_gᵀ`.
    pub gate: Vec<f32>,
    /// `x W_uᵀ`.
    pub up: Vec<f32>,
}

impl<M: Matrix> GatedMlp<'_, M> {
    fn sizes(&self) -> (usize, usize) {
        let (inner, d) = (self.gate.rows(), self.gate.cols());
        assert_eq!((self.up.rows(), self.up.cols()), (inner, d), "the up projection beside the gate");
        assert_eq!((self.down.rows(), self.down.cols()), (d, inner), "the down projection");
        (inner, d)
    }

    /// `y [rows, d]` from `x [rows, d]`. With `keep`, the projections are left there.
    ///
    /// Panics when the lengths do not fit the weights.
    pub fn forward(&self, x: &[f32], write: Write, y: &mut [f32], mut keep: Option<&mut Kept>) {
        let (inner, d) = self.sizes();
        assert_eq!(x.len(), y.len(), "rows of {d} in and out");
        if let Some(keep) = keep.as_deref_mut() {
            let entries = x.len() / d.max(1) * inner;
            keep.gate.resize(entries, 0.0);
            keep.up.resize(entries, 0.0);
        }
        let chunk = CHUNK_ROWS * d.max(1);
        for (i, (x, y)) in x.chunks(chunk).zip(y.chunks_mut(chunk)).enumerate() {
            let rows = x.len() / d;
            let first = i * CHUNK_ROWS * inner;
            with_scratch(rows * inner, |product| {
                let kept = keep.as_deref_mut().map(|keep| {
                    (&mut keep.gate[first..][..rows * inner], &mut keep.up[first..][..rows * inner])
                });
                self.gate_and_up(x, product, kept);
                matmul::forward(self.isa, product, self.down, self.precision, write, y);
            });
        }
    }

    /// `product [rows, inner] = act(gate) * up`.
    fn gate_and_up(&self, x: &[f32], product: &mut [f32], kept: Option<(&mut [f32], &mut [f32])>) {
        let (inner, d) = self.sizes();
        let rows = x.len() / d.max(1);
        let out = SharedMatrix::new(product, rows, inner);
        let kept = kept.map(|(g, u)| (SharedMatrix::new(g, rows, inner), SharedMatrix::new(u, rows, inner)));
        self.each_tile(x, |(row, col), width, gate, up| {
            for (i, (gate, up)) in gate.chunks_exact(width).zip(up.chunks_exact(width)).enumerate() {
                // SAFETY: the tiles are disjoint rectangles, each with one thread.
                unsafe {
                    forward_tile(self.isa, self.activation, gate, up, out.row(row + i, col, width));
                    if let Some((g, u)) = &kept {
                        g.row(row + i, col, width).copy_from_slice(gate);
                        u.row(row + i, col, width).copy_from_slice(up);
                    }
                }
            }
        });
    }

    /// Calls `work(first row and column, width, gate, up)` for every tile of the two projections, from all threads.
    fn each_tile(&self, x: &[f32], work: impl Fn((usize, usize), usize, &[f32], &[f32]) + Sync) {
        let (inner, d) = self.sizes();
        let rows = x.len() / d.max(1);
        let product = Product::new(self.isa, self.precision);
        let run = |left: Left<'_>| {
            matmul::tasks(rows, inner, product.cols_unit()).into_par_iter().for_each(|(tile, cols)| {
                let (height, width) = (tile.len(), cols.len());
                product.task_with(2 * height * width, |both| {
                    let (gate, up) = both.split_at_mut(height * width);
                    for (weight, out) in [(self.gate, &mut *gate), (self.up, &mut *up)] {
                        // SAFETY: the buffer is this tile's, `height` rows of `width`.
                        unsafe {
                            let out = (out.as_mut_ptr(), width);
                            matmul::outputs(&product, left, tile.clone(), weight, cols.clone(), out, false);
                        }
                    }
                    work((tile.start, cols.start), width, gate, up);
                });
            });
        };
        product.with_left(x, d, run);
    }

    /// `dx [rows, d]` from the input and the gradient of the output; overwrites `dx`. Without `kept` gate and up projections
    /// they are computed again.
    ///
    /// Panics when the lengths do not fit the weights.
    pub fn backward(&self, x: &[f32], dy: &[f32], kept: Option<[&[f32]; 2]>, dx: &mut [f32]) {
        let (inner, d) = self.sizes();
        assert!(x.len() == dy.len() && x.len() == dx.len(), "rows of {d}");
        let rows = x.len() / d.max(1);
        assert!(kept.is_none_or(|kept| kept.iter().all(|k| k.len() == rows * inner)), "kept rows");
        for rows in aligned_pieces(rows, CHUNK_ROWS, CHUNK_ROWS) {
            let (own, inside) = (rows.start * d..rows.end * d, rows.start * inner..rows.end * inner);
            with_scratch(2 * inside.len(), |scratch| {
                // the gradient of the product becomes that of the gate, in place
                let (dgate, dup) = scratch.split_at_mut(inside.len());
                matmul::backward(self.isa, &dy[own.clone()], self.down, self.precision, Write::Over, dgate);
                match kept {
                    Some([gate, up]) => {
                        let (gate, up) = (&gate[inside.clone()], &up[inside]);
                        gated_backward(self.isa, self.activation, gate, up, dgate, dup);
                    }
                    None => self.pull_through_activation(&x[own.clone()], dgate, dup),
                }
                let dx = &mut dx[own];
                matmul::backward(self.isa, dgate, self.gate, self.precision, Write::Over, dx);
                matmul::backward(self.isa, dup, self.up, self.precision, Write::Add, dx);
            });
        }
    }

    /// Turns the gradient of the product (in `dgate`) into those of the gate and of the up projection.
    fn pull_through_activation(&self, x: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        let (inner, d) = self.sizes();
        let rows = x.len() / d.max(1);
        let (dgate, dup) = (SharedMatrix::new(dgate, rows, inner), SharedMatrix::new(dup, rows, inner));
        self.each_tile(x, |(row, col), width, gate, up| {
            for (i, (gate, up)) in gate.chunks_exact(width).zip(up.chunks_exact(width)).enumerate() {
                // SAFETY: the tiles are disjoint rectangles, each with one thread.
                unsafe {
                    let (dgate, dup) = (dgate.row(row + i, col, width), dup.row(row + i, col, width));
                    backward_tile(self.isa, self.activation, gate, up, dgate, dup);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gated::gated_forward;
    use crate::testing::{assert_close, each_isa, random};
    use crate::weight::{RowOrder, Weight, encode};
    use crate::weight_type::WeightType;

    #[test]
    fn it_gives_what_its_parts_give() {
        each_isa(|isa| {
            for (rows, inner, d) in [(1, 3, 5), (5, 100, 17), (CHUNK_ROWS + 3, 10, 4), (0, 4, 4)] {
                let data: Vec<Vec<u8>> = (1..4)
                    .map(|seed| encode(WeightType::F32, &random(inner * d, seed)).expect("plain"))
                    .collect();
                let weight = |at: usize, (n, k)| {
                    Weight::new(WeightType::F32, &data[at], n, k, RowOrder::Plain).expect("valid")
                };
                let (gate, up, down) = (weight(0, (inner, d)), weight(1, (inner, d)), weight(2, (d, inner)));
                let (x, dy) = (random(rows * d, 4), random(rows * d, 5));
                let precision = Precision::F32;
                for activation in [Activation::Silu, Activation::GeluTanh] {
                    let mlp = GatedMlp { isa, gate: &gate, up: &up, down: &down, activation, precision };
                    let [mut g, mut u, mut p, mut dg, mut du] = [(); 5].map(|()| vec![0.0; rows * inner]);
                    let [mut y, mut dx] = [(); 2].map(|()| vec![0.0; rows * d]);
                    matmul::forward(isa, &x, &gate, precision, Write::Over, &mut g);
                    matmul::forward(isa, &x, &up, precision, Write::Over, &mut u);
                    gated_forward(isa, activation, &g, &u, &mut p);
                    matmul::forward(isa, &p, &down, precision, Write::Over, &mut y);
                    matmul::backward(isa, &dy, &down, precision, Write::Over, &mut dg);
                    gated_backward(isa, activation, &g, &u, &mut dg, &mut du);
                    matmul::backward(isa, &dg, &gate, precision, Write::Over, &mut dx);
                    matmul::backward(isa, &du, &up, precision, Write::Add, &mut dx);
                    let what = format!("{isa} {rows} {inner} {d} {activation:?}");
                    let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|x| *x as f64).collect() };
                    let (mut got, mut kept) = (vec![f32::NAN; rows * d], Kept::default());
                    mlp.forward(&x, Write::Over, &mut got, Some(&mut kept));
                    assert_close(&got, &wide(&y), 1e-6, &what);
                    assert_close(&kept.gate, &wide(&g), 1e-6, &what);
                    assert_close(&kept.up, &wide(&u), 1e-6, &what);
                    for kept in [None, Some([&kept.gate[..], &kept.up])] {
                        got.fill(f32::NAN);
                        mlp.backward(&x, &dy, kept, &mut got);
                        assert_close(&got, &wide(&dx), 1e-6, &format!("{what} backward"));
                    }
                }
            }
        });
    }
}
