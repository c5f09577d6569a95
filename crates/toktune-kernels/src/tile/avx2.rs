//! AVX2 with fused multiply-add: 6 rows by 2 vectors, 12 sums, 2 vectors of the right operand and one of the left in 16 registers.

use super::dots::dots_with;
use super::{Dots, Operands, Vector, multiply_with};
use std::arch::x86_64::*;

const ROWS: usize = 6;
const VECTORS: usize = 2;

/// Floats in a vector.
pub(super) const LEN: usize = __m256::LEN;

/// Columns of a packed panel.
pub(super) const COLS: usize = VECTORS * __m256::LEN;

impl Vector for __m256 {
    const LEN: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the trait's callers run on this instruction set; so for every method.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: `LEN` readable floats, the caller's promise.
        unsafe { _mm256_loadu_ps(at) }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: `LEN` writable floats, the caller's promise.
        unsafe { _mm256_storeu_ps(at, self) }
    }

    #[inline(always)]
    unsafe fn splat(at: *const f32) -> Self {
        // SAFETY: one readable float, the caller's promise.
        unsafe { _mm256_broadcast_ss(&*at) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as for `zero`.
        unsafe { _mm256_fmadd_ps(a, b, self) }
    }

    #[inline(always)]
    unsafe fn add(self, a: Self) -> Self {
        // SAFETY: as for `zero`.
        unsafe { _mm256_add_ps(self, a) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: as for `zero`.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u8) -> Self {
        // SAFETY: `LEN` readable bf16, the caller's promise.
        unsafe {
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()))))
        }
    }
}

/// # Safety
/// As [`super::multiply`], on a machine with these features.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply(of: &Operands) {
    // SAFETY: passed on.
    unsafe { multiply_with::<__m256, ROWS, VECTORS>(of) }
}

/// # Safety
/// As [`super::dots`], on a machine with these features.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn dots(of: &Dots<'_>) {
    // SAFETY: passed on.
    unsafe { dots_with::<__m256, 2>(of) }
}
