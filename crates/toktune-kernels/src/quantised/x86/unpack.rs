//! The numbers of runs in registers: 32 bytes for a run.

use crate::quantised::formats::{Format, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use std::arch::x86_64::*;

/// Unpacks the runs of a format with AVX2.
pub(super) trait Unpack: Format {
    /// The numbers of run `run` of the blocks from `blocks` on.
    ///
    /// # Safety
    /// The run is there, and the machine has AVX2.
    unsafe fn one(blocks: *const u8, run: usize) -> __m256i;

    /// Those of runs `run`, which is even, and `run + 1`.
    ///
    /// # Safety
    /// As [`Unpack::one`], for both.
    #[inline(always)]
    unsafe fn two(blocks: *const u8, run: usize) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe { [Self::one(blocks, run), Self::one(blocks, run + 1)] }
    }
}

/// The low halves of 16 bytes, then the high ones.
///
/// # Safety
/// 16 bytes are readable, and the machine has AVX2; so for all below.
#[inline(always)]
unsafe fn nibbles(from: *const u8) -> __m256i {
    // SAFETY: the caller's promise; so for all below.
    unsafe {
        let low = _mm_loadu_si128(from.cast());
        let both = _mm256_inserti128_si256(_mm256_castsi128_si256(low), _mm_srli_epi16(low, 4), 1);
        _mm256_and_si256(both, _mm256_set1_epi8(15))
    }
}

/// 16 where one of 32 bits is set.
#[inline(always)]
unsafe fn sixteens(bits: *const u8) -> __m256i {
    // SAFETY: as above.
    unsafe {
        let all = _mm256_set1_epi32(bits.cast::<i32>().read_unaligned());
        let (first, second) = (0, 0x0101_0101_0101_0101);
        let spread = _mm256_setr_epi64x(first, second, 2 * second, 3 * second);
        let own = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let alone = _mm256_and_si256(_mm256_shuffle_epi8(all, spread), own);
        _mm256_and_si256(_mm256_cmpeq_epi8(alone, own), _mm256_set1_epi8(16))
    }
}

/// The low halves of 32 bytes, and the high ones.
#[inline(always)]
unsafe fn both_halves(bytes: __m256i) -> [__m256i; 2] {
    // SAFETY: as above.
    unsafe {
        let low = _mm256_set1_epi8(15);
        [_mm256_and_si256(bytes, low), _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low)]
    }
}

/// A run of a format whose blocks have one, by what makes it of a block.
macro_rules! unpack_blocks {
    ($($format:ident: $block:ident => $numbers:expr;)*) => {
        $(impl Unpack for $format {
            #[inline(always)]
            unsafe fn one(blocks: *const u8, run: usize) -> __m256i {
                // SAFETY: the block is there, and everything read lies inside it.
                unsafe {
                    let $block = blocks.add(run * Self::BYTES);
                    $numbers
                }
            }
        })*
    };
}

unpack_blocks! {
    Q8_0: block => _mm256_loadu_si256(block.add(2).cast());
    Q4_0: block => nibbles(block.add(2));
    Q4_1: block => nibbles(block.add(4));
    Q5_0: block => _mm256_or_si256(nibbles(block.add(6)), sixteens(block.add(2)));
    Q5_1: block => _mm256_or_si256(nibbles(block.add(8)), sixteens(block.add(4)));
}

/// Two runs of a format whose blocks have eight, by what makes them of a block and their place in it.
macro_rules! unpack_large_blocks {
    ($($format:ident: $block:ident, $run:ident => $numbers:expr;)*) => {
        $(impl Unpack for $format {
            #[inline(always)]
            unsafe fn one(blocks: *const u8, run: usize) -> __m256i {
                // SAFETY: a block has both.
                unsafe { Self::two(blocks, run - run % 2)[run % 2] }
            }

            #[inline(always)]
            unsafe fn two(blocks: *const u8, run: usize) -> [__m256i; 2] {
                // SAFETY: the block is there, and everything read lies inside it.
                unsafe {
                    let ($block, $run) = (blocks.add(run / 8 * Self::BYTES), run % 8);
                    $numbers
                }
            }
        })*
    };
}

unpack_large_blocks! {
    Q4K: block, run => both_halves(_mm256_loadu_si256(block.add(16 + 16 * run).cast()));
    Q5K: block, run => {
        let [low, high] = both_halves(_mm256_loadu_si256(block.add(48 + 16 * run).cast()));
        let fifth = _mm256_loadu_si256(block.add(16).cast());
        [_mm256_or_si256(low, fifth_bit(fifth, run)), _mm256_or_si256(high, fifth_bit(fifth, run + 1))]
    };
    Q6K: block, run => {
        // of each half, runs 0 and 1 are the low halves of 64 bytes, 2 and 3 the high ones
        let (low, high) = (block.add(64 * (run / 4)), block.add(128 + 32 * (run / 4)));
        [six_bits(low, high, run % 4, run % 4), six_bits(low.add(32), high, run % 4, run % 4 + 1)]
    };
}

/// 16 where bit `run` of a byte is set.
#[inline(always)]
unsafe fn fifth_bit(bits: __m256i, run: usize) -> __m256i {
    // SAFETY: as above. Shifted as 16-bit numbers: what comes from the byte beside is masked away.
    unsafe {
        let count = _mm_cvtsi32_si128((run as i32 - 4).abs());
        let shifted = if run < 4 { _mm256_sll_epi16(bits, count) } else { _mm256_srl_epi16(bits, count) };
        _mm256_and_si256(shifted, _mm256_set1_epi8(16))
    }
}

/// Four bits of each of 32 bytes, the high ones where `side` is 2, and above them bits `2 * run` and the next; less 32.
#[inline(always)]
unsafe fn six_bits(low: *const u8, high: *const u8, side: usize, run: usize) -> __m256i {
    // SAFETY: as above.
    unsafe {
        let low = _mm256_srl_epi16(_mm256_loadu_si256(low.cast()), _mm_cvtsi32_si128(2 * side as i32));
        let high = _mm256_srl_epi16(_mm256_loadu_si256(high.cast()), _mm_cvtsi32_si128(2 * run as i32));
        let high = _mm256_slli_epi16(_mm256_and_si256(high, _mm256_set1_epi8(3)), 4);
        let both = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(15)), high);
        _mm256_sub_epi8(both, _mm256_set1_epi8(32))
    }
}
