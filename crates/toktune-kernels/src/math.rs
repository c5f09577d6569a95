//! Scalar functions written so that loops over them vectorise: no branches, no calls.

use crate::isa::multiversion;

/// `e^x` for `x <= 88`, with a relative error below 2 ULP; larger `x` gives `e^88`, `x < -87` gives 0, NaN stays NaN.
///
/// Cody-Waite reduction to `[-ln2/2, ln2/2]` and a degree-6 polynomial (the minimax coefficients of Cephes' `expf`).
/// The exponent is taken from the bits of a float with a large constant added, since a float-to-int cast would cost a
/// saturation test per element.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer held in the low mantissa bits
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    // ln 2 in two parts: n * the first is exact
    let r = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    p = p * (r * r) + r + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.0 { 0.0 } else { p * scale }
}

/// `tanh x`, by the rational function that Eigen uses: within a few ULP everywhere.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    // beyond it the result is 1 to the last bit
    let x = x.clamp(-7.905_311, 7.905_311);
    let s = x * x;
    let mut p = -2.760_768_4e-16;
    for a in [2.000_188e-13, -8.604_671e-11, 5.122_297_2e-8, 1.485_722_4e-5, 6.372_619_4e-4, 4.893_524_6e-3] {
        p = p * s + a;
    }
    let mut q = 1.198_258_4e-6;
    for b in [1.185_347_1e-4, 2.268_434_6e-3, 4.893_525_3e-3] {
        q = q * s + b;
    }
    x * p / q
}

/// The error function, by the rational function that Eigen uses: within `6e-7` of the value's size.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    const ONE_FROM: f32 = 3.925; // the result is 1 to the last bit: exactly 1, for it may be multiplied by a large number
    let one = if x.abs() >= ONE_FROM { 1f32.copysign(x) } else { 0.0 };
    let x = x.clamp(-ONE_FROM, ONE_FROM);
    let s = x * x;
    let mut p = -2.726_142_3e-10;
    for a in [2.770_681_4e-8, -2.101_024e-6, -5.692_506_4e-5, -7.349_906_4e-4, -2.954_6e-3, -1.609_603_3e-2] {
        p = p * s + a;
    }
    let mut q = -1.456_607_2e-5;
    for b in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329_4e-3, -1.426_473_9e-2] {
        q = q * s + b;
    }
    if one != 0.0 { one } else { x * p / q }
}

/// Sum of `a[i] * b[i]`, in 16 lanes so that it vectorises; the order is fixed.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    let mut lanes = [0f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for i in 0..16 {
            lanes[i] += x[i] * y[i];
        }
    }
    sum_of_lanes(lanes) + tail
}

/// The sum of lanes, the upper half added to the lower one until one is left.
#[inline(always)]
pub(crate) fn sum_of_lanes(mut lanes: [f32; 16]) -> f32 {
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The largest of lanes; NaN is passed over where it comes last.
#[inline(always)]
pub(crate) fn max_of_lanes(mut lanes: [f32; 16]) -> f32 {
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            lanes[i] = if lanes[i + width] > lanes[i] { lanes[i + width] } else { lanes[i] };
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum of `a[i]`, as [`dot`].
#[inline(always)]
pub(crate) fn sum(a: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let chunks = a.chunks_exact(16);
    let tail: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for i in 0..16 {
            lanes[i] += chunk[i];
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// Sum of `w[i] * a[i] * b[i]`, as [`dot`].
#[inline(always)]
pub(crate) fn weighted_dot(w: &[f32], a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let whole = w.len() / 16 * 16;
    for at in (0..whole).step_by(16) {
        let (w, a, b) = (&w[at..at + 16], &a[at..at + 16], &b[at..at + 16]);
        for i in 0..16 {
            lanes[i] += w[i] * a[i] * b[i];
        }
    }
    let tail: f32 = (whole..w.len()).map(|i| w[i] * a[i] * b[i]).sum();
    lanes.iter().sum::<f32>() + tail
}

multiversion! {
    /// Replaces each `x` by `e^(x - shift)` and returns their sum.
    pub(crate) fn exp_shifted(isa: Isa, row: &mut [f32], shift: f32) -> f32 {
        let mut lanes = [0f32; 16];
        let mut chunks = row.chunks_exact_mut(16);
        for chunk in &mut chunks {
            for i in 0..16 {
                chunk[i] = exp(chunk[i] - shift);
                lanes[i] += chunk[i];
            }
        }
        let mut sum: f32 = 0.0;
        for x in chunks.into_remainder() {
            *x = exp(*x - shift);
            sum += *x;
        }
        sum + lanes.iter().sum::<f32>()
    }
}

multiversion! {
    /// The largest entry; negative infinity for an empty row. NaN entries are passed over.
    pub(crate) fn max(isa: Isa, row: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; 16];
        let chunks = row.chunks_exact(16);
        let tail = chunks.remainder().iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x));
        for chunk in chunks {
            for i in 0..16 {
                lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
            }
        }
        lanes.iter().fold(tail, |m, &x| m.max(x))
    }
}

multiversion! {
    /// `row[i] *= factor`.
    pub(crate) fn scale(isa: Isa, row: &mut [f32], factor: f32) {
        for x in row {
            *x *= factor;
        }
    }
}

multiversion! {
    /// `y[i] += factor * x[i]`.
    pub(crate) fn axpy(isa: Isa, y: &mut [f32], factor: f32, x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += factor * x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{each_isa, random};

    #[test]
    fn exp_matches_f64_within_two_ulp() {
        let mut worst = 0f64;
        for i in 0..200_000 {
            let x = -87.0 + 175.0 * i as f32 / 200_000.0;
            let exact = (x as f64).exp();
            worst = worst.max((exp(x) as f64 - exact).abs() / exact);
        }
        assert!(worst < 2.0 * f32::EPSILON as f64, "relative error {worst}");
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(1000.0).is_finite() && exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_and_erf_match_f64() {
        // erf by its Taylor series, in f64 good to 1e-10 up to 4
        let exact_erf = |x: f64| {
            let (mut term, mut sum, mut n) = (x, x, 0.0);
            while f64::abs(term) > 1e-18 {
                n += 1.0;
                term *= -x * x / n;
                sum += term / (2.0 * n + 1.0);
            }
            sum * 2.0 / std::f64::consts::PI.sqrt()
        };
        for i in -40_000..=40_000 {
            let x = i as f32 / 10_000.0;
            let (tanh_x, erf_x) = ((x as f64).tanh(), exact_erf(x as f64));
            assert!((tanh(x) as f64 - tanh_x).abs() <= 5e-7 * tanh_x.abs(), "tanh {x}");
            assert!((erf(x) as f64 - erf_x).abs() <= 6e-7 * erf_x.abs(), "erf {x}");
        }
        for big in [5.0, 20.0, f32::INFINITY] {
            assert!((tanh(big) as f64 - (big as f64).tanh()).abs() < 2e-7 && tanh(-big) == -tanh(big));
            assert!((erf(big) - 1.0).abs() < 2e-7 && erf(-big) == -erf(big));
        }
        assert!(tanh(f32::NAN).is_nan() && erf(f32::NAN).is_nan());
    }

    #[test]
    fn row_functions_match_plain_loops() {
        each_isa(|isa| {
            for n in [0, 1, 15, 16, 17, 33, 257] {
                let (a, b) = (random(n, 1), random(n, 2));
                let exact: f64 = a.iter().zip(&b).map(|(x, y)| *x as f64 * *y as f64).sum();
                assert!((dot(&a, &b) as f64 - exact).abs() < 1e-5, "{isa} dot {n}");
                let largest = a.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                assert_eq!(max(isa, &a), largest, "{isa} max {n}");
                let mut row = a.clone();
                let sum = exp_shifted(isa, &mut row, 0.5);
                let exact: f64 = a.iter().map(|x| (*x as f64 - 0.5).exp()).sum();
                assert!((sum as f64 - exact).abs() <= 1e-6 * exact.max(1.0), "{isa} exp_shifted {n}");
                let mut y = b.clone();
                axpy(isa, &mut y, 2.0, &a);
                scale(isa, &mut y, 0.5);
                for i in 0..n {
                    assert!((y[i] - (b[i] + 2.0 * a[i]) * 0.5).abs() < 1e-6, "{isa} axpy {n}");
                }
            }
        });
    }
}
