//! The dense product of two small `f32` matrices on one thread, the tile that every larger product is made of.
//!
//! With AVX2 this is the `gemm` crate; the portable copy is a plain loop that the compiler vectorises.

use crate::isa::{Isa, isa};

/// A strided read-only matrix: entry (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

impl<'a> View<'a> {
    /// A row-major matrix with `stride` entries from row to row.
    pub(crate) fn rows(data: &'a [f32], stride: usize) -> Self {
        Self { data, row_stride: stride, col_stride: 1 }
    }

    /// The transpose of a row-major matrix with `stride` entries from row to row.
    pub(crate) fn transposed(data: &'a [f32], stride: usize) -> Self {
        Self { data, row_stride: 1, col_stride: stride }
    }

    fn check(&self, rows: usize, cols: usize) {
        if rows > 0 && cols > 0 {
            let last = (rows - 1) * self.row_stride + (cols - 1) * self.col_stride;
            assert!(last < self.data.len(), "a {rows} x {cols} view ends at {last} of {}", self.data.len());
        }
    }
}

/// `out[m, n] = a[m, k] b[k, n]`, added to what is there when `accumulate`; `out` is row-major with stride
/// `out_stride`.
///
/// # Safety
/// `out` points to `m` rows of `n` writable entries, `out_stride` apart, that nobody else uses meanwhile.
pub(crate) unsafe fn gemm_raw(
    (m, n, k): (usize, usize, usize),
    a: View<'_>,
    b: View<'_>,
    out: *mut f32,
    out_stride: usize,
    accumulate: bool,
) {
    a.check(m, k);
    b.check(k, n);
    if m == 0 || n == 0 {
        return;
    }
    if isa() == Isa::Portable || k == 0 {
        // SAFETY: passed on from the caller.
        return unsafe { portable((m, n, k), a, b, out, out_stride, accumulate) };
    }
    // SAFETY: the views were checked above, `out` is the caller's promise. No conjugation is meant for reals.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            out_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// [`gemm_raw`] into a slice.
pub(crate) fn gemm(
    (m, n, k): (usize, usize, usize),
    a: View<'_>,
    b: View<'_>,
    out: &mut [f32],
    out_stride: usize,
    accumulate: bool,
) {
    if m > 0 && n > 0 {
        assert!(n <= out_stride || m == 1, "rows of {n} entries, {out_stride} apart");
        assert!((m - 1) * out_stride + n <= out.len(), "{m} rows of {n} into {} entries", out.len());
    }
    // SAFETY: the assertions above, and `out` is borrowed exclusively.
    unsafe { gemm_raw((m, n, k), a, b, out.as_mut_ptr(), out_stride, accumulate) }
}

/// The product without any special instruction: one row of `out` at a time, as sums of rows of `b`.
///
/// # Safety
/// As [`gemm_raw`].
unsafe fn portable(
    (m, n, k): (usize, usize, usize),
    a: View<'_>,
    b: View<'_>,
    out: *mut f32,
    out_stride: usize,
    accumulate: bool,
) {
    for i in 0..m {
        // SAFETY: row `i` of the `m` rows of `n` entries that the caller lends.
        let row = unsafe { std::slice::from_raw_parts_mut(out.add(i * out_stride), n) };
        if !accumulate {
            row.fill(0.0);
        }
        if b.col_stride == 1 {
            for j in 0..k {
                let factor = a.data[i * a.row_stride + j * a.col_stride];
                let b_row = &b.data[j * b.row_stride..][..n];
                row.iter_mut().zip(b_row).for_each(|(o, b)| *o += factor * b);
            }
        } else if a.col_stride == 1 && b.row_stride == 1 && k > 0 {
            let a_row = &a.data[i * a.row_stride..][..k];
            for (j, o) in row.iter_mut().enumerate() {
                *o += crate::math::dot(a_row, &b.data[j * b.col_stride..][..k]);
            }
        } else {
            for (j, o) in row.iter_mut().enumerate() {
                for l in 0..k {
                    *o += a.data[i * a.row_stride + l * a.col_stride]
                        * b.data[l * b.row_stride + j * b.col_stride];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, random};

    #[test]
    fn every_layout_matches_the_f64_product() {
        each_isa(|isa| {
            for (m, n, k) in
                [(0, 3, 4), (1, 1, 1), (3, 0, 2), (2, 3, 0), (5, 7, 9), (17, 33, 16), (70, 65, 64)]
            {
                let (a, b) = (random(m * k, 1), random(k * n, 2));
                for flags in 0..8 {
                    let (ta, tb, accumulate) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
                    let av = if ta { View::transposed(&a, m) } else { View::rows(&a, k) };
                    let bv = if tb { View::transposed(&b, k) } else { View::rows(&b, n) };
                    let mut out = vec![0.5f32; m * n];
                    gemm((m, n, k), av, bv, &mut out, n, accumulate);
                    let expected: Vec<f64> = (0..m * n)
                        .map(|at| {
                            let (i, j) = (at / n, at % n);
                            let start = if accumulate { 0.5 } else { 0.0 };
                            (0..k).fold(start, |sum, l| {
                                let x = if ta { a[l * m + i] } else { a[i * k + l] };
                                let y = if tb { b[j * k + l] } else { b[l * n + j] };
                                sum + x as f64 * y as f64
                            })
                        })
                        .collect();
                    assert_close(&out, &expected, 1e-6, &format!("{isa} {m}x{n}x{k} {ta} {tb} {accumulate}"));
                }
            }
        });
    }
}
