//! Ragged batches: sequences end to end, without padding.

use std::ops::Range;

use super::objective::{Distillation, Preference};
use super::prefixes::Segment;
use super::spec::ModelKind;

/// Sequences laid end to end, one row a token.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RaggedBatch {
    /// The kind of model that it is for.
    pub kind: ModelKind,
    /// Token ids of all sequences, one after the other; those of the decoder where there is an encoder too.
    pub ids: Vec<u32>,
    /// Where each sequence starts, and the number of rows at the end.
    pub starts: Vec<usize>,
    /// What each row is to predict.
    pub targets: Vec<Option<u32>>,
    /// What each row's loss counts; empty where each counts once.
    pub weights: Vec<f32>,
    /// For each sequence the segments that it shares with others, first to last; empty where nothing is shared.
    pub segments: Vec<Vec<Segment>>,
    /// What the encoder of an encoder-decoder model reads: sequence `i` is what the decoder's sequence `i` goes on
    /// from.
    pub encoder: Option<RaggedRows>,
    /// What the labelled rows are to be like instead of predicting their targets.
    pub distillation: Option<Distillation>,
    /// What the sequences are beside a reference: chosen and rejected ones in turn.
    pub preference: Option<Preference>,
}

/// Sequences laid end to end that predict nothing themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaggedRows {
    /// Token ids of all sequences, one after the other.
    pub ids: Vec<u32>,
    /// Where each sequence starts, and the number of rows at the end.
    pub starts: Vec<usize>,
}

impl RaggedBatch {
    /// A batch without a sequence.
    pub fn new(kind: ModelKind) -> Self {
        RaggedBatch { kind, starts: vec![0], ..RaggedBatch::default() }
    }

    /// Adds a sequence; `targets` has an entry for each of its rows, and so has `weights`, or none where each counts once. A row
    /// that counts nothing predicts nothing.
    pub fn push(
        &mut self,
        ids: impl IntoIterator<Item = u32>,
        targets: impl IntoIterator<Item = Option<u32>>,
        weights: &[f32],
    ) {
        let first = self.ids.len();
        self.ids.extend(ids);
        let counts = |row: usize| weights.get(row).is_none_or(|weight| *weight > 0.0);
        let targets = targets.into_iter().chain(std::iter::repeat(None)).take(self.ids.len() - first);
        self.targets.extend(targets.enumerate().map(|(row, target)| target.filter(|_| counts(row))));
        if !(weights.is_empty() && self.weights.is_empty()) {
            self.weights.resize(first, 1.0);
            self.weights.extend(weights);
            self.weights.resize(self.ids.len(), 1.0);
        }
        self.starts.push(self.ids.len());
    }

    /// The number of rows, the encoder's among them: real tokens, since there is no padding.
    pub fn tokens(&self) -> usize {
        self.ids.len() + self.encoder.as_ref().map_or(0, |encoder| encoder.ids.len())
    }

    /// The number of rows that predict something. A loss is divided by the sum of their weights.
    pub fn label_tokens(&self) -> usize {
        self.targets.iter().flatten().count()
    }

    /// The rows of each sequence.
    pub fn sequences(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        sequences(&self.starts)
    }
}

impl RaggedRows {
    /// The rows of each sequence.
    pub fn sequences(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        sequences(&self.starts)
    }
}

fn sequences(starts: &[usize]) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
    starts.windows(2).map(|bounds| bounds[0]..bounds[1])
}
