//! Pairs of answers to one prompt, one chosen and one rejected (direct preference optimisation, Rafailov et al. 2023, and its
//! anchored forms, D'Oosterlinck et al., arXiv 2408.06266).
//!
//! A sequence's log-probability is the sum of those of its labels. With `c` and `r` those of the chosen and the rejected sequence
//! less what a frozen reference gives them, and `σ` the logistic function, the loss of a pair is one of TRL's:
//!
//! ```text
//! sigmoid    -(1 - ε) ln σ(β (c - r)) - ε ln σ(-β (c - r))
//! apo_zero   1 - σ(β c) + σ(β r)
//! apo_down   σ(β c) + 1 - σ(β (c - r))
//! ```
//!
//! So a pair's gradient is that of its labels' losses against the vocabulary, those of each sequence times one number. The numbers
//! follow from all losses of both sequences, which are known after one pass over the head; the gradients are taken in another. The
//! blocks are passed once.

use super::{LastRows, Loss, Losses, Objective, Reads};

/// The form of a pair's loss, by TRL's `loss_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DpoLoss {
    /// The chosen answer is to gain on the rejected one.
    #[default]
    Sigmoid,
    /// The chosen one is to become likelier than under the reference, and the rejected one less likely: for answers that are better
    /// than the model's own.
    ApoZero,
    /// Both are to become less likely, the rejected one more so: for answers that are worse than the model's own.
    ApoDown,
}

impl DpoLoss {
    /// Every form with TRL's name of it.
    pub const NAMES: [(&'static str, DpoLoss); 3] =
        [("sigmoid", Self::Sigmoid), ("apo_zero", Self::ApoZero), ("apo_down", Self::ApoDown)];

    /// TRL's name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, form)| *form == self).map_or("", |(name, _)| name)
    }
}

/// How pairs are learnt; the names are those of TRL's `DPOConfig`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct DpoConfig {
    /// What log-probabilities less the reference's are multiplied with: how soon a pair counts as learnt.
    pub beta: f64,
    /// The form of the loss.
    pub loss_type: DpoLoss,
    /// The share of pairs that are taken to be the wrong way round; of `sigmoid` alone.
    pub label_smoothing: f64,
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self { beta: 0.1, loss_type: DpoLoss::Sigmoid, label_smoothing: 0.0 }
    }
}

/// A pair of a batch beside its sequences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReferencePair {
    /// The reference's log-probability of the chosen sequence's labels, in nats.
    pub chosen: f64,
    /// That of the rejected one's.
    pub rejected: f64,
    /// What the pair counts.
    pub weight: f32,
}

/// Sums over pairs, each of which counts once whatever its loss counts: TRL's figures when divided by the pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct PreferenceSums {
    /// How many pairs.
    pub pairs: usize,
    /// Of `β c`.
    pub rewards_chosen: f64,
    /// Of `β r`.
    pub rewards_rejected: f64,
    /// Pairs with `c > r`.
    pub accurate: usize,
    /// Of the chosen sequences' log-probabilities.
    pub logps_chosen: f64,
    /// Of the rejected ones'.
    pub logps_rejected: f64,
}

impl PreferenceSums {
    /// Adds the sums of other pairs.
    pub fn add(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.rewards_chosen += other.rewards_chosen;
        self.rewards_rejected += other.rewards_rejected;
        self.accurate += other.accurate;
        self.logps_chosen += other.logps_chosen;
        self.logps_rejected += other.logps_rejected;
    }
}

/// The objective of one batch: sequence `2i` is the chosen one of pair `i`, `2i + 1` the rejected one. What the batch's labels count is
/// not asked; a pair has a weight of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preference {
    config: DpoConfig,
    pairs: Vec<ReferencePair>,
}

/// The loss of a pair, and its gradients in both log-probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
struct OfPair {
    value: f64,
    chosen: f64,
    rejected: f64,
}

impl DpoConfig {
    /// The loss where the chosen sequence's log-probability is `c` above the reference's, and the rejected one's `r`.
    fn of_pair(&self, c: f64, r: f64) -> OfPair {
        let (beta, smoothing) = (self.beta, self.label_smoothing);
        match self.loss_type {
            DpoLoss::Sigmoid => {
                let score = beta * (c - r);
                let value = (1.0 - smoothing) * softplus(-score) + smoothing * softplus(score);
                let slope = beta * (smoothing * sigmoid(score) - (1.0 - smoothing) * sigmoid(-score));
                OfPair { value, chosen: slope, rejected: -slope }
            }
            DpoLoss::ApoZero => OfPair {
                value: sigmoid(-beta * c) + sigmoid(beta * r),
                chosen: -beta * sigmoid_slope(beta * c),
                rejected: beta * sigmoid_slope(beta * r),
            },
            DpoLoss::ApoDown => {
                let score = beta * (c - r);
                let of_score = beta * sigmoid_slope(score);
                OfPair {
                    value: sigmoid(beta * c) + sigmoid(-score),
                    chosen: beta * sigmoid_slope(beta * c) - of_score,
                    rejected: of_score,
                }
            }
        }
    }
}

/// `1 / (1 + e^-x)`.
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The slope of [`sigmoid`].
fn sigmoid_slope(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}

/// `ln(1 + e^x)`, which is `-ln σ(-x)`.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

impl Preference {
    /// For a batch of so many pairs, in their order.
    pub fn new(config: DpoConfig, pairs: Vec<ReferencePair>) -> Self {
        Self { config, pairs }
    }

    /// How pairs are learnt.
    pub fn config(&self) -> DpoConfig {
        self.config
    }

    /// What the reference gave, a pair after the other.
    pub fn pairs(&self) -> &[ReferencePair] {
        &self.pairs
    }
}

/// The log-probability of each of `sequences` sequences from the losses of its labels.
pub fn sequence_logps(losses: &[Loss], sequences: usize) -> Vec<f64> {
    let mut logps = vec![0f64; sequences];
    for loss in losses {
        if let Some(logp) = logps.get_mut(loss.sequence) {
            *logp -= f64::from(loss.value);
        }
    }
    logps
}

impl Objective for Preference {
    fn reads(&self) -> Reads {
        Reads::LabelledRows
    }

    fn losses(&self, rows: &mut dyn LastRows) -> Losses {
        let labels = rows.label_losses();
        let logps = sequence_logps(&labels, 2 * self.pairs.len());
        let mut sums = PreferenceSums { pairs: self.pairs.len(), ..PreferenceSums::default() };
        let mut losses = Vec::with_capacity(self.pairs.len());
        // what a label's loss counts, by its sequence
        let mut counts = Vec::with_capacity(logps.len());
        for (at, (pair, logps)) in self.pairs.iter().zip(logps.chunks_exact(2)).enumerate() {
            let (c, r) = (logps[0] - pair.chosen, logps[1] - pair.rejected);
            let of = self.config.of_pair(c, r);
            // a logistic function makes a number of what is none
            let value = if c.is_finite() && r.is_finite() { of.value } else { f64::NAN };
            losses.push(Loss {
                sequence: 2 * at,
                row: None,
                target: None,
                value: value as f32,
                weight: pair.weight,
            });
            let weight = f64::from(pair.weight);
            counts.extend([-weight * of.chosen, -weight * of.rejected].map(|count| count as f32));
            sums.rewards_chosen += self.config.beta * c;
            sums.rewards_rejected += self.config.beta * r;
            sums.accurate += usize::from(c > r);
            sums.logps_chosen += logps[0];
            sums.logps_rejected += logps[1];
        }
        let of_label = |label: &Loss| counts.get(label.sequence).copied().unwrap_or(0.0);
        rows.pull_labels(&labels.iter().map(of_label).collect::<Vec<f32>>());
        Losses { losses, preference: Some(sums), ..Losses::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs() -> impl Iterator<Item = DpoConfig> {
        let of = |loss_type, beta, label_smoothing| DpoConfig { beta, loss_type, label_smoothing };
        [
            of(DpoLoss::Sigmoid, 0.1, 0.0),
            of(DpoLoss::Sigmoid, 0.7, 0.2),
            of(DpoLoss::ApoZero, 0.3, 0.0),
            of(DpoLoss::ApoDown, 0.3, 0.0),
        ]
        .into_iter()
    }

    #[test]
    fn slopes_are_those_of_differences() {
        for config in configs() {
            for (c, r) in [(0.0, 0.0), (3.0, -2.0), (-4.0, 5.0), (1.5, 20.0)] {
                let of = config.of_pair(c, r);
                let by = 1e-5;
                let slope = |above: OfPair, below: OfPair| (above.value - below.value) / (2.0 * by);
                let in_c = slope(config.of_pair(c + by, r), config.of_pair(c - by, r));
                let in_r = slope(config.of_pair(c, r + by), config.of_pair(c, r - by));
                assert!((of.chosen - in_c).abs() < 1e-8, "{config:?} at {c}, {r}: {of:?} {in_c}");
                assert!((of.rejected - in_r).abs() < 1e-8, "{config:?} at {c}, {r}: {of:?} {in_r}");
            }
        }
    }

    #[test]
    fn a_model_that_is_its_reference_has_the_loss_of_chance() {
        let ln2 = std::f64::consts::LN_2;
        for (config, expected) in configs().zip([ln2, ln2, 1.0, 1.0]) {
            assert!((config.of_pair(0.0, 0.0).value - expected).abs() < 1e-12, "{config:?}");
        }
        // far from it nothing overflows
        for config in configs() {
            for (c, r) in [(1e5, -1e5), (-1e5, 1e5)] {
                let of = config.of_pair(c, r);
                assert!(of.value.is_finite() && of.chosen.is_finite() && of.rejected.is_finite(), "{of:?}");
            }
        }
    }

    #[test]
    fn forms_have_the_names_of_trl() {
        let names: Vec<&str> = DpoLoss::NAMES.iter().map(|(_, form)| form.name()).collect();
        assert_eq!(names, ["sigmoid", "apo_zero", "apo_down"]);
    }
}
