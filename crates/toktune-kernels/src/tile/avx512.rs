//! AVX-512: 8 rows by 3 vectors, 24 sums, 3 vectors of the right operand and one of the left in 32 registers.

use super::dots::dots_with;
use super::{Dots, Operands, Vector, multiply_with};
use std::arch::x86_64::*;

const ROWS: usize = 8;
const VECTORS: usize = 3;

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
    unsafe fn sum(self) -> f32 {
        // SAFETY: as for `zero`.
        unsafe { _mm512_reduce_add_ps(self) }
    }

    #[inline(always)]
    unsafe fn load_bf16(at: *const u8) -> Self {
        // SAFETY: `LEN` readable bf16, the caller's promise.
        unsafe {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()))))
        }
    }
}

/// # Safety
/// As [`super::multiply`], on a machine with these features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn multiply(of: &Operands) {
    // SAFETY: passed on.
    unsafe { multiply_with::<__m512, ROWS, VECTORS>(of) }
}

/// # Safety
/// As [`super::dots`], on a machine with these features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn dots(of: &Dots<'_>) {
    // SAFETY: passed on.
    unsafe { dots_with::<__m512, 4>(of) }
}
