//! Products of few rows with quantised weights, in integers: bound by reading the weights, which stay as they lie in the file.
//!
//! The activations are rounded to 8 bits in runs of 32 ([`Rounded`]), and a run of weights is a few bits each with a factor
//! and, in some formats, a minimum ([`formats`]): `w = scale * number + minimum`. A run of a product is then one sum of
//! integers, `scale * dx * sum(number * x)`, and one product for the minimum, `minimum * dx * sum(x)`, whose last two factors
//! are known before a weight is read. The sums of integers are exact, so that instruction sets differ by the rounding of the
//! sums over runs alone.
//!
//! What a kernel unpacks of a weight serves up to eight rows of activations. Each entry of the result is a sum whose order
//! depends on the depth alone.

mod formats;
mod portable;
mod rounded;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use rounded::Rounded;

use crate::Isa;
use crate::isa::Level;
use crate::weight_type::WeightType;

/// Weights that share a factor of the activations.
const RUN: usize = 32;

/// Runs whose factors are read at a time: those of two rows of 1024.
const CHUNK: usize = 64;

/// Whether there are kernels for this type.
pub(crate) fn supports(dtype: WeightType) -> bool {
    use WeightType::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    matches!(dtype, Q8_0 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q4K | Q5K | Q6K)
}

/// The operands of `out[m, n] (+)= x[m, k] rows[n, k]ᵀ`.
#[derive(Clone, Copy)]
pub(crate) struct Streamed<'a> {
    pub(crate) x: Rounded<'a>,
    pub(crate) dtype: WeightType,
    /// The bytes of each row of the weight.
    pub(crate) rows: &'a [&'a [u8]],
    /// Entry (i, j) is `out[i * out_row + j]`.
    pub(crate) out: *mut f32,
    pub(crate) out_row: usize,
    /// Add to what is in `out`.
    pub(crate) add: bool,
}

impl Streamed<'_> {
    /// Writes what rows of activations from `row` on give with row `col` of the weight.
    ///
    /// # Safety
    /// The entries are inside the result, and nobody else touches them.
    #[inline(always)]
    unsafe fn write<const R: usize>(&self, row: usize, col: usize, sums: [f32; R]) {
        for (i, sum) in sums.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let to = self.out.add((row + i) * self.out_row + col);
                *to = if self.add { *to + sum } else { sum };
            }
        }
    }
}

/// Calls a function with the format of a type that is supported as its first generic argument.
macro_rules! with_format {
    ($dtype:expr, $name:ident => $work:expr) => {{
        use $crate::quantised::formats;
        use $crate::weight_type::WeightType;
        macro_rules! of {
            ($format:ident) => {{
                type $name = formats::$format;
                $work
            }};
        }
        match $dtype {
            WeightType::Q8_0 => of!(Q8_0),
            WeightType::Q4_0 => of!(Q4_0),
            WeightType::Q4_1 => of!(Q4_1),
            WeightType::Q5_0 => of!(Q5_0),
            WeightType::Q5_1 => of!(Q5_1),
            WeightType::Q4K => of!(Q4K),
            WeightType::Q5K => of!(Q5K),
            WeightType::Q6K => of!(Q6K),
            other => panic!("no product in integers with {other}"),
        }
    }};
}
use with_format;

/// Runs a product.
///
/// Panics when a row has another length than the activations, or the type is not [supported](supports).
///
/// # Safety
/// `out` is writable as [`Streamed`] says, and nobody else touches its entries.
pub(crate) unsafe fn stream(isa: Isa, of: &Streamed<'_>) {
    let (len, bytes) = (of.dtype.block_len(), of.dtype.block_bytes());
    assert!(of.x.k().is_multiple_of(len), "rows of {} are no whole {} blocks", of.x.k(), of.dtype);
    let row = of.x.k() / len * bytes;
    assert!(of.rows.iter().all(|found| found.len() == row), "rows of {row} bytes");
    // SAFETY: the caller's promise; the lengths were checked, and an `Isa` exists only where its features were detected.
    unsafe {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Amx if isa.has_avx512_vnni() => x86::stream_vnni(of),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 | Level::Amx => x86::stream_avx2(of),
            _ => portable::stream(of),
        }
    }
}
