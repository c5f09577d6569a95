//! AVX512-BF16: 8 rows by up to 48 columns, each step multiplies a pair of depth.

use super::{BLOCK, DEPTH, Operands, SIDE, Streamed};
use std::arch::x86_64::*;

/// Rows of a tile: half a block.
const ROWS: usize = 8;

/// Vectors of columns of a tile: 24 sums, 3 vectors of the right operand and one of the left in 32 registers.
const VECTORS: usize = 3;

/// # Safety
/// As [`super::multiply`], on a machine with AVX-512 and AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn multiply(of: &Operands) {
    let mut col = 0;
    while col < of.n {
        let vectors = match (of.n - col).div_ceil(SIDE) {
            4 => 2, // two and two are faster than three and one
            left => left.min(VECTORS),
        };
        // SAFETY: the blocks of these columns are inside the operands, padding included.
        unsafe {
            match vectors {
                1 => columns::<1>(of, col),
                2 => columns::<2>(of, col),
                _ => columns::<VECTORS>(of, col),
            }
        }
        col += vectors * SIDE;
    }
}

/// All rows of `N` vectors of columns.
///
/// # Safety
/// As [`multiply`]; the columns are inside the right operand.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn columns<const N: usize>(of: &Operands, col: usize) {
    for row in (0..of.m).step_by(ROWS) {
        // SAFETY: the blocks of this tile are inside the operands, padding included; a prefetch touches nothing.
        unsafe {
            let left = of.left.add(row / SIDE * of.left_stride + row % SIDE * DEPTH);
            let right = of.right.add(col / SIDE * of.right_stride);
            for i in 0..ROWS.min(of.m - row) {
                let to = of.out.wrapping_add((row + i) * of.out_row + col);
                for vector in 0..N {
                    _mm_prefetch::<_MM_HINT_T0>(to.wrapping_add(vector * SIDE).cast());
                }
            }
            let sums = tile::<N>(of.blocks, left, right, of.right_stride);
            store(of, sums, row, col);
        }
    }
}

/// # Safety
/// `blocks` blocks are readable at `left` ([`ROWS`] rows of each) and at each of `N` places from `right` on, `stride` apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn tile<const N: usize>(
    blocks: usize,
    left: *const u16,
    right: *const u16,
    stride: usize,
) -> [[__m512; N]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); N]; ROWS];
    // SAFETY: offsets stay inside the blocks. The vectors of 32 bf16 have the bits of the integers that are loaded.
    unsafe {
        for block in 0..blocks {
            for pair in 0..DEPTH / 2 {
                let at = block * BLOCK + pair * 2 * SIDE;
                let mut vectors = [_mm512_setzero_si512(); N];
                for (j, vector) in vectors.iter_mut().enumerate() {
                    *vector = _mm512_loadu_si512(right.add(j * stride + at).cast());
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let from = left.add(block * BLOCK + i * DEPTH + 2 * pair).cast::<i32>();
                    let left: __m512bh = std::mem::transmute(_mm512_set1_epi32(from.read_unaligned()));
                    for (sum, right) in sums.iter_mut().zip(&vectors) {
                        *sum = _mm512_dpbf16_ps(*sum, left, std::mem::transmute::<__m512i, __m512bh>(*right));
                    }
                }
            }
        }
    }
    sums
}

/// Writes the part of a tile that lies inside the result.
///
/// # Safety
/// The entries of `out` from (`row`, `col`) on, inside the result, are writable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn store<const N: usize>(of: &Operands, sums: [[__m512; N]; ROWS], row: usize, col: usize) {
    for (i, sums) in sums.into_iter().enumerate().take(of.m - row) {
        for (half, sum) in sums.into_iter().enumerate() {
            let first = col + half * SIDE;
            let width = of.n.saturating_sub(first).min(SIDE);
            let mask = ((1u32 << width) - 1) as u16;
            // SAFETY: the mask leaves out columns past the result; a masked load or store does not touch them.
            unsafe {
                let to = of.out.wrapping_add((row + i) * of.out_row + first);
                let sum =
                    if of.accumulate { _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, to)) } else { sum };
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    }
}

/// Rows of a block of a product of few rows at most. Its columns are two, which share what is loaded of the left operand, and for
/// one row, which has nothing to share, one: memory is read fastest in the order in which it lies.
const STREAMED: usize = 4;

/// # Safety
/// As [`super::stream`], with lengths that were checked.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn stream(of: &Streamed<'_>) {
    let mut col = 0;
    while col < of.rows.len() {
        let width = if of.m > 1 && of.rows.len() - col > 1 { 2 } else { 1 };
        for row in (0..of.m).step_by(STREAMED) {
            // SAFETY: the block is inside the result.
            unsafe {
                match (width, of.m - row) {
                    (1, 1) => streamed::<1, 1>(of, row, col),
                    (1, 2) => streamed::<2, 1>(of, row, col),
                    (1, 3) => streamed::<3, 1>(of, row, col),
                    (1, _) => streamed::<STREAMED, 1>(of, row, col),
                    (_, 1) => streamed::<1, 2>(of, row, col),
                    (_, 2) => streamed::<2, 2>(of, row, col),
                    (_, 3) => streamed::<3, 2>(of, row, col),
                    (..) => streamed::<STREAMED, 2>(of, row, col),
                }
            }
        }
        col += width;
    }
}

/// `R` rows by `C` columns of a product of few rows.
///
/// # Safety
/// As [`stream`], for a block inside the result.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn streamed<const R: usize, const C: usize>(of: &Streamed<'_>, row: usize, col: usize) {
    let width = of.k.next_multiple_of(DEPTH);
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    // SAFETY: the rows of the left operand are whole vectors; the mask leaves out what is past a row of the weight. The
    // vectors of 32 bf16 have the bits of the integers that are loaded.
    unsafe {
        let x = of.x.as_ptr().add(row * width);
        let mut from = [std::ptr::null::<i16>(); C];
        for (from, row) in from.iter_mut().zip(&of.rows[col..col + C]) {
            *from = row.as_ptr().cast();
        }
        for at in (0..width).step_by(DEPTH) {
            let mut right = [_mm512_setzero_si512(); C];
            for (right, from) in right.iter_mut().zip(&from) {
                *right = if at + DEPTH <= of.k {
                    _mm512_loadu_si512(from.add(at).cast())
                } else {
                    _mm512_maskz_loadu_epi16((1u32 << (of.k - at)) - 1, from.add(at))
                };
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let left: __m512bh = std::mem::transmute(_mm512_loadu_si512(x.add(i * width + at).cast()));
                for (sum, right) in sums.iter_mut().zip(&right) {
                    *sum = _mm512_dpbf16_ps(*sum, left, std::mem::transmute::<__m512i, __m512bh>(*right));
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                let to = of.out.add((row + i) * of.out_row + col + j);
                let sum = _mm512_reduce_add_ps(*sum);
                *to = if of.add { *to + sum } else { sum };
            }
        }
    }
}
