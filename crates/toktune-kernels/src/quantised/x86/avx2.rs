//! AVX2: products of bytes added in pairs to 16 bits, then in fours to 32.

use super::{Dot, all};
use crate::quantised::{Streamed, with_format};
use std::arch::x86_64::*;

struct Pairs;

impl Dot for Pairs {
    #[inline(always)]
    unsafe fn unsigned(weights: __m256i, x: __m256i) -> __m256i {
        // SAFETY: the caller's promise. Two products of 63 and 127 fit into 16 bits.
        unsafe { _mm256_madd_epi16(_mm256_maddubs_epi16(weights, x), _mm256_set1_epi16(1)) }
    }

    #[inline(always)]
    unsafe fn signed(sizes: __m256i, weights: __m256i, x: __m256i) -> __m256i {
        // SAFETY: as above. Two products of 128 and 127 fit into 16 bits.
        unsafe { Self::unsigned(sizes, _mm256_sign_epi8(x, weights)) }
    }
}

/// # Safety
/// As [`super::super::stream`], with lengths that were checked, on a machine with AVX2 and FMA.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::quantised) unsafe fn stream(of: &Streamed<'_>) {
    // SAFETY: passed on. Eight rows would have more sums than there are registers.
    unsafe { with_format!(of.dtype, F => all::<F, Pairs, 4>(of)) }
}
