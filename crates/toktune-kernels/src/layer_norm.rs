//! Layer normalisation (Ba et al. 2016).
//!
//! ```text
//! y_i = w_i (x_i - mean(x)) r + b_i,   r = 1 / sqrt(var(x) + eps)
//! ```
//!
//! A norm without a bias has an empty one.

use crate::Isa;
use crate::isa::multiversion;
use crate::math::{dot, sum};
use crate::matmul::Write;
use crate::norm::TASK_ROWS;
use rayon::prelude::*;

/// What every row of a norm shares.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// The instructions that it runs with.
    pub isa: Isa,
    /// The weight, `[d]`.
    pub weight: &'a [f32],
    /// The bias, `[d]` or empty.
    pub bias: &'a [f32],
    /// What is added to the variance.
    pub eps: f32,
}

impl LayerNorm<'_> {
    /// `y[rows, d]` from `x[rows, d]`; overwrites `y`.
    ///
    /// Panics when the lengths do not fit.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        let Self { isa, weight, bias, eps } = *self;
        let d = weight.len();
        assert!(
            d > 0 && x.len().is_multiple_of(d) && x.len() == y.len(),
            "rows of {d}: {}, {}",
            x.len(),
            y.len()
        );
        assert!(bias.is_empty() || bias.len() == d, "a bias of {} for rows of {d}", bias.len());
        let chunk = TASK_ROWS * d;
        y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| {
            forward_rows(isa, x, weight, eps, y);
            if !bias.is_empty() {
                y.chunks_exact_mut(d).for_each(|y| crate::math::axpy(isa, y, 1.0, bias));
            }
        });
    }

    /// `dx[rows, d]` from the input and the gradient of the output.
    ///
    /// ```text
    /// n = (x - mean) r,   g = w dy,   dx = r (g - mean(g) - n mean(g n))
    /// ```
    ///
    /// Panics when the lengths do not fit.
    pub fn backward(&self, x: &[f32], dy: &[f32], write: Write, dx: &mut [f32]) {
        let Self { isa, weight, eps, .. } = *self;
        let d = weight.len();
        assert!(d > 0 && x.len().is_multiple_of(d), "rows of {d}: {}", x.len());
        assert!(x.len() == dy.len() && x.len() == dx.len(), "{} {} {}", x.len(), dy.len(), dx.len());
        let chunk = TASK_ROWS * d;
        dx.par_chunks_mut(chunk)
            .zip(x.par_chunks(chunk).zip(dy.par_chunks(chunk)))
            .for_each(|(dx, (x, dy))| backward_rows(isa, x, weight, eps, dy, write == Write::Add, dx));
    }
}

/// The mean of a row and the reciprocal of its standard deviation.
#[inline(always)]
fn statistics(x: &[f32], eps: f32) -> (f32, f32) {
    let d = x.len() as f32;
    let mean = sum(x) / d;
    let mut lanes = [0f32; 16];
    let chunks = x.chunks_exact(16);
    let tail: f32 = chunks.remainder().iter().map(|x| (x - mean) * (x - mean)).sum();
    for chunk in chunks {
        for i in 0..16 {
            lanes[i] += (chunk[i] - mean) * (chunk[i] - mean);
        }
    }
    let variance = (lanes.iter().sum::<f32>() + tail) / d;
    (mean, 1.0 / (variance + eps).sqrt())
}

multiversion! {
    fn forward_rows(isa: Isa, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
        let d = weight.len();
        for (x, y) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
            let (mean, r) = statistics(x, eps);
            for i in 0..d {
                y[i] = (x[i] - mean) * r * weight[i];
            }
        }
    }
}

/// Sum of `w[i] * a[i] * (x[i] - mean)`.
#[inline(always)]
fn centred_dot(w: &[f32], a: &[f32], x: &[f32], mean: f32) -> f32 {
    let mut lanes = [0f32; 16];
    let whole = w.len() / 16 * 16;
    for at in (0..whole).step_by(16) {
        let (w, a, x) = (&w[at..at + 16], &a[at..at + 16], &x[at..at + 16]);
        for i in 0..16 {
            lanes[i] += w[i] * a[i] * (x[i] - mean);
        }
    }
    lanes.iter().sum::<f32>() + (whole..w.len()).map(|i| w[i] * a[i] * (x[i] - mean)).sum::<f32>()
}

multiversion! {
    fn backward_rows(isa: Isa, x: &[f32], weight: &[f32], eps: f32, dy: &[f32], add: bool, dx: &mut [f32]) {
        let d = weight.len();
        for ((x, dy), dx) in x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
            let (mean, r) = statistics(x, eps);
            let g_mean = dot(weight, dy) / d as f32;
            let shared = centred_dot(weight, dy, x, mean) / d as f32 * r; // mean(g n)
            for i in 0..d {
                let value = r * (weight[i] * dy[i] - g_mean - (x[i] - mean) * r * shared);
                dx[i] = if add { dx[i] + value } else { value };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, central_differences, each_isa, random};

    const EPS: f32 = 1e-5;

    fn reference(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
        let d = weight.len();
        let mut y = Vec::new();
        for row in x.chunks(d) {
            let mean = row.iter().map(|x| *x as f64).sum::<f64>() / d as f64;
            let variance = row.iter().map(|x| (*x as f64 - mean).powi(2)).sum::<f64>() / d as f64;
            for (i, x) in row.iter().enumerate() {
                let n = (*x as f64 - mean) / (variance + EPS as f64).sqrt();
                y.push(n * weight[i] as f64 + bias.get(i).map_or(0.0, |b| *b as f64));
            }
        }
        y
    }

    #[test]
    fn forward_and_backward_match_the_reference() {
        each_isa(|isa| {
            for (rows, d) in [(0, 4), (3, 15), (2, 16), (33, 17), (5, 64)] {
                // a mean that is not zero: rounding must not eat the variance
                let x: Vec<f32> = random(rows * d, 1).iter().map(|x| x + 3.0).collect();
                let (w, loss) = (random(d, 2), random(rows * d, 3));
                for bias in [vec![], random(d, 4)] {
                    let what = format!("{isa} {rows}x{d} {}", bias.len());
                    let norm = LayerNorm { isa, weight: &w, bias: &bias, eps: EPS };
                    let mut y = vec![f32::NAN; x.len()];
                    norm.forward(&x, &mut y);
                    assert_close(&y, &reference(&x, &w, &bias), 2e-6, &what);
                    let of = |x: &[f32]| {
                        reference(x, &w, &bias).iter().zip(&loss).map(|(y, l)| y * *l as f64).sum::<f64>()
                    };
                    let mut expected = central_differences(&x, of);
                    let mut dx = vec![f32::NAN; x.len()];
                    norm.backward(&x, &loss, Write::Over, &mut dx);
                    assert_close(&dx, &expected, 3e-3, &format!("{what} gradient"));
                    norm.backward(&x, &loss, Write::Add, &mut dx);
                    expected.iter_mut().for_each(|g| *g *= 2.0);
                    assert_close(&dx, &expected, 3e-3, &format!("{what} gradient, added"));
                }
            }
        });
    }
}
