//! Products against a frozen weight `W [n, k]`: `Y = X Wᵀ` and its vector-Jacobian product `dX = dY W`.
//!
//! A panel of `W` is decoded and packed for the tile kernel, multiplied with many rows, and forgotten. There is no
//! gradient of `W`: it is frozen. Work is cut by the shapes alone, and every entry of the result is one sum in one order.

mod few_rows;

pub use few_rows::{FEW_ROWS, stream, stream_in_integers};

use crate::Isa;
use crate::operand::Rows;
use crate::product::{Left, Precision, Product};
use crate::shared::{SharedMatrix, aligned_pieces, with_scratch};
use crate::weight::Matrix;
use rayon::prelude::*;
use std::ops::Range;

/// Rows of activations that share one packed panel: packing costs a few operations per weight, the product two per
/// weight and row. They stream through, so that they need not fit into a cache.
const TILE_ROWS: usize = 768;

/// Fewest rows that tiles are cut down to, so that every thread has some.
const LEAST_ROWS: usize = 192;

/// Tasks a thread at least: with fewer, one that is late keeps the others waiting.
const TASKS_PER_THREAD: usize = 2;

/// Rows of the activations in bf16 start at blocks of two tiles.
const ROW_UNIT: usize = 32;

/// Columns of the result in one task of `X Wᵀ`. Enough to share the reading of the rows, few enough for the packed panel to
/// stay in the second-level cache.
const TILE_COLS: usize = 96;

/// Columns of the result in one task of `dY W`, whose panel is as many columns of many rows of `W`: the wider, the longer the
/// runs of memory that it is read in.
const WIDE_COLS: usize = 384;

/// Rows of `W` that are decoded at a time before they are packed: they stay in the first-level cache.
const DECODED_ROWS: usize = 32;

/// What a product does with what is in its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Replaces it.
    Over,
    /// Adds to it.
    Add,
}

/// `y[m, n] = x[m, k] w[n, k]ᵀ`.
///
/// Panics when the lengths do not fit the weight.
pub fn forward(isa: Isa, x: &[f32], w: &impl Matrix, precision: Precision, write: Write, y: &mut [f32]) {
    let (n, k) = (w.rows(), w.cols());
    let m = height((x.len(), k), (y.len(), n));
    if m == 0 || n == 0 {
        return;
    }
    let product = Product::new(isa, precision);
    product.with_left(x, k, |left| {
        let y = SharedMatrix::new(y, m, n);
        tasks(m, n, product.cols_unit()).into_par_iter().for_each(|(rows, cols)| {
            // SAFETY: the tasks are disjoint rectangles of `y`, each written by the one thread that has this task.
            product.task(|| unsafe {
                let out = y.rectangle(rows.start, cols.start, rows.len(), cols.len());
                outputs(&product, left, rows, w, cols, (out, y.stride()), write == Write::Add);
            });
        });
    });
}

/// The rows that two matrices of these lengths and widths both have.
///
/// Panics when they have not as many.
fn height((x, k): (usize, usize), (y, n): (usize, usize)) -> usize {
    let m = x.checked_div(k).or(y.checked_div(n)).unwrap_or(0);
    assert_eq!((x, y), (m * k, m * n), "{m} rows of {k} and of {n}");
    m
}

/// The rectangles of an `[m, n]` result that are computed together. How the rows are cut depends on the number of threads,
/// and no sum does: each is one row's alone.
pub(crate) fn tasks(m: usize, n: usize, unit: usize) -> Vec<(Range<usize>, Range<usize>)> {
    tasks_of(m, n, unit, TILE_COLS)
}

/// [`tasks`] of up to `widest` columns, fewer where that leaves threads without work, down to [`TILE_COLS`].
fn tasks_of(m: usize, n: usize, unit: usize, widest: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let wanted = TASKS_PER_THREAD * rayon::current_num_threads();
    let (mut width, mut tile) = (widest, TILE_ROWS);
    let count = |width: usize, tile: usize| m.div_ceil(tile) * aligned_pieces(n, width, unit).len();
    while width > TILE_COLS && count(width, tile) < wanted {
        width /= 2;
    }
    while tile > LEAST_ROWS && count(width, tile) < wanted {
        tile /= 2;
    }
    let columns = aligned_pieces(n, width, unit);
    aligned_pieces(m, tile, ROW_UNIT)
        .into_iter()
        .flat_map(|rows| columns.iter().map(move |cols| (rows.clone(), cols.clone())))
        .collect()
}

/// `out[rows, cols] (+)= left[rows, ..] w[cols, ..]ᵀ`, on one thread.
///
/// # Safety
/// `out` points to `rows.len()` rows of `cols.len()` entries, the second number apart, that nobody else uses meanwhile.
pub(crate) unsafe fn outputs(
    product: &Product,
    left: Left<'_>,
    rows: Range<usize>,
    w: &impl Matrix,
    cols: Range<usize>,
    (out, out_row): (*mut f32, usize),
    add: bool,
) {
    let (n, k) = (cols.len(), w.cols());
    let group = product.cols_unit() * (DECODED_ROWS / product.cols_unit()).max(1);
    if k == 0 {
        let none = (&[][..], n);
        // SAFETY: passed on.
        return unsafe { product.multiply(left, (rows, 0..0), none, (out, out_row), add) };
    }
    for depth in aligned_pieces(k, product.depth(), product.depth_unit().max(w.column_unit())) {
        with_scratch(product.right_len(n, depth.len()), |right| {
            with_scratch(group * depth.len(), |decoded| {
                for start in (0..n).step_by(group) {
                    let height = group.min(n - start);
                    let rows = cols.start + start..cols.start + start + height;
                    with_rows(product, w, (rows, depth.clone()), decoded, |rows| {
                        product.pack_transposed(rows, start, right);
                    });
                }
            });
            let add = add || depth.start > 0;
            // SAFETY: passed on.
            unsafe { product.multiply(left, (rows.clone(), depth), (right, n), (out, out_row), add) };
        });
    }
}

/// Calls `pack` with at most [`DECODED_ROWS`] rows of `w`, some columns of them: as they are stored where that is bf16 and the
/// product takes it, else decoded into the buffer.
fn with_rows(
    product: &Product,
    w: &impl Matrix,
    (rows, cols): (Range<usize>, Range<usize>),
    decoded: &mut [f32],
    pack: impl FnOnce(Rows<'_>),
) {
    if product.packs_stored_bf16() {
        let mut stored: [&[u8]; DECODED_ROWS] = [&[]; DECODED_ROWS];
        let all = rows.clone().zip(&mut stored).all(|(row, stored)| {
            w.bf16_row(row).map(|bytes| *stored = &bytes[2 * cols.start..2 * cols.end]).is_some()
        });
        if all {
            return pack(Rows::Stored(&stored[..rows.len()]));
        }
    }
    let (width, decoded) = (cols.len(), &mut decoded[..rows.len() * cols.len()]);
    w.decode(product.isa(), rows, cols, decoded);
    pack(Rows::floats(decoded, width));
}

/// Asks the memory for some columns of rows of `w` that are packed next: each is a run of its own, which the hardware does
/// not foresee.
fn prefetch(product: &Product, w: &impl Matrix, rows: Range<usize>, cols: &Range<usize>) {
    if !product.packs_stored_bf16() {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    for bytes in rows.filter_map(|row| w.bf16_row(row)) {
        for line in bytes[2 * cols.start..2 * cols.end].chunks(64) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: every x86-64 has the instruction, and it changes nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (w, rows, cols);
}

/// `dx[m, k] = dy[m, n] w[n, k]`.
///
/// Panics when the lengths do not fit the weight.
pub fn backward(isa: Isa, dy: &[f32], w: &impl Matrix, precision: Precision, write: Write, dx: &mut [f32]) {
    let (n, k) = (w.rows(), w.cols());
    let m = height((dy.len(), n), (dx.len(), k));
    if m == 0 || k == 0 {
        return;
    }
    if n == 0 {
        return if write == Write::Over {
            dx.fill(0.0)
        };
    }
    let product = Product::new(isa, precision);
    product.with_left(dy, n, |left| {
        let dx = SharedMatrix::new(dx, m, k);
        // panels begin at whole blocks of a quantised weight
        let unit = if w.column_unit() > 1 { w.column_unit().max(32) } else { product.cols_unit() };
        tasks_of(m, k, unit, if product.packs_stored_bf16() { WIDE_COLS } else { TILE_COLS })
            .into_par_iter()
            .for_each(|(rows, cols)| {
                // SAFETY: the tasks are disjoint rectangles of `dx`, each written by the one thread that has this task.
                product.task(|| unsafe {
                    let out = dx.rectangle(rows.start, cols.start, rows.len(), cols.len());
                    inputs(&product, left, rows, w, cols, (out, dx.stride()), write == Write::Add);
                });
            });
    });
}

/// `out[rows, cols] (+)= left[rows, ..] w[.., cols]`, on one thread.
///
/// # Safety
/// As [`outputs`].
unsafe fn inputs(
    product: &Product,
    left: Left<'_>,
    rows: Range<usize>,
    w: &impl Matrix,
    cols: Range<usize>,
    (out, out_row): (*mut f32, usize),
    add: bool,
) {
    let width = cols.len();
    for depth in aligned_pieces(w.rows(), product.depth_of_wide(), product.depth_unit()) {
        with_scratch(product.right_len(width, depth.len()), |right| {
            with_scratch(DECODED_ROWS * width, |decoded| {
                for start in (0..depth.len()).step_by(DECODED_ROWS) {
                    let height = DECODED_ROWS.min(depth.len() - start);
                    let outputs = depth.start + start..depth.start + start + height;
                    prefetch(product, w, outputs.end..(outputs.end + DECODED_ROWS).min(w.rows()), &cols);
                    with_rows(product, w, (outputs, cols.clone()), decoded, |rows| {
                        product.pack_rows(rows, start, depth.len(), right);
                    });
                }
            });
            let add = add || depth.start > 0;
            // SAFETY: passed on.
            unsafe { product.multiply(left, (rows.clone(), depth), (right, width), (out, out_row), add) };
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, random};
    use crate::weight::{RowOrder, Weight, encode};
    use crate::weight_type::WeightType;

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
                forward(isa, &x, &weight, Precision::F32, Write::Over, &mut y);
                assert_close(&y, &reference(&x, &w, (m, n, k)), 1e-6, &format!("{what} forward"));
                let transposed: Vec<f32> = (0..k * n).map(|at| w[at % n * k + at / n]).collect();
                let mut dx = vec![f32::NAN; m * k];
                backward(isa, &dy, &weight, Precision::F32, Write::Over, &mut dx);
                assert_close(&dx, &reference(&dy, &transposed, (m, k, n)), 1e-6, &format!("{what} backward"));
                for (precision, tolerance) in [(Precision::F32, 1e-6), (Precision::Bf16, 0.03)] {
                    let (mut added, mut dx_added) = (vec![0.5; m * n], vec![0.5; m * k]);
                    forward(isa, &x, &weight, precision, Write::Add, &mut added);
                    backward(isa, &dy, &weight, precision, Write::Add, &mut dx_added);
                    for (sum, alone) in [(&added, &y), (&dx_added, &dx)] {
                        let expected: Vec<f64> = alone.iter().map(|x| *x as f64 + 0.5).collect();
                        assert_close(sum, &expected, tolerance, &format!("{what} {precision:?} added"));
                    }
                }
            }
        });
    }

    #[test]
    fn the_result_does_not_depend_on_the_number_of_threads() {
        each_isa(|isa| {
            let (m, n, k) = (300, 130, 96);
            let (x, w) = (random(m * k, 1), random(n * k, 2));
            let data = encode(WeightType::BF16, &w).expect("a plain type");
            let weight = Weight::new(WeightType::BF16, &data, n, k, RowOrder::Plain).expect("a valid weight");
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                let (mut y, mut dx) = (vec![0.0; m * n], vec![0.0; m * k]);
                pool.install(|| {
                    forward(isa, &x, &weight, Precision::F32, Write::Over, &mut y);
                    backward(isa, &y, &weight, Precision::F32, Write::Over, &mut dx);
                });
                (y, dx)
            };
            assert!(run(1) == run(3), "{isa}");
        });
    }
}
