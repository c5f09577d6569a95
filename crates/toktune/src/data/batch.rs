//! Ragged batches: sequences end to end, without padding.

use std::ops::Range;

use super::Example;

/// Sequences laid end to end, one row a token.
#[derive(Clone, Debug, Default)]
pub struct RaggedBatch {
    /// Token ids of all sequences, one after the other.
    pub ids: Vec<u32>,
    /// Where each sequence starts, and the number of rows at the end.
    pub starts: Vec<usize>,
    /// What each row is to predict.
    pub targets: Vec<Option<u32>>,
    /// What the encoder of an encoder-decoder model reads: sequence `i` is what the decoder's sequence `i` goes on
    /// from.
    pub encoder: Option<RaggedRows>,
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
    /// A batch for a decoder: row `i` is to predict the label of row `i + 1` of the same sequence, and the
    /// last row of a sequence nothing, as transformers shifts labels inside its models.
    pub fn causal<'e>(examples: impl IntoIterator<Item = &'e Example>) -> Self {
        let mut batch = RaggedBatch { starts: vec![0], ..RaggedBatch::default() };
        for example in examples {
            batch.ids.extend(&example.input_ids);
            batch
                .targets
                .extend(example.labels.iter().copied().skip(1).chain([None]).take(example.input_ids.len()));
            batch.starts.push(batch.ids.len());
        }
        batch
    }

    /// The number of rows: real tokens, since there is no padding.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The number of rows that predict something: the loss is the mean over them.
    pub fn label_tokens(&self) -> usize {
        self.targets.iter().flatten().count()
    }

    /// The rows of each sequence.
    pub fn sequences(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        self.starts.windows(2).map(|bounds| bounds[0]..bounds[1])
    }
}
