//! What attention scores get by the distance of query and key.

use half::bf16;
use toktune_kernels::attention::ScoreBias;

/// A bias by distance, as data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RelativeSpec {
    /// A slope a head times the position of the key (Press et al. 2022), as BLOOM has it.
    Alibi,
    /// The same as Falcon has it: slopes and their products rounded to bf16, then scaled as the scores are.
    RoundedAlibi {
        /// Factor on the products.
        scale: f32,
    },
    /// Learnt values for buckets of distances (T5).
    Buckets {
        /// Buckets in all.
        buckets: usize,
        /// Distances from here on share the last bucket.
        max_distance: usize,
        /// Keys after the query have buckets of their own.
        bidirectional: bool,
    },
    /// No bias: queries and keys meet rows for distances (DeBERTa).
    Disentangled(DisentangledSpec),
}

/// The rows for distances of a disentangled attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DisentangledSpec {
    /// Half as many as there are rows: distances from `-span` on and below `span` have rows of their own, unless they share
    /// buckets.
    pub span: usize,
    /// Buckets that large distances share, in both directions together; `None` for one a distance.
    pub buckets: Option<usize>,
    /// Distances from here on share the last bucket.
    pub max_distance: usize,
    /// Queries meet them (content to position).
    pub as_keys: bool,
    /// Keys meet them (position to content).
    pub as_queries: bool,
}

impl DisentangledSpec {
    /// The row of a distance (`query - key`), as DeBERTa's `make_log_bucket_position` rounds it.
    fn place(&self, distance: isize) -> u32 {
        let bucket = match self.buckets {
            Some(buckets) => log_bucket(distance, buckets, self.max_distance),
            None => distance as i64,
        };
        (bucket + self.span as i64).clamp(0, 2 * self.span as i64 - 1) as u32
    }

    /// The rows of the distances from `-(length - 1)` to `length - 1`.
    pub fn places(&self, length: usize) -> Vec<u32> {
        let reach = length.max(1) as isize - 1;
        (-reach..=reach).map(|distance| self.place(distance)).collect()
    }
}

/// A distance, or beyond half of the buckets its logarithm.
fn log_bucket(distance: isize, buckets: usize, max_distance: usize) -> i64 {
    let (mid, size) = (buckets / 2, distance.unsigned_abs());
    if size <= mid {
        return distance as i64;
    }
    let whole = ((max_distance.saturating_sub(1)) as f64 / mid as f64) as f32;
    let share = (size as f32 / mid as f32).ln() / whole.ln();
    let bucket = (share * (mid as f32 - 1.0)).ceil() as i64;
    bucket.saturating_add(mid as i64) * distance.signum() as i64
}

impl RelativeSpec {
    /// The bias for sequences of up to `length` rows, if this is one; `learnt [buckets, heads]` holds the values of buckets.
    pub fn bias(&self, heads: usize, length: usize, learnt: &[f32]) -> Option<ScoreBias> {
        Some(match *self {
            RelativeSpec::Disentangled(_) => return None,
            RelativeSpec::Alibi => {
                let slopes = alibi_slopes(heads);
                ScoreBias::by_key(heads, length, |head, key| slopes[head] * key as f32)
            }
            RelativeSpec::RoundedAlibi { scale } => {
                let slopes: Vec<bf16> = alibi_slopes(heads).into_iter().map(bf16::from_f32).collect();
                let product =
                    |head: usize, key: usize| slopes[head].to_f32() * bf16::from_f32(key as f32).to_f32();
                ScoreBias::by_key(heads, length, |head, key| {
                    bf16::from_f32(product(head, key)).to_f32() * scale
                })
            }
            RelativeSpec::Buckets { buckets, max_distance, bidirectional } => {
                ScoreBias::by_distance(heads, length, |head, distance| {
                    learnt[bucket(distance, buckets, max_distance, bidirectional) * heads + head]
                })
            }
        })
    }
}

/// The slopes of `heads` heads: a geometric series for a power of two, and every other term of the next one for the rest.
fn alibi_slopes(heads: usize) -> Vec<f32> {
    let power = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
    let series = |count: usize| {
        let base = 2f32.powf(-(2f32.powf(-((count as f32).log2() - 3.0))));
        move |exponent: usize| base.powi(exponent as i32)
    };
    let (own, next) = (series(power), series(2 * power));
    (1..=power).map(own).chain((0..heads - power).map(|i| next(2 * i + 1))).collect()
}

/// T5's bucket of a distance (`key - query`), as `T5Attention._relative_position_bucket` rounds it.
fn bucket(distance: isize, buckets: usize, max_distance: usize, bidirectional: bool) -> usize {
    let half = if bidirectional { buckets / 2 } else { buckets };
    let (first, distance) = match bidirectional {
        true => (if distance > 0 { half } else { 0 }, distance.unsigned_abs()),
        false => (0, distance.min(0).unsigned_abs()),
    };
    let exact = half / 2;
    if distance < exact {
        return first + distance;
    }
    let share = (distance as f32 / exact as f32).ln() / ((max_distance as f64 / exact as f64).ln() as f32);
    first + (exact + (share * (half - exact) as f32) as usize).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_blooms() {
        // transformers.models.bloom.modeling_bloom.build_alibi_tensor for 4 and 6 heads
        assert_eq!(alibi_slopes(4), [0.25, 0.0625, 0.015625, 0.00390625]);
        let six = alibi_slopes(6);
        let expected = [0.25, 0.0625, 0.015625, 0.003_906_25, 0.5, 0.125];
        assert!(six.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{six:?}");
    }

    #[test]
    fn buckets_of_logarithms_are_debertas() {
        // make_log_bucket_position(torch.arange(-600, 601), buckets, positions)
        for (buckets, positions, expected) in
            [(256, 512, 446_427), (8, 24, 270_785), (32, 512, 311_673), (64, 256, 473_340)]
        {
            let folded = (-600..=600).fold(0, |sum: i64, distance| {
                (sum * 31 + log_bucket(distance, buckets, positions) + 1000) % 1_000_003
            });
            assert_eq!(folded, expected, "{buckets} buckets for {positions}");
        }
        let spec =
            DisentangledSpec { span: 4, buckets: None, max_distance: 4, as_keys: true, as_queries: true };
        assert_eq!(spec.places(6), [0, 0, 1, 2, 3, 4, 5, 6, 7, 7, 7]);
        assert_eq!(spec.places(0), [4]);
    }

    #[test]
    fn buckets_are_t5s() {
        // T5Attention._relative_position_bucket(torch.arange(-20, 21, 5), bidirectional, 32, 128)
        let both: Vec<usize> = (-4..=4).map(|d| bucket(5 * d, 32, 128, true)).collect();
        assert_eq!(both, [10, 9, 8, 5, 0, 21, 24, 25, 26]);
        let back: Vec<usize> = (-4..=4).map(|d| bucket(5 * d, 32, 128, false)).collect();
        assert_eq!(back, [17, 15, 10, 5, 0, 0, 0, 0, 0]);
        assert_eq!((bucket(-500, 32, 128, false), bucket(500, 32, 128, true)), (31, 31));
    }
}
