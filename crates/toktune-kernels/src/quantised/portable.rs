//! The plain loops: what every instruction set can run, and what the others are held against.

use super::formats::{Format, Halves};
use super::{CHUNK, RUN, Streamed, with_format};
use crate::blocks::half;

struct Plain;

impl Halves for Plain {
    #[inline(always)]
    unsafe fn convert(bits: [u16; 8]) -> [f32; 8] {
        bits.map(half)
    }
}

/// # Safety
/// As [`super::stream`], with lengths that were checked.
pub(super) unsafe fn stream(of: &Streamed<'_>) {
    for (col, weights) in of.rows.iter().enumerate() {
        for row in 0..of.x.m() {
            let sum = with_format!(of.dtype, F => entry::<F>(of, row, weights));
            // SAFETY: the entry is inside the result; the caller's promise.
            unsafe { of.write(row, col, [sum]) };
        }
    }
}

/// What a row of activations gives with a row of the weight.
fn entry<F: Format>(of: &Streamed<'_>, row: usize, weights: &[u8]) -> f32 {
    let (numbers, (factors, sums)) = (of.x.numbers(row), of.x.factors(row));
    let (mut scales, mut minima) = ([0.0; 2 * CHUNK], [0.0; CHUNK]);
    let mut sum = 0.0;
    for (chunk, blocks) in weights.chunks(CHUNK / F::RUNS * F::BYTES).enumerate() {
        // SAFETY: any machine can run the plain conversion.
        unsafe { F::factors::<Plain>(blocks, &mut scales, &mut minima) };
        for (block, bytes) in blocks.chunks_exact(F::BYTES).enumerate() {
            for run in 0..F::RUNS {
                let at = block * F::RUNS + run;
                let all = chunk * CHUNK + at;
                let dots = dots::<F>(&F::numbers(bytes, run), &numbers[all * RUN..][..RUN]);
                let scales = &scales[at * F::SCALES..][..F::SCALES];
                sum += dots
                    .iter()
                    .zip(scales)
                    .map(|(dot, scale)| *dot as f32 * (scale * factors[all]))
                    .sum::<f32>();
                sum += if F::SIGNED { 0.0 } else { minima[at] * sums[all] };
            }
        }
    }
    sum
}

/// The sums of products of a run, one for each scale.
fn dots<F: Format>(weights: &[i8; RUN], x: &[i8]) -> [i32; 2] {
    let mut dots = [0; 2];
    let part = RUN / F::SCALES;
    for (dot, (weights, x)) in dots.iter_mut().zip(weights.chunks_exact(part).zip(x.chunks_exact(part))) {
        *dot = weights.iter().zip(x).map(|(w, x)| *w as i32 * *x as i32).sum();
    }
    dots
}
