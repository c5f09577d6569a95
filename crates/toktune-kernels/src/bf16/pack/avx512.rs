//! Packing with AVX-512: rows are read in vectors of 32 bf16 (rounded by VCVTNE2PS2BF16 where they are floats) and shuffled in
//! registers.

use super::{BLOCK, DEPTH, SIDE};
use crate::bf16::left_stride;
use crate::isa::{Isa, Level};
use crate::operand::{FloatRows, Rows};
use std::arch::x86_64::*;

/// Rows that this machine's AVX-512 can read as bf16.
#[derive(Clone, Copy)]
pub(super) struct Readable<'a>(Rows<'a>);

impl<'a> Readable<'a> {
    /// Floats are rounded by AVX512-BF16; what is stored in bf16 needs only AVX-512.
    pub(super) fn new(isa: Isa, rows: Rows<'a>) -> Option<Self> {
        rows.check();
        let readable = match rows {
            Rows::Floats(_) => isa.has_avx512_bf16(),
            Rows::Stored(_) => isa.level() >= Level::Avx512,
        };
        readable.then_some(Self(rows))
    }
}

/// A matrix that is read in vectors of bf16.
trait Source: Copy {
    /// A vector of [`DEPTH`] numbers of row `row`, from `at` on.
    ///
    /// # Safety
    /// They are inside the row, and the machine can read this source.
    unsafe fn whole(self, row: usize, at: usize) -> __m512i;
    /// The same of the first `n` numbers, the others zero.
    ///
    /// # Safety
    /// As for [`Source::whole`], of `n` numbers.
    unsafe fn first(self, row: usize, at: usize, n: usize) -> __m512i;
}

impl Source for FloatRows<'_> {
    #[inline(always)]
    unsafe fn whole(self, row: usize, at: usize) -> __m512i {
        // SAFETY: the caller's promise; a vector of bf16 has the bits of the integers.
        unsafe {
            let from = self.data.as_ptr().add(row * self.stride + at);
            let (low, high) = (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)));
            std::mem::transmute(_mm512_cvtne2ps_pbh(high, low))
        }
    }

    #[inline(always)]
    unsafe fn first(self, row: usize, at: usize, n: usize) -> __m512i {
        let mask = |n: usize| ((1u32 << n.min(16)) - 1) as u16;
        // SAFETY: the masks leave out what is past the `n` numbers.
        unsafe {
            let from = self.data.as_ptr().add(row * self.stride + at);
            let low = _mm512_maskz_loadu_ps(mask(n), from);
            let high = _mm512_maskz_loadu_ps(mask(n.saturating_sub(16)), from.wrapping_add(16));
            std::mem::transmute(_mm512_cvtne2ps_pbh(high, low))
        }
    }
}

#[derive(Clone, Copy)]
struct Stored<'a>(&'a [&'a [u8]]);

impl Source for Stored<'_> {
    #[inline(always)]
    unsafe fn whole(self, row: usize, at: usize) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_si512(self.0.get_unchecked(row).as_ptr().add(2 * at).cast()) }
    }

    #[inline(always)]
    unsafe fn first(self, row: usize, at: usize, n: usize) -> __m512i {
        // SAFETY: the mask leaves out what is past the `n` numbers.
        unsafe {
            let from = self.0.get_unchecked(row).as_ptr().add(2 * at);
            _mm512_maskz_loadu_epi16(((1u64 << n.min(DEPTH)) - 1) as u32, from.cast())
        }
    }
}

/// [`super::pack_left`].
///
/// # Safety
/// The machine has AVX-512 and AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn pack_left(rows: FloatRows<'_>, out: &mut [u16]) {
    let (height, k) = (rows.count, rows.width);
    for (block, to) in out.chunks_exact_mut(BLOCK).enumerate().take(k.div_ceil(DEPTH)) {
        let width = DEPTH.min(k - block * DEPTH);
        for (i, to) in to.chunks_exact_mut(DEPTH).enumerate().take(height) {
            // SAFETY: `width` floats of row `i`; 32 numbers of the block.
            unsafe {
                let x = if width == DEPTH {
                    rows.whole(i, block * DEPTH)
                } else {
                    rows.first(i, block * DEPTH, width)
                };
                _mm512_storeu_si512(to.as_mut_ptr().cast(), x);
            }
        }
        to[height * DEPTH..].fill(0);
    }
}

/// [`super::pack_left_transposed`]; `out` is the whole operand.
///
/// # Safety
/// The machine has AVX-512 and AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn pack_left_transposed(rows: FloatRows<'_>, out: &mut [u16]) {
    let (k, m) = (rows.count, rows.width);
    let stride = left_stride(k);
    for (first, out) in (0..m).step_by(2 * SIDE).zip(out.chunks_exact_mut(2 * stride)) {
        for block in 0..k.div_ceil(DEPTH) {
            // SAFETY: `pairs` reads inside the rows; both blocks lie inside `out`.
            unsafe {
                for (half, pairs) in pairs(rows, (k, m), block * DEPTH, first).into_iter().enumerate() {
                    let to = out[half * stride + block * BLOCK..][..BLOCK].as_mut_ptr();
                    for (i, row) in transpose(pairs).into_iter().enumerate() {
                        _mm512_storeu_si512(to.add(i * DEPTH).cast(), row);
                    }
                }
            }
        }
    }
}

/// [`super::pack_right_transposed`]; the sizes were checked.
///
/// # Safety
/// [`Readable`] says that the machine has the instructions.
pub(super) unsafe fn pack_right_transposed(rows: Readable<'_>, out: &mut [u16]) {
    let size = (rows.0.count(), rows.0.width());
    // SAFETY: passed on.
    unsafe {
        match rows.0 {
            Rows::Floats(rows) => floats_transposed(rows, size, out),
            Rows::Stored(rows) => stored_transposed(Stored(rows), size, out),
        }
    }
}

/// # Safety
/// The machine has AVX-512 and AVX512-BF16; as [`transposed_blocks`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn floats_transposed(rows: FloatRows<'_>, size: (usize, usize), out: &mut [u16]) {
    // SAFETY: passed on.
    unsafe { transposed_blocks(rows, size, out) }
}

/// # Safety
/// The machine has AVX-512; as [`transposed_blocks`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn stored_transposed(rows: Stored<'_>, size: (usize, usize), out: &mut [u16]) {
    // SAFETY: passed on.
    unsafe { transposed_blocks(rows, size, out) }
}

/// # Safety
/// Inside a function compiled for the source; `rows` has `width` rows of `k` numbers.
#[inline(always)]
unsafe fn transposed_blocks<S: Source>(rows: S, (width, k): (usize, usize), out: &mut [u16]) {
    for (block, out) in out.chunks_exact_mut(BLOCK).enumerate().take(k.div_ceil(DEPTH)) {
        let (at, depth) = (block * DEPTH, DEPTH.min(k - block * DEPTH));
        // SAFETY: `depth` numbers of each of the rows; the stores are the whole block.
        unsafe {
            let mut x = [_mm512_setzero_si512(); SIDE];
            if width == SIDE && depth == DEPTH {
                for (j, x) in x.iter_mut().enumerate() {
                    *x = rows.whole(j, at);
                }
            } else {
                for (j, x) in x.iter_mut().enumerate().take(width) {
                    *x = rows.first(j, at, depth);
                }
            }
            for (pair, x) in transpose(x).into_iter().enumerate() {
                _mm512_storeu_si512(out.as_mut_ptr().add(pair * 2 * SIDE).cast(), x);
            }
        }
    }
}

/// Sixteen by sixteen pairs, turned.
///
/// # Safety
/// Inside a function compiled for AVX-512.
#[inline(always)]
unsafe fn transpose(x: [__m512i; SIDE]) -> [__m512i; SIDE] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut a = x;
        for i in 0..8 {
            a[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
            a[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
        }
        let mut b = a;
        for i in 0..4 {
            b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
            b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
            b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
            b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
        }
        // now lane `l` of b[4 i + c] has rows 4 i .. 4 i + 4 of pair 4 l + c
        let mut out = b;
        for c in 0..4 {
            let low = [
                _mm512_shuffle_i32x4::<0x44>(b[c], b[4 + c]),
                _mm512_shuffle_i32x4::<0x44>(b[8 + c], b[12 + c]),
            ];
            let high = [
                _mm512_shuffle_i32x4::<0xee>(b[c], b[4 + c]),
                _mm512_shuffle_i32x4::<0xee>(b[8 + c], b[12 + c]),
            ];
            out[c] = _mm512_shuffle_i32x4::<0x88>(low[0], low[1]);
            out[4 + c] = _mm512_shuffle_i32x4::<0xdd>(low[0], low[1]);
            out[8 + c] = _mm512_shuffle_i32x4::<0x88>(high[0], high[1]);
            out[12 + c] = _mm512_shuffle_i32x4::<0xdd>(high[0], high[1]);
        }
        out
    }
}

/// [`super::pack_right`]; the sizes were checked.
///
/// # Safety
/// [`Readable`] says that the machine has the instructions.
pub(super) unsafe fn pack_right(rows: Readable<'_>, at: usize, k: usize, out: &mut [u16]) {
    let of = Part { height: rows.0.count(), n: rows.0.width(), at, k };
    // SAFETY: passed on.
    unsafe {
        match rows.0 {
            Rows::Floats(rows) => floats_interleaved(rows, of, out),
            Rows::Stored(rows) => stored_interleaved(Stored(rows), of, out),
        }
    }
}

/// `height` rows of `n` numbers from depth `at` of `k` on.
#[derive(Clone, Copy)]
struct Part {
    height: usize,
    n: usize,
    at: usize,
    k: usize,
}

/// # Safety
/// The machine has AVX-512 and AVX512-BF16; as [`interleaved_blocks`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn floats_interleaved(rows: FloatRows<'_>, of: Part, out: &mut [u16]) {
    // SAFETY: passed on.
    unsafe { interleaved_blocks(rows, of, out) }
}

/// # Safety
/// The machine has AVX-512; as [`interleaved_blocks`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn stored_interleaved(rows: Stored<'_>, of: Part, out: &mut [u16]) {
    // SAFETY: passed on.
    unsafe { interleaved_blocks(rows, of, out) }
}

/// Two blocks of 16 columns of a right operand at a time.
///
/// # Safety
/// Inside a function compiled for the source, with the rows that `of` says and room for all of the operand in `out`.
#[inline(always)]
unsafe fn interleaved_blocks<S: Source>(rows: S, of: Part, out: &mut [u16]) {
    let blocks = of.k.div_ceil(DEPTH);
    for block in 0..of.height.div_ceil(DEPTH) {
        for col in (0..of.n).step_by(2 * SIDE) {
            // SAFETY: `pairs` reads inside the rows. The two blocks lie inside `out`, whose width is an even number of them.
            unsafe {
                let to = out.as_mut_ptr().add((col / SIDE * blocks + of.at / DEPTH + block) * BLOCK);
                for (half, pairs) in
                    pairs(rows, (of.height, of.n), block * DEPTH, col).into_iter().enumerate()
                {
                    for (pair, x) in pairs.into_iter().enumerate() {
                        let to = to.add(half * blocks * BLOCK + pair * 2 * SIDE);
                        _mm512_storeu_si512(to.cast(), x);
                    }
                }
            }
        }
    }
}

/// The 32 rows from `row` on, two at a time with their numbers in turn: 16 columns from `col` on, and the 16 after them. What
/// lies outside the `height` rows of `width` is zero.
///
/// # Safety
/// Inside a function compiled for the source, which has so many rows; `col` is one of them.
#[inline(always)]
unsafe fn pairs<S: Source>(
    rows: S,
    (height, width): (usize, usize),
    row: usize,
    col: usize,
) -> [[__m512i; SIDE]; 2] {
    let low: [u16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * 32) as u16);
    let high: [u16; 32] = std::array::from_fn(|i| (16 + i / 2 + i % 2 * 32) as u16);
    let width = (width - col).min(2 * SIDE);
    // SAFETY: what is read is inside the rows: whole vectors only where there are 32 columns.
    unsafe {
        let (low, high) = (_mm512_loadu_si512(low.as_ptr().cast()), _mm512_loadu_si512(high.as_ptr().cast()));
        let read = |row: usize| {
            if row >= height {
                _mm512_setzero_si512()
            } else if width == 2 * SIDE {
                rows.whole(row, col)
            } else {
                rows.first(row, col, width)
            }
        };
        let mut out = [[_mm512_setzero_si512(); SIDE]; 2];
        let [first, second] = &mut out;
        for (pair, (first, second)) in first.iter_mut().zip(second).enumerate() {
            let (even, odd) = (read(row + 2 * pair), read(row + 2 * pair + 1));
            *first = _mm512_permutex2var_epi16(even, low, odd);
            *second = _mm512_permutex2var_epi16(even, high, odd);
        }
        out
    }
}
