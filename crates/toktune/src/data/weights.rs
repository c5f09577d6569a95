//! What the losses of a row count, beside those of other rows.
//!
//! A row's `loss_weight` counts for all of its labels, and `loss_weights` for each label on its own; where both stand they are
//! multiplied. Which labels there are is not known here.

/// What each label of a row counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum LossWeights {
    /// Once.
    #[default]
    Once,
    /// So much each.
    Row(f32),
    /// So much each for itself, in the labels' places.
    Tokens(Vec<f32>),
}

impl LossWeights {
    /// Those of the first `labels` labels; empty where each counts once.
    pub(super) fn of(&self, labels: usize) -> Vec<f32> {
        let weights = match self {
            LossWeights::Once => Vec::new(),
            LossWeights::Row(weight) => vec![*weight; labels],
            LossWeights::Tokens(weights) => weights.iter().copied().take(labels).collect(),
        };
        if weights.iter().all(|weight| *weight == 1.0) { Vec::new() } else { weights }
    }
}

/// What a weight must be, for messages.
pub(super) const EXPECTED: &str = "a finite number of at least 0";

/// Whether a label's loss can count so much.
pub(super) fn is_weight(weight: f32) -> bool {
    weight.is_finite() && weight >= 0.0
}
