//! Where the sums of several workers are added.

use crate::engine::objective::PreferenceSums;
use crate::error::Result;
use crate::peft::Gradient;

/// What one optimizer step sums up over its rows, before anything is divided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepSums {
    /// The gradients of the weighted sum of the losses, by the names of the parameters.
    pub gradients: Vec<Gradient>,
    /// The weighted sum of the losses, in nats.
    pub loss: f64,
    /// The sum of the weights: what loss and gradients are divided by.
    pub weight: f64,
    /// Labels.
    pub labels: usize,
    /// Input tokens.
    pub tokens: usize,
    /// Of two answers to one prompt: how they compare.
    pub preference: Option<PreferenceSums>,
}

impl StepSums {
    /// Adds what another part of the step's rows sums up to.
    ///
    /// Panics when the gradients are not of the same parameters.
    pub fn add(&mut self, other: StepSums) {
        if self.gradients.is_empty() {
            self.gradients = other.gradients;
        } else {
            for (sum, gradient) in self.gradients.iter_mut().zip(other.gradients) {
                assert!(sum.name == gradient.name, "gradients of {} and of {}", sum.name, gradient.name);
                sum.values.iter_mut().zip(gradient.values).for_each(|(sum, g)| *sum += g);
            }
        }
        self.loss += other.loss;
        self.weight += other.weight;
        self.labels += other.labels;
        self.tokens += other.tokens;
        if let Some(other) = &other.preference {
            self.preference.get_or_insert_default().add(other);
        }
    }
}

/// Several processes that take the same steps on different rows. Each hands in what its rows sum up to, and all get the sum
/// over all of them; the steps that follow are the same everywhere.
pub trait Workers: std::fmt::Debug + Send {
    /// Adds the sums of all workers, in one order.
    ///
    /// # Errors
    /// A worker cannot be reached.
    fn sum(&mut self, sums: &mut StepSums) -> Result<()>;
}

/// One worker alone, whose sums are those of all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Workers for Alone {
    fn sum(&mut self, _: &mut StepSums) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_add_up() {
        let of = |values: &[f32], loss: f64| StepSums {
            gradients: vec![Gradient { name: "a".into(), values: values.to_vec() }],
            loss,
            weight: 2.0,
            labels: 3,
            tokens: 5,
            preference: None,
        };
        let mut sums = StepSums::default();
        sums.add(of(&[1.0, 2.0], 0.5));
        sums.add(of(&[0.5, -1.0], 0.25));
        assert_eq!(sums.gradients[0].values, [1.5, 1.0]);
        assert_eq!((sums.loss, sums.weight, sums.labels, sums.tokens), (0.75, 4.0, 6, 10));
    }
}
