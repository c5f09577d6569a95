//! The numbers of two runs in a register of 512 bits, and their factors, sixteen blocks at a time.

use super::super::unpack::Unpack;
use crate::quantised::CHUNK;
use crate::quantised::formats::{Format, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use std::arch::x86_64::*;

/// Unpacks the runs of a format with AVX-512.
pub(super) trait Wide: Unpack {
    /// The numbers of runs `run`, which is even, and `run + 1` of the blocks from `blocks` on.
    ///
    /// # Safety
    /// Both are there, and the machine has AVX-512 with bytes; so for all below.
    unsafe fn pair(blocks: *const u8, run: usize) -> __m512i;

    /// The scales and minima of the runs of at most [`CHUNK`] runs of whole blocks.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn factors_of(blocks: &[u8], scales: &mut [f32; 2 * CHUNK], minima: &mut [f32; CHUNK]);
}

impl Wide for Q4K {
    #[inline(always)]
    unsafe fn pair(blocks: *const u8, run: usize) -> __m512i {
        // SAFETY: the block is there, and everything read lies inside it; so for all below.
        unsafe { low_and_high(blocks.add(run / 8 * Self::BYTES + 16 + 16 * (run % 8))) }
    }

    #[inline(always)]
    unsafe fn factors_of(blocks: &[u8], scales: &mut [f32; 2 * CHUNK], minima: &mut [f32; CHUNK]) {
        // SAFETY: the caller's promise.
        unsafe { of_eights::<144>(blocks, scales, minima) };
    }
}

impl Wide for Q5K {
    #[inline(always)]
    unsafe fn pair(blocks: *const u8, run: usize) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let (block, run) = (blocks.add(run / 8 * Self::BYTES), run % 8);
            let numbers = low_and_high(block.add(48 + 16 * run));
            // bit `run` of each byte for the first run, the next for the second
            let fifth = _mm512_broadcast_i64x4(_mm256_loadu_si256(block.add(16).cast()));
            let bits = halves(_mm256_set1_epi8(1), _mm256_set1_epi8(2));
            let bits = _mm512_sll_epi16(bits, _mm_cvtsi32_si128(run as i32));
            let is_set = _mm512_test_epi8_mask(fifth, bits);
            _mm512_mask_add_epi8(numbers, is_set, numbers, _mm512_set1_epi8(16))
        }
    }

    #[inline(always)]
    unsafe fn factors_of(blocks: &[u8], scales: &mut [f32; 2 * CHUNK], minima: &mut [f32; CHUNK]) {
        // SAFETY: the caller's promise.
        unsafe { of_eights::<176>(blocks, scales, minima) };
    }
}

impl Wide for Q6K {
    #[inline(always)]
    unsafe fn pair(blocks: *const u8, run: usize) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let (block, half, run) = (blocks.add(run / 8 * Self::BYTES), run / 4 % 2, run as i64 % 4);
            // of each half, runs 0 and 1 are the low halves of 64 bytes, 2 and 3 the high ones
            let low = _mm512_loadu_si512(block.add(64 * half).cast());
            let low = _mm512_srlv_epi64(low, _mm512_set1_epi64(2 * run));
            let high = _mm512_broadcast_i64x4(_mm256_loadu_si256(block.add(128 + 32 * half).cast()));
            let (first, second) = (2 * run, 2 * run + 2);
            let shifts = _mm512_set_epi64(second, second, second, second, first, first, first, first);
            let high = _mm512_and_si512(_mm512_srlv_epi64(high, shifts), _mm512_set1_epi8(3));
            let both =
                _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi8(15)), _mm512_slli_epi64::<4>(high));
            _mm512_sub_epi8(both, _mm512_set1_epi8(32))
        }
    }

    #[inline(always)]
    unsafe fn factors_of(blocks: &[u8], scales: &mut [f32; 2 * CHUNK], _: &mut [f32; CHUNK]) {
        for (block, scales) in blocks.as_chunks::<210>().0.iter().zip(scales.as_chunks_mut::<16>().0) {
            // SAFETY: 16 bytes of the block, and as many scales.
            unsafe {
                let of = _mm512_cvtepi8_epi32(_mm_loadu_si128(block.as_ptr().add(192).cast()));
                let d = _mm512_set1_ps(half(block.as_ptr().add(208)));
                _mm512_storeu_ps(scales.as_mut_ptr(), _mm512_mul_ps(d, _mm512_cvtepi32_ps(of)));
            }
        }
    }
}

/// The low halves of 32 bytes, and the high ones.
///
/// # Safety
/// 32 bytes are readable, and the machine has AVX-512.
#[inline(always)]
unsafe fn low_and_high(bytes: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let bytes = _mm512_broadcast_i64x4(_mm256_loadu_si256(bytes.cast()));
        let shifts = _mm512_set_epi64(4, 4, 4, 4, 0, 0, 0, 0);
        _mm512_and_si512(_mm512_srlv_epi64(bytes, shifts), _mm512_set1_epi8(15))
    }
}

/// A number of half precision.
///
/// # Safety
/// Two bytes are readable, and the machine has F16C.
#[inline(always)]
unsafe fn half(bytes: *const u8) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = bytes.cast::<u16>().read_unaligned();
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
    }
}

/// The factors of blocks that begin as those of Q4_K and Q5_K do: six bits a scale and a minimum, of eight runs each. The first four
/// of each have a byte with two bits to spare, in which lie the highest two of the others.
///
/// # Safety
/// The machine has AVX2 and F16C.
#[inline(always)]
unsafe fn of_eights<const BYTES: usize>(
    blocks: &[u8],
    scales: &mut [f32; 2 * CHUNK],
    minima: &mut [f32; CHUNK],
) {
    let to = scales.as_chunks_mut::<8>().0.iter_mut().zip(minima.as_chunks_mut::<8>().0);
    for (block, (scales, minima)) in blocks.as_chunks::<BYTES>().0.iter().zip(to) {
        let four = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        let (first, second, rest) = (four(4), four(8), four(12));
        let above = |of: u32| (of >> 6 & 0x0303_0303) << 4;
        let both = |low: u32, high: u32| (u64::from(high) << 32 | u64::from(low)) as i64;
        let of_scales = both(first & 0x3F3F_3F3F, rest & 0x0F0F_0F0F | above(first));
        let of_minima = both(second & 0x3F3F_3F3F, rest >> 4 & 0x0F0F_0F0F | above(second));
        // SAFETY: four bytes of the block, and eight factors each.
        unsafe {
            let times = |bytes: i64, by: f32| {
                let numbers = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes)));
                _mm256_mul_ps(_mm256_set1_ps(by), numbers)
            };
            let (d, d_min) = (half(block.as_ptr()), half(block.as_ptr().add(2)));
            _mm256_storeu_ps(scales.as_mut_ptr(), times(of_scales, d));
            _mm256_storeu_ps(minima.as_mut_ptr(), times(of_minima, -d_min));
        }
    }
}

/// Formats with a run a block, by their bytes, what they take off their numbers where they have no minima, and what makes
/// two runs of two blocks.
macro_rules! wide_blocks {
    ($($format:ident, $bytes:literal, $less:expr => $first:ident, $second:ident => $numbers:expr;)*) => {
        $(impl Wide for $format {
            #[inline(always)]
            unsafe fn pair(blocks: *const u8, run: usize) -> __m512i {
                // SAFETY: both blocks are there, and everything read lies inside them.
                unsafe {
                    let $first = blocks.add(run * $bytes);
                    let $second = $first.add($bytes);
                    $numbers
                }
            }

            #[inline(always)]
            unsafe fn factors_of(blocks: &[u8], scales: &mut [f32; 2 * CHUNK], minima: &mut [f32; CHUNK]) {
                // SAFETY: the caller's promise.
                unsafe { gathered::<$bytes>(blocks, $less, scales, minima) };
            }
        })*
    };
}

wide_blocks! {
    Q8_0, 34, Some(0.0) => first, second => {
        halves(_mm256_loadu_si256(first.add(2).cast()), _mm256_loadu_si256(second.add(2).cast()))
    };
    Q4_0, 18, Some(8.0) => first, second => nibbles(first.add(2), second.add(2));
    Q4_1, 20, None => first, second => nibbles(first.add(4), second.add(4));
    Q5_0, 22, Some(16.0) => first, second => {
        with_fifth(nibbles(first.add(6), second.add(6)), first.add(2), second.add(2))
    };
    Q5_1, 24, None => first, second => {
        with_fifth(nibbles(first.add(8), second.add(8)), first.add(4), second.add(4))
    };
}

/// A mask of the first `count` of sixteen.
#[inline(always)]
pub(super) fn first(count: usize) -> __mmask16 {
    if count >= 16 { u16::MAX } else { (1 << count) - 1 }
}

/// The two numbers of half precision that blocks begin with, a block a pair: the first is the scale, the second the minimum,
/// unless the minimum is the scale times a number. Scales and minima after the last block of sixteen are zero.
///
/// # Safety
/// The machine has AVX-512.
#[inline(always)]
unsafe fn gathered<const BYTES: usize>(
    blocks: &[u8],
    less: Option<f32>,
    scales: &mut [f32; 2 * CHUNK],
    minima: &mut [f32; CHUNK],
) {
    let count = blocks.len() / BYTES;
    // SAFETY: blocks have four bytes, and only blocks that there are are read; a chunk has room for sixteens.
    unsafe {
        let places = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        let places = _mm512_mullo_epi32(places, _mm512_set1_epi32(BYTES as i32));
        for at in (0..count.min(CHUNK)).step_by(16) {
            let from = blocks.as_ptr().add(at * BYTES).cast();
            let zero = _mm512_setzero_si512();
            let both = _mm512_mask_i32gather_epi32::<1>(zero, first(count - at), places, from);
            let scale = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both));
            let minimum = match less {
                Some(by) => _mm512_mul_ps(scale, _mm512_set1_ps(-by)),
                None => _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(both))),
            };
            _mm512_storeu_ps(scales.as_mut_ptr().add(at), scale);
            _mm512_storeu_ps(minima.as_mut_ptr().add(at), minimum);
        }
    }
}

/// One register of two.
///
/// # Safety
/// The machine has AVX-512; so for all below.
#[inline(always)]
unsafe fn halves(first: __m256i, second: __m256i) -> __m512i {
    // SAFETY: the caller's promise; so for all below.
    unsafe { _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second) }
}

/// The low halves of 16 bytes, then the high ones, of either.
///
/// # Safety
/// 16 bytes are readable from both.
#[inline(always)]
unsafe fn nibbles(first: *const u8, second: *const u8) -> __m512i {
    // SAFETY: as above.
    unsafe {
        let low = _mm256_castsi128_si256(_mm_loadu_si128(first.cast()));
        let both = _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(second.cast()));
        let twice = _mm512_set_epi64(3, 2, 3, 2, 1, 0, 1, 0);
        let twice = _mm512_permutexvar_epi64(twice, _mm512_castsi256_si512(both));
        let shifts = _mm512_set_epi64(4, 4, 0, 0, 4, 4, 0, 0);
        _mm512_and_si512(_mm512_srlv_epi64(twice, shifts), _mm512_set1_epi8(15))
    }
}

/// 16 more where one of 32 bits of either is set.
///
/// # Safety
/// Four bytes are readable from both.
#[inline(always)]
unsafe fn with_fifth(numbers: __m512i, first: *const u8, second: *const u8) -> __m512i {
    // SAFETY: as above.
    unsafe {
        let bits = |from: *const u8| u64::from(from.cast::<u32>().read_unaligned());
        let bits = bits(first) | bits(second) << 32;
        _mm512_mask_add_epi8(numbers, bits, numbers, _mm512_set1_epi8(16))
    }
}
