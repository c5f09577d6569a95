//! AVX512-VNNI: products of bytes added in fours to 32 bits by one instruction.

use super::{Dot, all};
use crate::quantised::{Streamed, with_format};
use std::arch::x86_64::*;

struct Fours;

impl Dot for Fours {
    #[inline(always)]
    unsafe fn unsigned(weights: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_epi32(_mm256_setzero_si256(), weights, x) }
    }

    #[inline(always)]
    unsafe fn signed(sizes: __m256i, weights: __m256i, x: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { Self::unsigned(sizes, _mm256_sign_epi8(x, weights)) }
    }
}

/// # Safety
/// As [`super::super::stream`], with lengths that were checked, on a machine with AVX-512 and AVX512-VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(in crate::quantised) unsafe fn stream(of: &Streamed<'_>) {
    // SAFETY: passed on.
    unsafe { with_format!(of.dtype, F => all::<F, Fours, 8>(of)) }
}
