//! What the blocks of each type say: the factors of their runs, and their numbers.

use super::{CHUNK, RUN};
use crate::blocks::{bytes_at, half_at, nibbles, scales_and_minima, with_fifth_bits};

/// A type whose weights are `scale * number + minimum`, with one scale and one minimum for a run of 32.
pub(super) trait Format {
    /// Runs of a block.
    const RUNS: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Scales that a run has: one, or one for either half.
    const SCALES: usize = 1;
    /// Whether numbers may be below zero, -128 to 127, and there are no minima; else they are 0 to 63.
    const SIGNED: bool = false;

    /// The scales and minima of the runs of at most [`CHUNK`] runs of whole blocks.
    ///
    /// # Safety
    /// As [`Halves::convert`].
    unsafe fn factors<H: Halves>(blocks: &[u8], scales: &mut [f32; 2 * CHUNK], minima: &mut [f32; CHUNK]);

    /// The numbers of a run of a block.
    fn numbers(block: &[u8], run: usize) -> [i8; RUN];
}

/// Converts half-precision numbers.
pub(super) trait Halves {
    /// Eight at a time.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn convert(bits: [u16; 8]) -> [f32; 8];
}

/// The half-precision numbers at byte `at` of each block; the last eight is filled up with the last block's.
///
/// Eight at once and nothing by a loop: what is written a number at a time and read as a vector has to wait for the writing.
/// Two numbers are not read together either, since what takes them apart again is not kept in registers.
#[inline(always)]
unsafe fn halves<const BYTES: usize, H: Halves>(blocks: &[u8], at: usize, out: &mut [f32]) {
    let (eights, rest) = blocks.as_chunks::<BYTES>().0.as_chunks::<8>();
    let mut out = out.as_chunks_mut::<8>().0.iter_mut();
    let bits = |block: &[u8; BYTES]| u16::from_le_bytes(*bytes_at(block, at));
    for (eight, out) in eights.iter().zip(&mut out) {
        // SAFETY: the caller's promise.
        *out = unsafe { H::convert(eight.each_ref().map(bits)) };
    }
    if let Some(last) = rest.last()
        && let Some(out) = out.next()
    {
        // SAFETY: as above.
        *out = unsafe { H::convert(std::array::from_fn(|i| bits(rest.get(i).unwrap_or(last)))) };
    }
}

/// Minima of numbers that are to be less `by`.
#[inline(always)]
fn less(by: f32, scales: &[f32; 2 * CHUNK], minima: &mut [f32; CHUNK]) {
    for (minimum, scale) in minima.iter_mut().zip(scales) {
        *minimum = -by * scale;
    }
}

/// As [`crate::blocks`] has it; so for all.
pub(super) struct Q8_0;

impl Format for Q8_0 {
    const RUNS: usize = 1;
    const BYTES: usize = 34;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn factors<H: Halves>(blocks: &[u8], scales: &mut [f32; 2 * CHUNK], _: &mut [f32; CHUNK]) {
        // SAFETY: the caller's promise.
        unsafe { halves::<34, H>(blocks, 0, scales) };
    }

    #[inline(always)]
    fn numbers(block: &[u8], _: usize) -> [i8; RUN] {
        bytes_at::<RUN>(block, 2).map(|x| x as i8)
    }
}

/// Scale, halves of bytes, less 8.
pub(super) struct Q4_0;

impl Format for Q4_0 {
    const RUNS: usize = 1;
    const BYTES: usize = 18;

    #[inline(always)]
    unsafe fn factors<H: Halves>(blocks: &[u8], scales: &mut [f32; 2 * CHUNK], minima: &mut [f32; CHUNK]) {
        // SAFETY: the caller's promise.
        unsafe { halves::<18, H>(blocks, 0, scales) };
        less(8.0, scales, minima);
    }

    #[inline(always)]
    fn numbers(block: &[u8], _: usize) -> [i8; RUN] {
        nibbles(bytes_at(block, 2)).map(|x| x as i8)
    }
}

/// Scale, minimum, halves of bytes.
pub(super) struct Q4_1;

impl Format for Q4_1 {
    const RUNS: usize = 1;
    const BYTES: usize = 20;

    #[inline(always)]
    unsafe fn factors<H: Halves>(blocks: &[u8], scales: &mut [f32; 2 * CHUNK], minima: &mut [f32; CHUNK]) {
        // SAFETY: the caller's promise.
        unsafe {
            halves::<20, H>(blocks, 0, scales);
            halves::<20, H>(blocks, 2, minima);
        }
    }

    #[inline(always)]
    fn numbers(block: &[u8], _: usize) -> [i8; RUN] {
        nibbles(bytes_at(block, 4)).map(|x| x as i8)
    }
}

/// Scale, fifth bits, halves of bytes, less 16.
pub(super) struct Q5_0;

impl Format for Q5_0 {
    const RUNS: usize = 1;
    const BYTES: usize = 22;

    #[inline(always)]
    unsafe fn factors<H: Halves>(blocks: &[u8], scales: &mut [f32; 2 * CHUNK], minima: &mut [f32; CHUNK]) {
        // SAFETY: the caller's promise.
        unsafe { halves::<22, H>(blocks, 0, scales) };
        less(16.0, scales, minima);
    }

    #[inline(always)]
    fn numbers(block: &[u8], _: usize) -> [i8; RUN] {
        with_fifth_bits(bytes_at(block, 6), bytes_at(block, 2)).map(|x| x as i8)
    }
}

/// Scale, minimum, fifth bits, halves of bytes.
pub(super) struct Q5_1;

impl Format for Q5_1 {
    const RUNS: usize = 1;
    const BYTES: usize = 24;

    #[inline(always)]
    unsafe fn factors<H: Halves>(blocks: &[u8], scales: &mut [f32; 2 * CHUNK], minima: &mut [f32; CHUNK]) {
        // SAFETY: the caller's promise.
        unsafe {
            halves::<24, H>(blocks, 0, scales);
            halves::<24, H>(blocks, 2, minima);
        }
    }

    #[inline(always)]
    fn numbers(block: &[u8], _: usize) -> [i8; RUN] {
        with_fifth_bits(bytes_at(block, 8), bytes_at(block, 4)).map(|x| x as i8)
    }
}

/// The factors of blocks that begin as those of Q4_K and Q5_K do.
#[inline(always)]
fn k_factors<const BYTES: usize>(blocks: &[u8], scales: &mut [f32; 2 * CHUNK], minima: &mut [f32; CHUNK]) {
    let to = scales.as_chunks_mut::<8>().0.iter_mut().zip(minima.as_chunks_mut::<8>().0);
    for (block, (scales, minima)) in blocks.as_chunks::<BYTES>().0.iter().zip(to) {
        let (d, d_min) = (half_at(block, 0), half_at(block, 2));
        let (of_scales, of_minima) = scales_and_minima(block, 4);
        for run in 0..8 {
            scales[run] = d * of_scales[run] as f32;
            minima[run] = -d_min * of_minima[run] as f32;
        }
    }
}

/// Of each 32 bytes, the low halves are a run and the high ones the next.
#[inline(always)]
fn k_nibbles(block: &[u8], at: usize, run: usize) -> [u8; RUN] {
    bytes_at::<RUN>(block, at + 32 * (run / 2)).map(|q| q >> (4 * (run % 2)) & 15)
}

/// Scale, scale of the minima, packed scales and minima, halves of bytes.
pub(super) struct Q4K;

impl Format for Q4K {
    const RUNS: usize = 8;
    const BYTES: usize = 144;

    #[inline(always)]
    unsafe fn factors<H: Halves>(blocks: &[u8], scales: &mut [f32; 2 * CHUNK], minima: &mut [f32; CHUNK]) {
        k_factors::<144>(blocks, scales, minima);
    }

    #[inline(always)]
    fn numbers(block: &[u8], run: usize) -> [i8; RUN] {
        k_nibbles(block, 16, run).map(|q| q as i8)
    }
}

/// As Q4_K, with fifth bits before the halves: bit `r` of byte `i` belongs to weight `i` of run `r`.
pub(super) struct Q5K;

impl Format for Q5K {
    const RUNS: usize = 8;
    const BYTES: usize = 176;

    #[inline(always)]
    unsafe fn factors<H: Halves>(blocks: &[u8], scales: &mut [f32; 2 * CHUNK], minima: &mut [f32; CHUNK]) {
        k_factors::<176>(blocks, scales, minima);
    }

    #[inline(always)]
    fn numbers(block: &[u8], run: usize) -> [i8; RUN] {
        let (low, fifth) = (k_nibbles(block, 48, run), bytes_at::<RUN>(block, 16));
        std::array::from_fn(|i| (low[i] | (fifth[i] >> run & 1) << 4) as i8)
    }
}

/// Halves of bytes, two bits above each, scales of 16 weights, the scale of the scales; less 32.
pub(super) struct Q6K;

impl Format for Q6K {
    const RUNS: usize = 8;
    const BYTES: usize = 210;
    const SCALES: usize = 2;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn factors<H: Halves>(blocks: &[u8], scales: &mut [f32; 2 * CHUNK], _: &mut [f32; CHUNK]) {
        let to = scales.as_chunks_mut::<16>().0;
        for (block, scales) in blocks.as_chunks::<210>().0.iter().zip(to) {
            let d = half_at(block, 208);
            for (scale, of) in scales.iter_mut().zip(bytes_at::<16>(block, 192)) {
                *scale = d * (*of as i8) as f32;
            }
        }
    }

    #[inline(always)]
    fn numbers(block: &[u8], run: usize) -> [i8; RUN] {
        let (half, run) = (run / 4, run % 4);
        let low = bytes_at::<RUN>(block, 64 * half + 32 * (run % 2));
        let high = bytes_at::<RUN>(block, 128 + 32 * half);
        std::array::from_fn(|i| {
            let q = (low[i] >> (4 * (run / 2)) & 15) | (high[i] >> (2 * run) & 3) << 4;
            q as i8 - 32
        })
    }
}
