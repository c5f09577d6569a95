//! Products against a frozen weight `W [n, k]`: `Y = X Wᵀ` and its vector-Jacobian product `dX = dY W`.
//!
//! A panel of `W` is decoded into a buffer the size of a cache, multiplied, and forgotten. There is no gradient of `W`:
//! it is frozen. Tiles are cut by the shapes alone, and every entry of the result is one sum in one order.

use crate::gemm::{View, gemm, gemm_raw};
use crate::math::dot;
use crate::shared::{SharedMatrix, pieces, with_scratch};
use crate::weight::Matrix;
use rayon::prelude::*;

/// Floats in a decoded panel: 512 KiB, about half of a second-level cache of today.
const PANEL: usize = 128 * 1024;

/// Rows of activations that share one decoded panel. Decoding costs a few operations per weight, the product two per
/// weight and row, so at this height decoding is lost in the noise, and there are still tiles for every thread.
const TILE_ROWS: usize = 256;

/// Columns of `dX` in one tile.
const TILE_COLS: usize = 256;

/// With fewer rows than this the weights stream through once and each output is a dot product.
const FEW_ROWS: usize = 4;

/// How many rows of `W` with `width` columns fill a panel; a multiple of 16 for the sake of the tile kernel.
fn panel_rows(width: usize) -> usize {
    (PANEL / width.max(1)).clamp(16, 512) / 16 * 16
}

/// `y[m, n] = x[m, k] w[n, k]ᵀ`; overwrites `y`.
///
/// Panics when the lengths do not fit the weight.
pub fn forward(x: &[f32], w: &impl Matrix, y: &mut [f32]) {
    let (n, k) = (w.rows(), w.cols());
    let m = x.len().checked_div(k).or(y.len().checked_div(n)).unwrap_or(0);
    assert_eq!((x.len(), y.len()), (m * k, m * n), "x [{m}, {k}], w [{n}, {k}], y [{m}, {n}]");
    if m == 0 || n == 0 {
        return;
    }
    if m < FEW_ROWS {
        return forward_few(x, w, y);
    }
    let tiles: Vec<_> = pieces(m, TILE_ROWS)
        .into_iter()
        .flat_map(|rows| pieces(n, panel_rows(k)).into_iter().map(move |cols| (rows.clone(), cols)))
        .collect();
    let y = SharedMatrix::new(y, m, n);
    tiles.into_par_iter().for_each(|(rows, cols)| {
        with_scratch(cols.len() * k, |panel| {
            w.decode(cols.clone(), 0..k, panel);
            let (a, b) = (View::rows(&x[rows.start * k..], k), View::transposed(panel, k));
            let size = (rows.len(), cols.len(), k);
            // SAFETY: the tiles are disjoint rectangles of `y`, each written by the one thread that has this tile.
            unsafe {
                let out = y.rectangle(rows.start, cols.start, rows.len(), cols.len());
                gemm_raw(size, a, b, out, y.stride(), false);
            }
        });
    });
}

/// [`forward`] for very few rows, as when generating: bound by reading the weights.
fn forward_few(x: &[f32], w: &impl Matrix, y: &mut [f32]) {
    let (n, k) = (w.rows(), w.cols());
    let m = y.len() / n;
    let y = SharedMatrix::new(y, m, n);
    pieces(n, panel_rows(k).min(64)).into_par_iter().for_each(|cols| {
        with_scratch(cols.len() * k, |panel| {
            w.decode(cols.clone(), 0..k, panel);
            for i in 0..m {
                // SAFETY: `cols` are this thread's alone.
                let out = unsafe { y.row(i, cols.start, cols.len()) };
                dots(&x[i * k..][..k], panel, out);
            }
        });
    });
}

crate::isa::multiversion! {
    /// `out[j] = x · rows[j]`.
    fn dots(x: &[f32], rows: &[f32], out: &mut [f32]) {
        if x.is_empty() {
            return out.fill(0.0);
        }
        for (o, row) in out.iter_mut().zip(rows.chunks_exact(x.len())) {
            *o = dot(x, row);
        }
    }
}

/// `dx[m, k] = dy[m, n] w[n, k]`; overwrites `dx`.
///
/// Panics when the lengths do not fit the weight.
pub fn backward(dy: &[f32], w: &impl Matrix, dx: &mut [f32]) {
    let (n, k) = (w.rows(), w.cols());
    let m = dy.len().checked_div(n).or(dx.len().checked_div(k)).unwrap_or(0);
    assert_eq!((dy.len(), dx.len()), (m * n, m * k), "dy [{m}, {n}], w [{n}, {k}], dx [{m}, {k}]");
    if m == 0 || k == 0 {
        return;
    }
    let unit = w.column_unit();
    let columns = pieces(k.div_ceil(unit), TILE_COLS.div_ceil(unit));
    let tiles: Vec<_> = pieces(m, TILE_ROWS)
        .into_iter()
        .flat_map(|rows| columns.iter().map(move |c| (rows.clone(), c.start * unit..(c.end * unit).min(k))))
        .collect();
    let dx = SharedMatrix::new(dx, m, k);
    tiles.into_par_iter().for_each(|(rows, cols)| {
        let width = cols.len();
        let step = panel_rows(width);
        with_scratch(rows.len() * width, |sum| {
            sum.fill(0.0);
            with_scratch(step * width, |panel| {
                for start in (0..n).step_by(step) {
                    let outputs = start..(start + step).min(n);
                    let panel = &mut panel[..outputs.len() * width];
                    w.decode(outputs.clone(), cols.clone(), panel);
                    let a = View::rows(&dy[rows.start * n + start..], n);
                    gemm((rows.len(), width, outputs.len()), a, View::rows(panel, width), sum, width, true);
                }
            });
            for (i, sum) in rows.clone().zip(sum.chunks_exact(width)) {
                // SAFETY: the tiles are disjoint rectangles of `dx`, each written by the one thread that has this tile.
                unsafe { dx.row(i, cols.start, width) }.copy_from_slice(sum);
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, random};
    use crate::weight::{RowOrder, Weight, WeightType, encode};

    fn reference(x: &[f32], w: &[f32], (m, n, k): (usize, usize, usize)) -> Vec<f64> {
        let entry = |i: usize, j: usize| (0..k).map(|l| x[i * k + l] as f64 * w[j * k + l] as f64).sum();
        (0..m * n).map(|at| entry(at / n, at % n)).collect()
    }

    /// Sizes below, on and above the few-row bound, the tiles and the panels.
    const SIZES: [(usize, usize, usize); 10] = [
        (0, 5, 4),
        (1, 1, 1),
        (1, 70, 33),
        (3, 65, 16),
        (4, 16, 32),
        (5, 17, 7),
        (64, 48, 40),
        (257, 30, 24),
        (6, 520, 300),
        (9, 40, 513),
    ];

    #[test]
    fn forward_and_backward_match_the_f64_products() {
        each_isa(|isa| {
            for (m, n, k) in SIZES {
                let (x, w, dy) = (random(m * k, 1), random(n * k, 2), random(m * n, 3));
                let data = encode(WeightType::F32, &w).expect("a plain type");
                let weight =
                    Weight::new(WeightType::F32, &data, n, k, RowOrder::Plain).expect("a valid weight");
                let what = format!("{isa} {m}x{n}x{k}");
                let mut y = vec![f32::NAN; m * n];
                forward(&x, &weight, &mut y);
                assert_close(&y, &reference(&x, &w, (m, n, k)), 1e-6, &format!("{what} forward"));
                let transposed: Vec<f32> = (0..k * n).map(|at| w[at % n * k + at / n]).collect();
                let mut dx = vec![f32::NAN; m * k];
                backward(&dy, &weight, &mut dx);
                assert_close(&dx, &reference(&dy, &transposed, (m, k, n)), 1e-6, &format!("{what} backward"));
            }
        });
    }

    #[test]
    fn the_result_does_not_depend_on_the_number_of_threads() {
        // inside `each_isa`: no other test may change the instruction set between the two runs
        each_isa(|isa| {
            let (m, n, k) = (300, 130, 96);
            let (x, w) = (random(m * k, 1), random(n * k, 2));
            let data = encode(WeightType::BF16, &w).expect("a plain type");
            let weight = Weight::new(WeightType::BF16, &data, n, k, RowOrder::Plain).expect("a valid weight");
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                let (mut y, mut dx) = (vec![0.0; m * n], vec![0.0; m * k]);
                pool.install(|| {
                    forward(&x, &weight, &mut y);
                    backward(&y, &weight, &mut dx);
                });
                (y, dx)
            };
            assert!(run(1) == run(3), "{isa}");
        });
    }
}
