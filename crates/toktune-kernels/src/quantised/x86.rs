//! The loops of the kernels for x86: two runs of a row of the weight at a time, unpacked once for all rows of activations.

mod avx2;
mod unpack;
mod vnni;

pub(super) use avx2::stream as stream_avx2;
pub(super) use vnni::stream as stream_vnni;

use super::formats::Halves;
use super::rounded::PADDED;
use super::{CHUNK, RUN, Streamed};
use std::arch::x86_64::*;
use unpack::Unpack;

/// The product of a run in integers.
trait Dot {
    /// Sums of products of four neighbours, for numbers of 0 to 63.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn unsigned(weights: __m256i, x: __m256i) -> __m256i;

    /// Sums of products of four neighbours, for any numbers; `sizes` are those of the weights without their signs.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn signed(sizes: __m256i, weights: __m256i, x: __m256i) -> __m256i;
}

/// The machine's own conversion, which every machine with AVX2 has.
struct F16c;

impl Halves for F16c {
    #[inline(always)]
    unsafe fn convert(bits: [u16; 8]) -> [f32; 8] {
        let mut out = [0.0; 8];
        // SAFETY: the caller's promise; eight numbers each.
        unsafe {
            let bits = _mm_loadu_si128(bits.as_ptr().cast());
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(bits));
        }
        out
    }
}

/// What is known of a chunk of runs: made once for all rows of the weight, for it is larger than what a short one needs of it.
struct Factors<const TALL: usize> {
    scales: [f32; 2 * CHUNK],
    minima: [f32; CHUNK],
    /// The scales times the factors of each row of activations.
    products: [[f32; 2 * CHUNK]; TALL],
}

/// Runs a product with at most `TALL` rows of activations at a time.
///
/// # Safety
/// As [`super::stream`], with lengths that were checked, inside a function compiled for the instructions of `D`, AVX2,
/// FMA and F16C among them.
#[inline(always)]
unsafe fn all<F: Unpack, D: Dot, const TALL: usize>(of: &Streamed<'_>) {
    let mut factors =
        Factors { scales: [0.0; 2 * CHUNK], minima: [0.0; CHUNK], products: [[0.0; 2 * CHUNK]; TALL] };
    for (col, weights) in of.rows.iter().enumerate() {
        let mut row = 0;
        while row < of.x.m() {
            // SAFETY: passed on, for rows that there are.
            unsafe {
                row += match of.x.m() - row {
                    8.. if TALL >= 8 => entries::<F, D, 8, TALL>(of, (row, col), weights, &mut factors),
                    4.. => entries::<F, D, 4, TALL>(of, (row, col), weights, &mut factors),
                    2.. => entries::<F, D, 2, TALL>(of, (row, col), weights, &mut factors),
                    _ => entries::<F, D, 1, TALL>(of, (row, col), weights, &mut factors),
                };
            }
        }
    }
}

/// What `R` rows of activations give with a row of the weight; `R`.
///
/// # Safety
/// As [`all`], for rows from `row` on that there are.
#[inline(always)]
unsafe fn entries<F: Unpack, D: Dot, const R: usize, const TALL: usize>(
    of: &Streamed<'_>,
    (row, col): (usize, usize),
    weights: &[u8],
    factors: &mut Factors<TALL>,
) -> usize {
    let Factors { scales, minima, products } = factors;
    // SAFETY: a row has as many whole blocks as the activations have runs, and the factors are padded.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 2]; R];
        for (chunk, blocks) in weights.chunks(CHUNK / F::RUNS * F::BYTES).enumerate() {
            let (first, runs) = (chunk * CHUNK, blocks.len() / F::BYTES * F::RUNS);
            F::factors::<F16c>(blocks, scales, minima);
            let padded = runs.next_multiple_of(PADDED);
            minima[runs..padded].fill(0.0);
            let mut x = [std::ptr::null(); R];
            for (i, (x, sums)) in x.iter_mut().zip(&mut sums).enumerate() {
                *x = of.x.numbers(row + i).as_ptr().add(first * RUN);
                let (factors, of_runs) = of.x.factors(row + i);
                let (factors, of_runs) = (&factors[first..][..padded], &of_runs[first..][..padded]);
                multiply::<F>(scales, factors, &mut products[i]);
                if !F::SIGNED {
                    for at in (0..padded).step_by(PADDED) {
                        let minima = _mm256_loadu_ps(minima.as_ptr().add(at));
                        sums[0] = _mm256_fmadd_ps(minima, _mm256_loadu_ps(of_runs.as_ptr().add(at)), sums[0]);
                    }
                }
            }
            let blocks = blocks.as_ptr();
            for run in (0..runs - runs % 2).step_by(2) {
                let numbers = F::two(blocks, run);
                run_of::<F, D, R>(numbers[0], (x, run), products, &mut sums, 0);
                run_of::<F, D, R>(numbers[1], (x, run + 1), products, &mut sums, 1);
            }
            if runs % 2 == 1 {
                run_of::<F, D, R>(F::one(blocks, runs - 1), (x, runs - 1), products, &mut sums, 0);
            }
        }
        let mut totals = [0.0; R];
        for (total, [even, odd]) in totals.iter_mut().zip(sums) {
            *total = sum(_mm256_add_ps(even, odd));
        }
        of.write(row, col, totals);
    }
    R
}

/// The scales of a chunk times the factors of the activations.
#[inline(always)]
fn multiply<F: Unpack>(scales: &[f32; 2 * CHUNK], factors: &[f32], products: &mut [f32; 2 * CHUNK]) {
    if F::SCALES == 1 {
        for (product, (scale, factor)) in products.iter_mut().zip(scales.iter().zip(factors)) {
            *product = scale * factor;
        }
    } else {
        let each = products.as_chunks_mut::<2>().0.iter_mut().zip(scales.as_chunks::<2>().0);
        for ((product, scale), factor) in each.zip(factors) {
            *product = [scale[0] * factor, scale[1] * factor];
        }
    }
}

/// Adds what a run gives to one of the two sums of each row of activations.
///
/// # Safety
/// As [`entries`], for a run of the chunk.
#[inline(always)]
unsafe fn run_of<F: Unpack, D: Dot, const R: usize>(
    numbers: __m256i,
    (x, run): ([*const i8; R], usize),
    products: &[[f32; 2 * CHUNK]],
    sums: &mut [[__m256; 2]; R],
    which: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let sizes = _mm256_abs_epi8(numbers);
        for (i, sums) in sums.iter_mut().enumerate() {
            let x = _mm256_loadu_si256(x[i].add(run * RUN).cast());
            let dot = if F::SIGNED { D::signed(sizes, numbers, x) } else { D::unsigned(numbers, x) };
            let scale = products.get_unchecked(i).as_ptr().add(run * F::SCALES);
            let scale = if F::SCALES == 1 {
                _mm256_broadcast_ss(&*scale)
            } else {
                // the first of two in the lower half, the second in the upper one
                let both = _mm256_castpd_ps(_mm256_broadcast_sd(&*scale.cast::<f64>()));
                _mm256_permutevar_ps(both, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1))
            };
            sums[which] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, sums[which]);
        }
    }
}

/// The sum of the entries.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn sum(x: __m256) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
    }
}
