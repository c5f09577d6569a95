//! AVX-512: 8 rows by 3 vectors, 24 sums, 3 vectors of the right operand and one of the left in 32 registers.

use super::dots::{Dots, dots_with};
use super::{Operands, Vector, multiply_with};
use std::arch::x86_64::*;

const ROWS: usize = 8;
const VECTORS: usize = 3;
/// Of a product of rows with rows: 24 sums, 6 vectors of the left operand and one of the right.
const DOT_ROWS: usize = 6;

/// Floats in a vector.
pub(super) const LEN: usize = __m512::LEN;

/// Columns of a packed panel.
pub(super) const COLS: usize = VECTORS * __m512::LEN;

impl Vector for __m512 {
    const LEN: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the trait's callers run on this instruction set; so for every method.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: `LEN` readable floats, the caller's promise.
        unsafe { _mm512_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: `LEN` writable floats, the caller's promise.
        unsafe { _mm512_storeu_ps(at, self) }
    }

    #[inline(always)]
    unsafe fn splat(at: *const f32) -> Self {
        // SAFETY: one readable float, the caller's promise.
        unsafe { _mm512_set1_ps(*at) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as for `zero`.
        unsafe { _mm512_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    unsafe fn add(self, a: Self) -> Self {
        // SAFETY: as for `zero`.
        unsafe { _mm512_add_ps(self, a) }
    }

    #[inline(always)]
    unsafe fn totals([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        // SAFETY: as for `zero`; the array has room for the four floats.
        unsafe {
            let halves = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let (ab, cd) = (_mm512_castps_pd(halves(a, b)), _mm512_castps_pd(halves(c, d)));
            let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
            // four quarters of 128 bits, in each the sums of a, b, c and d
            let sums = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
            let sums = _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps::<1>(sums));
            let sums = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
            let mut totals = [0.0; 4];
            _mm_storeu_ps(totals.as_mut_ptr(), sums);
            totals
        }
    }
}

/// # Safety
/// As [`super::dots`], on a machine with these features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn dots(of: &Dots) {
    // SAFETY: passed on.
    unsafe { dots_with::<__m512, DOT_ROWS>(of) }
}

/// # Safety
/// As [`super::multiply`], on a machine with these features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn multiply(of: &Operands) {
    // SAFETY: passed on.
    unsafe { multiply_with::<__m512, ROWS, VECTORS>(of) }
}
