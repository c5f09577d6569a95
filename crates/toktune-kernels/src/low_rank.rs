//! Products with narrow matrices, as low-rank updates (LoRA, Hu et al. 2021) need them.
//!
//! ```text
//! h = s x Aᵀ            x [rows, k],  A [r, k],  h [rows, r]        down
//! y += s h B            B [r, n],     y [rows, n]                   up
//! dA += hᵀ x            as above, the sum over the rows             gradient
//! ```
//!
//! `r` is small, so packing the wide operand would cost more than the product: it is read where it lies, in vectors along its
//! rows, and of `up` and `gradient` what does not fill a vector at the end of them is packed. Work is cut by shapes alone and each entry is one sum in
//! one order.

use crate::Isa;
use crate::gemm::gemm;
use crate::shared::{SharedMatrix, aligned_pieces, with_scratch};
use crate::tile;
use crate::view::View;
use rayon::prelude::*;
use std::ops::Range;

/// Rows of one task.
const TASK_ROWS: usize = 128;

/// Columns of a wide matrix in one task.
const TASK_COLS: usize = 96;

/// `h = scale x Aᵀ` for `x [rows, k]` and `a [r, k]`; overwrites `h [rows, r]`.
///
/// Panics when the lengths do not fit.
pub fn down(isa: Isa, x: &[f32], a: &[f32], r: usize, scale: f32, h: &mut [f32]) {
    let k = a.len() / r.max(1);
    let rows = h.len() / r.max(1);
    assert_eq!((a.len(), x.len(), h.len()), (r * k, rows * k, rows * r), "{rows} rows of {k} to {r}");
    if rows == 0 || r == 0 {
        return;
    }
    let rows = tile::WeightRows::Floats(a);
    h.par_chunks_mut(TASK_ROWS * r).enumerate().for_each(|(task, h)| {
        let (first, m) = (task * TASK_ROWS, h.len() / r);
        let x = &x[first * k..(first + m) * k];
        if k == 0 {
            return h.fill(0.0);
        }
        let of = tile::Dots { x, m, k, rows, out: h.as_mut_ptr(), out_row: r, add: false };
        // SAFETY: the machine has `isa`, and these rows of `h` are this task's alone.
        unsafe { tile::dots(isa, &of) };
        crate::math::scale(isa, h, scale);
    });
}

/// `y += scale h B` for `h [rows, r]` and `b [r, n]`, into `y [rows, n]`.
///
/// Panics when the lengths do not fit.
pub fn up(isa: Isa, h: &[f32], b: &[f32], r: usize, scale: f32, y: &mut [f32]) {
    let n = b.len() / r.max(1);
    let rows = h.len() / r.max(1);
    assert_eq!((b.len(), h.len(), y.len()), (r * n, rows * r, rows * n), "{rows} rows of {r} to {n}");
    if rows == 0 || n == 0 {
        return;
    }
    y.par_chunks_mut(TASK_ROWS * n).zip(h.par_chunks(TASK_ROWS * r)).for_each(|(y, h)| {
        with_scratch(h.len(), |scaled| {
            scaled.iter_mut().zip(h).for_each(|(to, h)| *to = scale * h);
            let m = y.len() / n;
            let y = SharedMatrix::new(y, m, n);
            add_product(isa, View::rows(scaled, r), (b, n), (m, r), 0..n, &y);
        });
    });
}

/// `sums += hᵀ x` for `h [rows, r]` and `x [rows, n]`, into `sums [r, n]`.
///
/// Panics when the lengths do not fit.
pub fn gradient(isa: Isa, h: &[f32], x: &[f32], r: usize, sums: &mut [f32]) {
    let n = sums.len() / r.max(1);
    let rows = h.len() / r.max(1);
    assert_eq!((sums.len(), h.len(), x.len()), (r * n, rows * r, rows * n), "{rows} rows of {r} and of {n}");
    if rows == 0 || n == 0 {
        return;
    }
    let sums = SharedMatrix::new(sums, r, n);
    aligned_pieces(n, TASK_COLS, tile::panel_cols(isa)).into_par_iter().for_each(|cols| {
        add_product(isa, View::transposed(h, r), (x, n), (r, rows), cols, &sums);
    });
}

/// `out[.., cols] += a b[.., cols]` for `a [m, k]` and `b [k, n]`, whose rows are read where they lie.
fn add_product(
    isa: Isa,
    a: View<'_>,
    (b, n): (&[f32], usize),
    (m, k): (usize, usize),
    cols: Range<usize>,
    out: &SharedMatrix<'_>,
) {
    a.check(m, k);
    assert!(b.len() >= k * n && cols.end <= n, "{k} rows of {n}");
    let whole = cols.len() - cols.len() % tile::vector_len(isa);
    if whole > 0 && k > 0 {
        let of = tile::Operands {
            m,
            n: whole,
            k,
            a: a.data.as_ptr(),
            a_row: a.row_stride,
            a_col: a.col_stride,
            b: b[cols.start..].as_ptr(),
            b_row: Some(n),
            // SAFETY: these columns are this task's alone.
            out: unsafe { out.rectangle(0, cols.start, m, whole) },
            out_row: out.stride(),
            accumulate: true,
        };
        // SAFETY: an `Isa` is one that the machine has; the view and the rows were checked above, the columns are whole vectors.
        unsafe { tile::multiply(isa, &of) };
    }
    let rest = cols.start + whole..cols.end;
    if rest.is_empty() || k == 0 {
        return;
    }
    with_scratch(m * rest.len(), |sums| {
        gemm(isa, (m, rest.len(), k), [a, View::rows(&b[rest.start..], n)], sums, rest.len(), false);
        for (i, sums) in sums.chunks_exact(rest.len()).enumerate() {
            // SAFETY: as above.
            let out = unsafe { out.row(i, rest.start, rest.len()) };
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, random};

    /// `(rows, r, wide)` below, on and above the tiles, and nothing of each.
    const SIZES: [(usize, usize, usize); 10] = [
        (1, 1, 1),
        (3, 2, 5),
        (TASK_ROWS + 1, 8, 48),
        (5, 8, 49),
        (2 * TASK_ROWS, 4, 2 * TASK_COLS + 7),
        (9, 17, 330),
        (64, 64, 16),
        (0, 4, 3),
        (4, 3, 0),
        (7, 33, 15),
    ];

    #[test]
    fn products_are_those_of_plain_loops() {
        each_isa(|isa| {
            for (rows, r, wide) in SIZES {
                let what = format!("{isa} {rows} {r} {wide}");
                let (x, a, h) = (random(rows * wide, 1), random(r * wide, 2), random(rows * r, 3));
                let at = |m: &[f32], cols: usize, i: usize, j: usize| m[i * cols + j] as f64;
                let mut down_to = vec![f32::NAN; rows * r];
                down(isa, &x, &a, r, 0.5, &mut down_to);
                let expected: Vec<f64> = (0..rows * r)
                    .map(|e| (0..wide).map(|p| at(&x, wide, e / r, p) * at(&a, wide, e % r, p)).sum::<f64>())
                    .map(|sum| 0.5 * sum)
                    .collect();
                assert_close(&down_to, &expected, 1e-6, &format!("{what}: down"));

                let mut y = random(rows * wide, 4);
                let expected: Vec<f64> = (0..rows * wide)
                    .map(|e| {
                        let (i, j) = (e / wide, e % wide);
                        let sum: f64 = (0..r).map(|p| at(&h, r, i, p) * at(&a, wide, p, j)).sum();
                        y[e] as f64 + 0.5 * sum
                    })
                    .collect();
                up(isa, &h, &a, r, 0.5, &mut y);
                assert_close(&y, &expected, 1e-6, &format!("{what}: up"));

                let mut sums = random(r * wide, 5);
                let expected: Vec<f64> = (0..r * wide)
                    .map(|e| {
                        let (i, j) = (e / wide, e % wide);
                        let sum: f64 = (0..rows).map(|p| at(&h, r, p, i) * at(&x, wide, p, j)).sum();
                        sums[e] as f64 + sum
                    })
                    .collect();
                gradient(isa, &h, &x, r, &mut sums);
                assert_close(&sums, &expected, 1e-6, &format!("{what}: gradient"));
            }
        });
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        let run = |isa, threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| {
                let (rows, r, n) = (3 * TASK_ROWS + 5, 8, 3 * TASK_COLS + 5);
                let (x, a) = (random(rows * n, 1), random(r * n, 2));
                let (mut h, mut y, mut sums) = (vec![0.0; rows * r], x.clone(), a.clone());
                down(isa, &x, &a, r, 2.0, &mut h);
                up(isa, &h, &a, r, 0.1, &mut y);
                gradient(isa, &h, &x, r, &mut sums);
                (h, y, sums)
            })
        };
        each_isa(|isa| assert!(run(isa, 1) == run(isa, 3), "{isa}"));
    }
}
