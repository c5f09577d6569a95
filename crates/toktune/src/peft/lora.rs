//! One linear layer with a LoRA update.

use crate::random::Random;
use serde_json::Value;

/// The update `scaling * B A` of a frozen weight `[out, in]`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraLayer {
    name: String,
    r: usize,
    inputs: usize,
    outputs: usize,
    scaling: f32,
    dropout: f32,
    /// `lora_A`, `[r, in]`.
    pub a: Vec<f32>,
    /// `lora_B`, `[out, r]`.
    pub b: Vec<f32>,
}

/// How a LoRA layer is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoraShape {
    pub(super) r: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) scaling: f64,
    pub(super) dropout: f64,
}

impl LoraLayer {
    /// The layer on module `name`, started as `init` (PEFT's `init_lora_weights`) says.
    ///
    /// As in PEFT, `A` is uniform in ±1/√in (what torch gives a linear layer) or normal with standard deviation 1/r,
    /// and `B` zero; with `false` `B` is uniform in ±1/√r too.
    pub(super) fn new(name: String, shape: LoraShape, init: &Value, random: &mut Random) -> Self {
        let LoraShape { r, inputs, outputs, scaling, dropout } = shape;
        let mut uniform = |n: usize, inputs: usize| -> Vec<f32> {
            let bound = 1.0 / (inputs.max(1) as f64).sqrt();
            (0..n).map(|_| ((2.0 * random.uniform() - 1.0) * bound) as f32).collect()
        };
        let (a, b) = match init {
            Value::Bool(false) => (uniform(r * inputs, inputs), uniform(outputs * r, r)),
            Value::String(_) => {
                let std = 1.0 / r as f64;
                let a = (0..r * inputs).map(|_| (random.normal() * std) as f32).collect();
                (a, vec![0.0; outputs * r])
            }
            _ => (uniform(r * inputs, inputs), vec![0.0; outputs * r]),
        };
        Self { name, r, inputs, outputs, scaling: scaling as f32, dropout: dropout as f32, a, b }
    }

    /// The module, as transformers names it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rank.
    pub fn r(&self) -> usize {
        self.r
    }

    /// Inputs of the linear layer.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Outputs of the linear layer.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The factor on `B A`.
    pub fn scaling(&self) -> f32 {
        self.scaling
    }

    /// The share of inputs of `A` that a training step leaves out.
    pub fn dropout(&self) -> f32 {
        self.dropout
    }

    /// Adds row `row` of the update to `values` (`[in]`).
    ///
    /// Panics when the row is not there or `values` has another length.
    pub fn add_row(&self, row: usize, values: &mut [f32]) {
        assert_eq!(values.len(), self.inputs, "a row of {}", self.name);
        let b = &self.b[row * self.r..][..self.r];
        // the sum of r products in one order, then one rounding into the weight
        let mut sums = vec![0f64; self.inputs];
        for (b, a) in b.iter().zip(self.a.chunks_exact(self.inputs.max(1))) {
            for (sum, a) in sums.iter_mut().zip(a) {
                *sum += f64::from(*b) * f64::from(*a);
            }
        }
        for (value, sum) in values.iter_mut().zip(sums) {
            *value += self.scaling * sum as f32;
        }
    }

    /// Adds column `col` of the update to `values` (`[out]`): a row of a weight that is stored as `[in, out]`.
    ///
    /// Panics when the column is not there or `values` has another length.
    pub fn add_column(&self, col: usize, values: &mut [f32]) {
        assert_eq!(values.len(), self.outputs, "a column of {}", self.name);
        let a: Vec<f32> = self.a.chunks_exact(self.inputs.max(1)).map(|a| a[col]).collect();
        for (value, b) in values.iter_mut().zip(self.b.chunks_exact(self.r.max(1))) {
            let sum: f64 = b.iter().zip(&a).map(|(b, a)| f64::from(*b) * f64::from(*a)).sum();
            *value += self.scaling * sum as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(init: &Value) -> LoraLayer {
        let shape = LoraShape { r: 4, inputs: 64, outputs: 48, scaling: 2.0, dropout: 0.0 };
        LoraLayer::new("q".into(), shape, init, &mut Random::new(3))
    }

    #[test]
    fn a_fresh_layer_changes_nothing_unless_told_to() {
        let largest = |x: &[f32]| x.iter().fold(0f32, |m, x| m.max(x.abs()));
        let standard = layer(&true.into());
        assert!(standard.b.iter().all(|x| *x == 0.0));
        assert!(largest(&standard.a) <= 0.125 && largest(&standard.a) > 0.11);
        let gaussian = layer(&"gaussian".into());
        assert!(gaussian.b.iter().all(|x| *x == 0.0));
        let mean_square = gaussian.a.iter().map(|x| x * x).sum::<f32>() / 256.0;
        assert!((mean_square.sqrt() - 0.25).abs() < 0.05, "{mean_square}");
        let other = layer(&false.into());
        assert!(largest(&other.b) > 0.4 && largest(&other.b) <= 0.5);
    }

    #[test]
    fn a_row_of_the_update_is_scaled_b_times_a() {
        let mut layer = layer(&false.into());
        layer.a.iter_mut().enumerate().for_each(|(i, a)| *a = (i % 7) as f32);
        let mut row = vec![1.0; 64];
        layer.add_row(5, &mut row);
        for (j, found) in row.iter().enumerate() {
            let product: f32 = (0..4).map(|k| layer.b[5 * 4 + k] * layer.a[k * 64 + j]).sum();
            assert!((found - (1.0 + 2.0 * product)).abs() < 1e-5, "{j}: {found}");
        }
    }
}
