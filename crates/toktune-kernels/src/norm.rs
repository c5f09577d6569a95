//! Root-mean-square normalisation (Zhang & Sennrich 2019), as Llama and Gemma use it.
//!
//! ```text
//! y_i = w_i x_i r,   r = 1 / sqrt(mean(x²) + eps)
//! ```
//!
//! Gemma's `1 + w` is the caller's to add to the weight once.

use crate::Isa;
use crate::isa::multiversion;
use crate::math::{dot, weighted_dot};
use crate::matmul::Write;
use rayon::prelude::*;

/// Rows handled by one task.
pub(crate) const TASK_ROWS: usize = 32;

/// What every row of a norm shares.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    /// The instructions that it runs with.
    pub isa: Isa,
    /// The weight, `[d]`.
    pub weight: &'a [f32],
    /// What is added to the mean of the squares.
    pub eps: f32,
}

impl RmsNorm<'_> {
    /// `y[rows, d]` from `x[rows, d]`; overwrites `y`.
    ///
    /// Panics when the lengths do not fit.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        let Self { isa, weight, eps } = *self;
        let d = weight.len();
        assert!(
            d > 0 && x.len().is_multiple_of(d) && x.len() == y.len(),
            "rows of {d}: {} and {}",
            x.len(),
            y.len()
        );
        let chunk = TASK_ROWS * d;
        y.par_chunks_mut(chunk)
            .zip(x.par_chunks(chunk))
            .for_each(|(y, x)| forward_rows(isa, x, weight, eps, y));
    }

    /// `dx[rows, d]` from the input and the gradient of the output.
    ///
    /// ```text
    /// dx_i = r (w_i dy_i - x_i r² mean(w dy x))
    /// ```
    ///
    /// Panics when the lengths do not fit.
    pub fn backward(&self, x: &[f32], dy: &[f32], write: Write, dx: &mut [f32]) {
        let Self { isa, weight, eps } = *self;
        let d = weight.len();
        assert!(d > 0 && x.len().is_multiple_of(d), "rows of {d}: {}", x.len());
        assert!(x.len() == dy.len() && x.len() == dx.len(), "{} {} {}", x.len(), dy.len(), dx.len());
        let chunk = TASK_ROWS * d;
        dx.par_chunks_mut(chunk)
            .zip(x.par_chunks(chunk).zip(dy.par_chunks(chunk)))
            .for_each(|(dx, (x, dy))| backward_rows(isa, x, weight, eps, dy, write == Write::Add, dx));
    }
}

multiversion! {
    fn forward_rows(isa: Isa, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
        let d = weight.len();
        for (x, y) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
            let r = 1.0 / (dot(x, x) / d as f32 + eps).sqrt();
            for i in 0..d {
                y[i] = x[i] * r * weight[i];
            }
        }
    }
}

multiversion! {
    fn backward_rows(isa: Isa, x: &[f32], weight: &[f32], eps: f32, dy: &[f32], add: bool, dx: &mut [f32]) {
        let d = weight.len();
        for ((x, dy), dx) in x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
            let r = 1.0 / (dot(x, x) / d as f32 + eps).sqrt();
            let shared = weighted_dot(weight, dy, x) / d as f32 * r * r;
            if add {
                for i in 0..d {
                    dx[i] += r * (weight[i] * dy[i] - x[i] * shared);
                }
            } else {
                for i in 0..d {
                    dx[i] = r * (weight[i] * dy[i] - x[i] * shared);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, central_differences, each_isa, linear_loss, random};

    const EPS: f32 = 1e-5;

    fn reference(x: &[f32], weight: &[f32]) -> Vec<f64> {
        x.chunks(weight.len())
            .flat_map(|row| {
                let mean: f64 = row.iter().map(|x| (*x as f64).powi(2)).sum::<f64>() / row.len() as f64;
                let r = 1.0 / (mean + EPS as f64).sqrt();
                row.iter().zip(weight).map(move |(x, w)| *x as f64 * r * *w as f64).collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn forward_and_backward_match_the_reference() {
        each_isa(|isa| {
            for (rows, d) in [(0, 4), (1, 1), (3, 15), (2, 16), (33, 17), (5, 64)] {
                let (x, w, loss) = (random(rows * d, 1), random(d, 2), random(rows * d, 3));
                let norm = RmsNorm { isa, weight: &w, eps: EPS };
                let run = |x: &[f32]| {
                    let mut y = vec![f32::NAN; x.len()];
                    norm.forward(x, &mut y);
                    y
                };
                let what = format!("{isa} {rows}x{d}");
                assert_close(&run(&x), &reference(&x, &w), 1e-6, &what);
                let mut dx = vec![f32::NAN; x.len()];
                norm.backward(&x, &loss, Write::Over, &mut dx);
                if d > 1 {
                    let f64_loss = |x: &[f32]| {
                        reference(x, &w).iter().zip(&loss).map(|(y, l)| y * *l as f64).sum::<f64>()
                    };
                    let expected = central_differences(&x, f64_loss);
                    assert_close(&dx, &expected, 2e-3, &format!("{what} gradient"));
                }
                assert!(linear_loss(&run(&x), &loss).is_finite());
            }
        });
    }
}
