//! AdamW as torch defines it (`torch.optim.AdamW`), over a handful of rows.

use crate::peft::Gradient;
use std::collections::BTreeMap;

/// The settings of [`AdamW`]; the defaults are torch's, without decay.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct AdamWConfig {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squares.
    pub beta2: f64,
    /// Added to the root of the mean of squares.
    pub eps: f64,
    /// Decoupled weight decay, relative to the learning rate.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// The optimizer's state for several parameters, kept in `f32` as torch keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    config: AdamWConfig,
    /// Steps taken.
    pub step: u64,
    /// Means of gradients and of squares, by the names of the parameters.
    pub moments: BTreeMap<String, (Vec<f32>, Vec<f32>)>,
}

impl AdamW {
    /// A fresh state for parameters of these names and lengths.
    pub fn new(config: AdamWConfig, parameters: impl IntoIterator<Item = (String, usize)>) -> Self {
        let fresh = |(name, n): (String, usize)| (name, (vec![0f32; n], vec![0f32; n]));
        let moments = parameters.into_iter().map(fresh).collect();
        Self { config, step: 0, moments }
    }

    /// Starts a step; then call [`AdamW::update`] for each parameter.
    pub fn begin_step(&mut self) {
        self.step += 1;
    }

    /// Updates a parameter in place.
    ///
    /// ```text
    /// θ ← θ (1 - lr λ);  m ← β₁ m + (1-β₁) g;  v ← β₂ v + (1-β₂) g²
    /// θ ← θ - lr / (1-β₁ᵗ) · m / (√v / √(1-β₂ᵗ) + ε)
    /// ```
    ///
    /// Panics when the state was made for no parameter of this name, or for another length.
    pub fn update(&mut self, name: &str, parameter: &mut [f32], gradient: &[f32], learning_rate: f64) {
        let AdamWConfig { beta1, beta2, eps, weight_decay } = self.config;
        let Some((m, v)) = self.moments.get_mut(name) else { panic!("no parameter {name}") };
        assert!(parameter.len() == m.len() && gradient.len() == m.len(), "{name} of {}", m.len());
        let steps = self.step as i32;
        let (correction1, correction2) = (1.0 - beta1.powi(steps), 1.0 - beta2.powi(steps));
        let step_size = (learning_rate / correction1) as f32;
        let root = correction2.sqrt() as f32;
        let keep = (1.0 - learning_rate * weight_decay) as f32;
        let (b1, b2, rest2) = ((1.0 - beta1) as f32, beta2 as f32, (1.0 - beta2) as f32);
        for (((p, g), m), v) in parameter.iter_mut().zip(gradient).zip(m).zip(v) {
            *m += b1 * (g - *m);
            *v = b2 * *v + rest2 * g * g;
            *p = *p * keep - step_size * (*m / (v.sqrt() / root + eps as f32));
        }
    }
}

/// Scales the gradients so that their common norm is at most `max_norm` (0: leave them), and returns the norm before,
/// as `torch.nn.utils.clip_grad_norm_`.
pub fn clip_grad_norm(gradients: &mut [Gradient], max_norm: f64) -> f64 {
    let all = gradients.iter().flat_map(|gradient| &gradient.values);
    let squares: f64 = all.map(|g| *g as f64 * *g as f64).sum();
    let norm = squares.sqrt();
    if max_norm > 0.0 && norm > max_norm {
        let factor = (max_norm / (norm + 1e-6)) as f32;
        gradients.iter_mut().flat_map(|gradient| &mut gradient.values).for_each(|g| *g *= factor);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of `torch.optim.AdamW([p], lr=0.1, weight_decay=0.01)` with p = [1, -2], gradients [0.5, -1] then [0.1, 2].
    #[test]
    fn it_takes_torchs_steps() {
        let config = AdamWConfig { weight_decay: 0.01, ..AdamWConfig::default() };
        let mut optimizer = AdamW::new(config, [("p".to_string(), 2)]);
        let mut p = [1.0f32, -2.0];
        optimizer.begin_step();
        optimizer.update("p", &mut p, &[0.5, -1.0], 0.1);
        assert!((p[0] - 0.899).abs() < 1e-6 && (p[1] + 1.898).abs() < 1e-6, "{p:?}");
        optimizer.begin_step();
        optimizer.update("p", &mut p, &[0.1, 2.0], 0.1);
        // worked out in f64 from the formula above
        let expected = reference(&[1.0, -2.0], &[[0.5, -1.0], [0.1, 2.0]], 0.1, 0.01);
        assert!(
            (p[0] as f64 - expected[0]).abs() < 1e-6 && (p[1] as f64 - expected[1]).abs() < 1e-6,
            "{p:?}"
        );
    }

    fn reference(start: &[f64; 2], gradients: &[[f64; 2]], lr: f64, decay: f64) -> [f64; 2] {
        let (mut p, mut m, mut v) = (*start, [0.0; 2], [0.0; 2]);
        for (t, g) in gradients.iter().enumerate() {
            for i in 0..2 {
                p[i] *= 1.0 - lr * decay;
                m[i] = 0.9 * m[i] + 0.1 * g[i];
                v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
                let (c1, c2) = (1.0 - 0.9f64.powi(t as i32 + 1), 1.0 - 0.999f64.powi(t as i32 + 1));
                p[i] -= lr / c1 * m[i] / (v[i].sqrt() / c2.sqrt() + 1e-8);
            }
        }
        p
    }

    #[test]
    fn clipping_bounds_the_common_norm() {
        let of = |values: [&[f32]; 2]| {
            values.map(|values| Gradient { name: String::new(), values: values.to_vec() }).to_vec()
        };
        let mut gradients = of([&[3.0, 0.0], &[4.0]]);
        assert_eq!(clip_grad_norm(&mut gradients, 0.0), 5.0);
        assert_eq!(gradients, of([&[3.0, 0.0], &[4.0]]));
        assert_eq!(clip_grad_norm(&mut gradients, 10.0), 5.0);
        assert_eq!(gradients, of([&[3.0, 0.0], &[4.0]]));
        assert_eq!(clip_grad_norm(&mut gradients, 1.0), 5.0);
        assert!((clip_grad_norm(&mut gradients, 0.0) - 1.0).abs() < 1e-5);
    }
}
