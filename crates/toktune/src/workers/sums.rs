//! What one optimizer step sums up.

use super::WorkersError;
use super::message::{Reader, Writer};
use crate::engine::objective::PreferenceSums;
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
    /// Adds what another part of the step's rows sums up to. Rows without any sum up to no gradients.
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

impl StepSums {
    /// Writes the sums down, bit for bit.
    pub(super) fn write(&self, message: &mut Writer) {
        message.number(self.gradients.len());
        for gradient in &self.gradients {
            message.text(&gradient.name);
            message.floats(&gradient.values);
        }
        message.double(self.loss);
        message.double(self.weight);
        message.number(self.labels);
        message.number(self.tokens);
        write_preference(self.preference.as_ref(), message);
    }

    /// What [`StepSums::write`] wrote.
    ///
    /// # Errors
    /// It is something else.
    pub(super) fn read(message: &mut Reader<'_>) -> Result<Self, WorkersError> {
        let mut gradients = Vec::new();
        for _ in 0..message.number()? {
            gradients.push(Gradient { name: message.text()?, values: message.floats()? });
        }
        let (loss, weight) = (message.double()?, message.double()?);
        let (labels, tokens) = (message.number()?, message.number()?);
        Ok(Self { gradients, loss, weight, labels, tokens, preference: read_preference(message)? })
    }
}

/// Writes down how pairs compare, or that there are none.
pub(crate) fn write_preference(of: Option<&PreferenceSums>, message: &mut Writer) {
    message.number(of.is_some().into());
    let Some(of) = of else { return };
    message.number(of.pairs);
    message.number(of.accurate);
    [of.rewards_chosen, of.rewards_rejected, of.logps_chosen, of.logps_rejected]
        .into_iter()
        .for_each(|sum| message.double(sum));
}

/// What [`write_preference`] wrote.
///
/// # Errors
/// It is something else.
pub(crate) fn read_preference(message: &mut Reader<'_>) -> Result<Option<PreferenceSums>, WorkersError> {
    if message.number()? == 0 {
        return Ok(None);
    }
    let mut of = PreferenceSums::default();
    (of.pairs, of.accurate) = (message.number()?, message.number()?);
    (of.rewards_chosen, of.rewards_rejected) = (message.double()?, message.double()?);
    (of.logps_chosen, of.logps_rejected) = (message.double()?, message.double()?);
    Ok(Some(of))
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

    #[test]
    fn they_are_written_down_bit_for_bit() {
        let mut preference = PreferenceSums::default();
        (preference.pairs, preference.rewards_chosen) = (3, 0.1 + 0.2);
        let sums = StepSums {
            gradients: vec![Gradient { name: "ä".into(), values: vec![f32::MIN_POSITIVE, -0.0, 1.5e-42] }],
            loss: 0.1,
            weight: 1.0 / 3.0,
            labels: 7,
            tokens: 9,
            preference: Some(preference),
        };
        for sums in [sums, StepSums::default()] {
            let mut message = Writer::default();
            sums.write(&mut message);
            let bytes = message.finish();
            let mut reader = Reader::new(0, &bytes);
            assert_eq!(StepSums::read(&mut reader).expect("sums"), sums);
            for cut in 0..bytes.len() {
                assert!(StepSums::read(&mut Reader::new(0, &bytes[..cut])).is_err(), "{cut}");
            }
        }
    }
}
