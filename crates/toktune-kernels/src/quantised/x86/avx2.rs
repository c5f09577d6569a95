//! AVX2: products of bytes added in pairs to 16 bits, then in fours to 32; a run in a register.

use super::super::rounded::PADDED;
use super::unpack::Unpack;
use super::{CHUNK, F16c, Factors, RUN, multiply};
use crate::quantised::{Streamed, with_format};
use std::arch::x86_64::*;

/// Rows of activations that a row of the weight is unpacked for at a time: eight would have more sums than there are registers.
const TALL: usize = 4;

/// # Safety
/// As [`super::super::stream`], with lengths that were checked, on a machine with AVX2 and FMA.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::quantised) unsafe fn stream(of: &Streamed<'_>) {
    // SAFETY: passed on.
    unsafe { with_format!(of.dtype, F => all::<F>(of)) }
}

/// Runs a product.
///
/// # Safety
/// As [`stream`], inside a function that is compiled for its instructions; so for all below.
#[inline(always)]
unsafe fn all<F: Unpack>(of: &Streamed<'_>) {
    let mut factors = Factors::new();
    for (col, weights) in of.rows.iter().enumerate() {
        let mut row = 0;
        while row < of.x.m() {
            // SAFETY: passed on, for rows that there are.
            unsafe {
                row += match of.x.m() - row {
                    4.. => entries::<F, 4>(of, (row, col), weights, &mut factors),
                    2.. => entries::<F, 2>(of, (row, col), weights, &mut factors),
                    _ => entries::<F, 1>(of, (row, col), weights, &mut factors),
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
unsafe fn entries<F: Unpack, const R: usize>(
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
                run_of::<F, R>(numbers[0], (x, run), products, &mut sums, 0);
                run_of::<F, R>(numbers[1], (x, run + 1), products, &mut sums, 1);
            }
            if runs % 2 == 1 {
                run_of::<F, R>(F::one(blocks, runs - 1), (x, runs - 1), products, &mut sums, 0);
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

/// Adds what a run gives to one of the two sums of each row of activations.
///
/// # Safety
/// As [`entries`], for a run of the chunk.
#[inline(always)]
unsafe fn run_of<F: Unpack, const R: usize>(
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
            let dot = if F::SIGNED { dot(sizes, _mm256_sign_epi8(x, numbers)) } else { dot(numbers, x) };
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

/// Sums of products of four neighbours; two products of the weights' largest number, 128, and 127 fit into 16 bits.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn dot(weights: __m256i, x: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_madd_epi16(_mm256_maddubs_epi16(weights, x), _mm256_set1_epi16(1)) }
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
