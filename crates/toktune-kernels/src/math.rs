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
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0] + tail
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
    pub(crate) fn exp_shifted(row: &mut [f32], shift: f32) -> f32 {
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
    pub(crate) fn max(row: &[f32]) -> f32 {
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
    pub(crate) fn scale(row: &mut [f32], factor: f32) {
        for x in row {
            *x *= factor;
        }
    }
}

multiversion! {
    /// `y[i] += factor * x[i]`.
    pub(crate) fn axpy(y: &mut [f32], factor: f32, x: &[f32]) {
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
    fn row_functions_match_plain_loops() {
        each_isa(|isa| {
            for n in [0, 1, 15, 16, 17, 33, 257] {
                let (a, b) = (random(n, 1), random(n, 2));
                let exact: f64 = a.iter().zip(&b).map(|(x, y)| *x as f64 * *y as f64).sum();
                assert!((dot(&a, &b) as f64 - exact).abs() < 1e-5, "{isa} dot {n}");
                let largest = a.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                assert_eq!(max(&a), largest, "{isa} max {n}");
                let mut row = a.clone();
                let sum = exp_shifted(&mut row, 0.5);
                let exact: f64 = a.iter().map(|x| (*x as f64 - 0.5).exp()).sum();
                assert!((sum as f64 - exact).abs() <= 1e-6 * exact.max(1.0), "{isa} exp_shifted {n}");
                let mut y = b.clone();
                axpy(&mut y, 2.0, &a);
                scale(&mut y, 0.5);
                for i in 0..n {
                    assert!((y[i] - (b[i] + 2.0 * a[i]) * 0.5).abs() < 1e-6, "{isa} axpy {n}");
                }
            }
        });
    }
}
