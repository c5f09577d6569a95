//! What a model is trained for: from the last hidden rows of a batch to losses and back.
//!
//! An [`Objective`] is written on the host over what it reads of the rows ([`LastRows`]): losses against the vocabulary, or
//! a vector a sequence. The plan of a batch follows from what it reads. It knows neither devices nor blocks.

mod distillation;
mod next_tokens;
mod pairs;
mod preference;

pub use distillation::{Distillation, DistillationWeights, TeacherRows};
pub use next_tokens::{MaskedTokens, NextTokens};
pub use pairs::Pairs;
pub use preference::{DpoConfig, DpoLoss, Preference, PreferenceSums, ReferencePair, sequence_logps};

use crate::spec::ModelKind;

impl ModelKind {
    /// What such a model is trained for.
    pub fn objective(self) -> &'static dyn Objective {
        match self {
            ModelKind::Causal | ModelKind::Seq2Seq => &NextTokens,
            ModelKind::MaskedLm => &MaskedTokens,
            ModelKind::SentencePairs => &Pairs,
        }
    }
}

/// What an objective reads of a batch; only rows that bear on it are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// The rows that have labels.
    LabelledRows,
    /// Every row of every sequence.
    WholeSequences,
}

/// One loss of a batch, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Loss {
    /// The sequence of the batch it belongs to; of pairs, the first of the two.
    pub sequence: usize,
    /// The row's place in its sequence; nothing where the loss is the whole sequence's.
    pub row: Option<usize>,
    /// The label, where it is a token.
    pub target: Option<u32>,
    /// The loss, without its weight.
    pub value: f32,
    /// What it counts.
    pub weight: f32,
}

/// The losses of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Losses {
    /// One for each label or pair.
    pub losses: Vec<Loss>,
    /// How many of them count as a hit, where the objective knows hits: of pairs, the anchors that have their own positive as
    /// the nearest of the batch.
    pub hits: Option<usize>,
    /// Of pairs of answers: how they compare.
    pub preference: Option<PreferenceSums>,
}

impl Losses {
    /// The sum of the losses, each by its weight.
    pub fn sum(&self) -> f64 {
        self.losses.iter().map(|loss| f64::from(loss.value) * f64::from(loss.weight)).sum()
    }

    /// The sum of the weights: what the sum is divided by.
    pub fn weight(&self) -> f64 {
        self.losses.iter().map(|loss| f64::from(loss.weight)).sum()
    }
}

/// The last hidden rows of a batch, as an objective reads them. Gradients go back into them where they are wanted.
pub trait LastRows {
    /// The losses of all labels against the vocabulary; their weighted sum is differentiated.
    fn vocabulary(&mut self) -> Vec<Loss>;

    /// The losses of all labels against the vocabulary, differentiated by [`LastRows::pull_labels`] alone.
    fn label_losses(&mut self) -> Vec<Loss>;

    /// Differentiates the sum of those losses, each times a number of its own, which may be negative; what the labels count is not
    /// asked.
    fn pull_labels(&mut self, weights: &[f32]);

    /// The labelled rows that depend on what is trained: their labels, whose values are 0, and their states after the final norm,
    /// `[labels, d]`.
    fn states(&mut self) -> (Vec<Loss>, Vec<f32>);

    /// Takes gradients of those states, and differentiates `vocabulary` times the losses of the same labels against the
    /// vocabulary, which are given without that factor; with a factor of 0 they are not computed and nothing is given.
    fn pull_states(&mut self, gradients: &[f32], vocabulary: f32) -> Vec<f32>;

    /// A vector for each sequence, pooled as the model's files say.
    fn vectors(&mut self) -> Vec<Vec<f64>>;

    /// Takes the gradients of the vectors.
    fn pull_vectors(&mut self, gradients: &[Vec<f64>]);
}

/// What a model is trained for.
pub trait Objective: std::fmt::Debug + Send + Sync {
    /// Which rows it reads.
    fn reads(&self) -> Reads;

    /// The losses of a batch; what it reads gets their gradients.
    fn losses(&self, rows: &mut dyn LastRows) -> Losses;
}

/// What models of a kind are trained for.
pub fn of(kind: ModelKind) -> &'static dyn Objective {
    match kind {
        ModelKind::Causal | ModelKind::Seq2Seq => &NextTokens,
        ModelKind::MaskedLm => &MaskedTokens,
        ModelKind::SentencePairs => &Pairs,
    }
}
