//! Activations in 8 bits.

use super::RUN;
use crate::Isa;
use crate::isa::multiversion;
use crate::shared::with_scratch;

/// Factors of a row are padded with zeros to a multiple of this many.
pub(super) const PADDED: usize = 8;

/// The largest of a run below which all count as zero: the inverse of smaller ones is no number.
const ZERO: f32 = 1e-30;

/// Adding it leaves the nearest integer in the lowest bits of a float, in two's complement.
const TO_INTEGER: f32 = 12_582_912.0; // 1.5 * 2^23

/// Rows of activations, each run of 32 as integers from -127 to 127 and a factor; a run with a number that is not finite has
/// a factor that is not.
#[derive(Clone, Copy)]
pub(crate) struct Rounded<'a> {
    k: usize,
    m: usize,
    /// `[m, k]`.
    numbers: &'a [i8],
    /// `[m, runs]`, padded.
    factors: &'a [f32],
    /// The sum of each run's numbers times its factor, as the factors lie.
    sums: &'a [f32],
}

impl Rounded<'_> {
    /// Calls `work` with the rows `x [m, k]` rounded.
    ///
    /// Panics when `k` is not a whole number of runs, or `x` not of rows.
    pub(crate) fn with<R>(isa: Isa, x: &[f32], k: usize, work: impl FnOnce(Rounded<'_>) -> R) -> R {
        assert!(k.is_multiple_of(RUN) && x.len().is_multiple_of(k.max(1)), "{} in rows of {k}", x.len());
        let m = x.len().checked_div(k).unwrap_or(0);
        let stride = (k / RUN).next_multiple_of(PADDED);
        with_scratch(x.len() / 4 + 2 * m * stride, |scratch| {
            let (numbers, scratch) = scratch.split_at_mut(x.len() / 4);
            // SAFETY: the bytes of `x.len() / 4` floats, which any integers may overwrite.
            let numbers =
                unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast::<i8>(), x.len()) };
            let (factors, sums) = scratch.split_at_mut(m * stride);
            if k > 0 {
                let rows = x.chunks_exact(k).zip(numbers.chunks_exact_mut(k));
                let both = factors.chunks_exact_mut(stride).zip(sums.chunks_exact_mut(stride));
                rows.zip(both).for_each(|((x, numbers), (factors, sums))| {
                    round(isa, x, numbers, factors, sums);
                });
            }
            work(Rounded { k, m, numbers, factors, sums })
        })
    }

    pub(crate) fn k(&self) -> usize {
        self.k
    }

    pub(crate) fn m(&self) -> usize {
        self.m
    }

    pub(super) fn runs(&self) -> usize {
        self.k / RUN
    }

    /// The numbers of a row.
    #[inline(always)]
    pub(super) fn numbers(&self, row: usize) -> &[i8] {
        &self.numbers[row * self.k..][..self.k]
    }

    /// The factors of a row's runs and of their sums, padded.
    #[inline(always)]
    pub(super) fn factors(&self, row: usize) -> (&[f32], &[f32]) {
        let stride = self.runs().next_multiple_of(PADDED);
        (&self.factors[row * stride..][..stride], &self.sums[row * stride..][..stride])
    }
}

multiversion! {
    fn round(isa: Isa, x: &[f32], numbers: &mut [i8], factors: &mut [f32], sums: &mut [f32]) {
        let runs = x.len() / RUN;
        factors[runs..].fill(0.0);
        sums[runs..].fill(0.0);
        let both = factors.iter_mut().zip(sums);
        let runs = x.as_chunks::<RUN>().0.iter().zip(numbers.as_chunks_mut::<RUN>().0);
        for ((x, numbers), (factor, sum)) in runs.zip(both) {
            // as integers, infinities are above numbers and NaN above all
            let largest = x.iter().fold(0, |largest, x| (x.to_bits() & !(1 << 31)).max(largest));
            let largest = f32::from_bits(largest);
            let inverse = if largest > ZERO { 127.0 / largest } else { 0.0 };
            let mut total = 0;
            for (number, x) in numbers.iter_mut().zip(x) {
                *number = (x * inverse + TO_INTEGER).to_bits() as i8;
                total += *number as i32;
            }
            *factor = largest / 127.0;
            *sum = total as f32 * *factor;
        }
    }
}
