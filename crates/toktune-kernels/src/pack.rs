//! Packing the right operand of an `f32` product into the panels that [`crate::tile`] reads: `[n / cols][k][cols]`,
//! the last panel padded with zeros.

use crate::isa::{Isa, Level};
use std::ops::Range;

/// Floats that `k` by `n` take when packed into panels of `cols`.
pub(crate) fn packed_len(n: usize, k: usize, cols: usize) -> usize {
    n.next_multiple_of(cols) * k
}

/// Packs the transpose of `rows [n, k]` (`stride` floats from row to row).
pub(crate) fn pack_transposed(
    isa: Isa,
    rows: &[f32],
    stride: usize,
    (n, k): (usize, usize),
    cols: usize,
    out: &mut [f32],
) {
    if n == 0 || k == 0 {
        return;
    }
    assert!((n - 1) * stride + k <= rows.len() && out.len() >= packed_len(n, k, cols), "{n} x {k} to pack");
    for (panel, first) in out.chunks_exact_mut(cols * k).zip((0..n).step_by(cols)) {
        let width = cols.min(n - first);
        if width < cols {
            panel.fill(0.0);
        }
        let mut done = 0;
        #[cfg(target_arch = "x86_64")]
        if isa.level() >= Level::Avx2 && width == cols && cols.is_multiple_of(8) {
            done = k / 8 * 8;
            for (col, l) in (0..cols).step_by(8).flat_map(|c| (0..done).step_by(8).map(move |l| (c, l))) {
                // SAFETY: the machine has AVX2 (`isa`); eight rows of eight floats lie inside `rows` by the assertion
                // above, and eight rows of the panel inside the panel.
                unsafe {
                    let from = rows.as_ptr().add((first + col) * stride + l);
                    transpose_8x8(from, stride, panel.as_mut_ptr().add(l * cols + col), cols);
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = isa;
        for j in 0..width {
            let row = &rows[(first + j) * stride..][..k];
            for (l, x) in row.iter().enumerate().skip(done) {
                panel[l * cols + j] = *x;
            }
        }
    }
}

/// Packs the rows `part` of a matrix `[k, n]`, given as `rows [part, n]` with `stride` floats from row to row.
pub(crate) fn pack_rows(
    rows: &[f32],
    stride: usize,
    part: Range<usize>,
    (k, n): (usize, usize),
    cols: usize,
    out: &mut [f32],
) {
    if n == 0 || part.is_empty() {
        return;
    }
    assert!((part.len() - 1) * stride + n <= rows.len() && part.end <= k, "{part:?} of {k} x {n} to pack");
    assert!(out.len() >= packed_len(n, k, cols), "room for {k} x {n}");
    for (panel, first) in out.chunks_exact_mut(cols * k).zip((0..n).step_by(cols)) {
        let width = cols.min(n - first);
        for (l, out) in panel[part.start * cols..part.end * cols].chunks_exact_mut(cols).enumerate() {
            let (data, padding) = out.split_at_mut(width);
            data.copy_from_slice(&rows[l * stride + first..][..width]);
            padding.fill(0.0);
        }
    }
}

/// `to[j][i] = from[i][j]` for eight by eight floats.
///
/// # Safety
/// The machine has AVX2; eight rows of eight floats are readable at `from` and writable at `to`, their strides apart.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn transpose_8x8(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise.
    unsafe {
        let mut rows = [_mm256_setzero_ps(); 8];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = _mm256_loadu_ps(from.add(i * stride));
        }
        let mut pairs = rows;
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        let mut quads = rows;
        for half in 0..2 {
            for i in 0..2 {
                let (low, high) = (pairs[4 * half + i], pairs[4 * half + 2 + i]);
                quads[4 * half + 2 * i] = _mm256_shuffle_ps(low, high, 0x44);
                quads[4 * half + 2 * i + 1] = _mm256_shuffle_ps(low, high, 0xee);
            }
        }
        for i in 0..4 {
            _mm256_storeu_ps(to.add(i * to_stride), _mm256_permute2f128_ps(quads[i], quads[4 + i], 0x20));
            let below = _mm256_permute2f128_ps(quads[i], quads[4 + i], 0x31);
            _mm256_storeu_ps(to.add((4 + i) * to_stride), below);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{each_isa, random};
    use crate::tile::panel_cols;

    #[test]
    fn both_ways_of_packing_give_padded_panels() {
        each_isa(|isa| {
            let cols = panel_cols(isa);
            for (n, k) in [(0, 3), (1, 1), (3, 9), (cols, 8), (cols + 1, 17), (2 * cols + 5, 40)] {
                let (rows, stride) = (random(n * (k + 2) + k, 1), k + 2);
                let entry = |j: usize, l: usize| if j < n { rows[j * stride + l] } else { 0.0 };
                let expected: Vec<f32> = (0..packed_len(n, k, cols))
                    .map(|at| entry(at / (cols * k) * cols + at % cols, at % (cols * k) / cols))
                    .collect();
                let mut packed = vec![f32::NAN; expected.len()];
                pack_transposed(isa, &rows, stride, (n, k), cols, &mut packed);
                assert_eq!(packed, expected, "{isa} transposed {n} x {k}");
                let turned: Vec<f32> = (0..n * k).map(|at| entry(at % n, at / n)).collect();
                packed.fill(f32::NAN);
                let half = k / 2;
                pack_rows(&turned, n, 0..half, (k, n), cols, &mut packed);
                pack_rows(&turned[half * n..], n, half..k, (k, n), cols, &mut packed);
                assert_eq!(packed, expected, "{isa} rows {k} x {n}");
            }
        });
    }
}
