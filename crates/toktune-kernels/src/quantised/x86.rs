//! What the kernels for x86 share. Each unpacks two runs of a row of the weight at a time, once for all rows of activations.

mod avx2;
mod unpack;
mod vnni;

pub(super) use avx2::stream as stream_avx2;
pub(super) use vnni::stream as stream_vnni;

use super::formats::{Format, Halves};
use super::{CHUNK, RUN};
use std::arch::x86_64::*;

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

impl<const TALL: usize> Factors<TALL> {
    fn new() -> Self {
        Self { scales: [0.0; 2 * CHUNK], minima: [0.0; CHUNK], products: [[0.0; 2 * CHUNK]; TALL] }
    }
}

/// The scales of a chunk times the factors of the activations.
#[inline(always)]
fn multiply<F: Format>(scales: &[f32; 2 * CHUNK], factors: &[f32], products: &mut [f32; 2 * CHUNK]) {
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
