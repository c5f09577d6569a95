//! AVX512-VNNI: two runs in a register of 512 bits, whose products of bytes one instruction adds in fours to 32 bits.

mod wide;

use super::super::rounded::PADDED;
use super::{CHUNK, Factors, RUN, multiply};
use crate::quantised::{Streamed, with_format};
use std::arch::x86_64::*;
use wide::Wide;

/// Rows of activations that a row of the weight is unpacked for at a time.
const TALL: usize = 8;

/// Bytes that are asked for before they are needed. Rows mostly lie one behind the other; the processor alone looks no further
/// than a page, and begins anew with every weight.
const AHEAD: usize = 2048;

/// # Safety
/// As [`super::super::stream`], with lengths that were checked, on a machine with AVX-512 and AVX512-VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(in crate::quantised) unsafe fn stream(of: &Streamed<'_>) {
    // SAFETY: passed on.
    unsafe { with_format!(of.dtype, F => all::<F>(of)) }
}

/// Runs a product.
///
/// # Safety
/// As [`stream`], inside a function that is compiled for its instructions; so for all below.
#[inline(always)]
unsafe fn all<F: Wide>(of: &Streamed<'_>) {
    let mut factors = Factors::new();
    for (col, weights) in of.rows.iter().enumerate() {
        for at in (0..weights.len()).step_by(64) {
            // SAFETY: nothing is read by it, wherever it leads.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(weights.as_ptr().wrapping_add(AHEAD + at).cast()) };
        }
        let mut row = 0;
        while row < of.x.m() {
            // SAFETY: passed on, for rows that there are.
            unsafe {
                row += match of.x.m() - row {
                    8.. => entries::<F, 8>(of, (row, col), weights, &mut factors),
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
unsafe fn entries<F: Wide, const R: usize>(
    of: &Streamed<'_>,
    (row, col): (usize, usize),
    weights: &[u8],
    factors: &mut Factors<TALL>,
) -> usize {
    let Factors { scales, minima, products } = factors;
    // SAFETY: a row has as many whole blocks as the activations have runs; factors are read behind their masks or padding.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        for (chunk, blocks) in weights.chunks(CHUNK / F::RUNS * F::BYTES).enumerate() {
            let (first, runs) = (chunk * CHUNK, blocks.len() / F::BYTES * F::RUNS);
            F::factors_of(blocks, scales, minima);
            let padded = runs.next_multiple_of(PADDED);
            let mut x = [std::ptr::null(); R];
            for (i, (x, sums)) in x.iter_mut().zip(&mut sums).enumerate() {
                *x = of.x.numbers(row + i).as_ptr().add(first * RUN);
                let (factors, of_runs) = of.x.factors(row + i);
                multiply::<F>(scales, &factors[first..][..padded], &mut products[i]);
                if !F::SIGNED {
                    for at in (0..runs).step_by(16) {
                        let mask = wide::first(runs - at);
                        let of_runs = _mm512_maskz_loadu_ps(mask, of_runs.as_ptr().add(first + at));
                        let minima = _mm512_maskz_loadu_ps(mask, minima.as_ptr().add(at));
                        sums[0] = _mm512_fmadd_ps(minima, of_runs, sums[0]);
                    }
                }
            }
            let blocks = blocks.as_ptr();
            for run in (0..runs / 4).map(|four| 4 * four) {
                pair_of::<F, R>(F::pair(blocks, run), (x, run), products, &mut sums, 0);
                pair_of::<F, R>(F::pair(blocks, run + 2), (x, run + 2), products, &mut sums, 1);
            }
            if runs % 4 >= 2 {
                let run = runs / 4 * 4;
                pair_of::<F, R>(F::pair(blocks, run), (x, run), products, &mut sums, 0);
            }
            if runs % 2 == 1 {
                let run = runs - 1;
                last_of::<F, R>(F::one(blocks, run), (x, run), products, &mut sums);
            }
        }
        let mut totals = [0.0; R];
        for (total, [even, odd]) in totals.iter_mut().zip(sums) {
            *total = _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
        }
        of.write(row, col, totals);
    }
    R
}

/// Adds what two runs give to one of the two sums of each row of activations.
///
/// # Safety
/// As [`entries`], for runs of the chunk.
#[inline(always)]
unsafe fn pair_of<F: Wide, const R: usize>(
    numbers: __m512i,
    (x, run): ([*const i8; R], usize),
    products: &[[f32; 2 * CHUNK]],
    sums: &mut [[__m512; 2]; R],
    which: usize,
) {
    // SAFETY: the caller's promise: both runs are there.
    unsafe {
        let (sizes, negative) = (_mm512_abs_epi8(numbers), _mm512_movepi8_mask(numbers));
        for (i, sums) in sums.iter_mut().enumerate() {
            let x = _mm512_loadu_si512(x[i].add(run * RUN).cast());
            let dot = if F::SIGNED {
                let x = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
                _mm512_dpbusd_epi32(_mm512_setzero_si512(), sizes, x)
            } else {
                _mm512_dpbusd_epi32(_mm512_setzero_si512(), numbers, x)
            };
            let scales = products.get_unchecked(i).as_ptr().add(run * F::SCALES);
            let scales = if F::SCALES == 1 {
                let two = _mm512_castpd128_pd512(_mm_load_sd(scales.cast()));
                let to = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
                _mm512_permutexvar_ps(to, _mm512_castpd_ps(two))
            } else {
                let four = _mm512_castps128_ps512(_mm_loadu_ps(scales));
                let to = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
                _mm512_permutexvar_ps(to, four)
            };
            sums[which] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scales, sums[which]);
        }
    }
}

/// Adds what a run without a second gives to the first sum of each row of activations.
///
/// # Safety
/// As [`entries`], for a run of the chunk, of a format with one scale a run.
#[inline(always)]
unsafe fn last_of<F: Wide, const R: usize>(
    numbers: __m256i,
    (x, run): ([*const i8; R], usize),
    products: &[[f32; 2 * CHUNK]],
    sums: &mut [[__m512; 2]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let sizes = _mm256_abs_epi8(numbers);
        for (i, sums) in sums.iter_mut().enumerate() {
            let x = _mm256_loadu_si256(x[i].add(run * RUN).cast());
            let dot = if F::SIGNED {
                _mm256_dpbusd_epi32(_mm256_setzero_si256(), sizes, _mm256_sign_epi8(x, numbers))
            } else {
                _mm256_dpbusd_epi32(_mm256_setzero_si256(), numbers, x)
            };
            let scale = _mm256_broadcast_ss(products.get_unchecked(i).get_unchecked(run));
            let product = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), scale);
            sums[0] = _mm512_add_ps(sums[0], _mm512_zextps256_ps512(product));
        }
    }
}
