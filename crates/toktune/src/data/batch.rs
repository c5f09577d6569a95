//! Batches made of examples, one way for each kind of model.

use super::{DecoderInputs, Example, Masking, ModelKind};
use crate::engine::batch::{RaggedBatch, RaggedRows};

/// A batch for a decoder: row `i` is to predict the label of row `i + 1` of the same sequence, and the
/// last row of a sequence nothing, as transformers shifts labels inside its models. Two answers to one prompt are two sequences,
/// the chosen one first.
pub fn causal<'e>(examples: impl IntoIterator<Item = &'e Example>) -> RaggedBatch {
    let mut batch = RaggedBatch::new(ModelKind::Causal);
    for example in examples {
        if example.is_preference() {
            // a pair has a weight, and its labels have none
            let (chosen, rejected) =
                example.labels.split_at(example.input_ids.len().min(example.labels.len()));
            batch.push(example.input_ids.iter().copied(), shifted(chosen, example.input_ids.len()), &[]);
            batch.push(example.second.iter().copied(), shifted(rejected, example.second.len()), &[]);
            continue;
        }
        let targets = shifted(&example.labels, example.input_ids.len());
        batch.push(example.input_ids.iter().copied(), targets, example.weights.get(1..).unwrap_or_default());
    }
    batch
}

/// What each of so many rows is to predict: the label of the row after it.
fn shifted(labels: &[Option<u32>], rows: usize) -> impl Iterator<Item = Option<u32>> {
    labels.iter().copied().skip(1).chain([None]).take(rows)
}

/// A batch for a masked language model: labels are targets of their own rows. Examples without labels are
/// masked as their places in the data and the epoch have it; tokens drawn lie below `rows`.
pub fn masked<'e>(
    examples: impl IntoIterator<Item = (usize, &'e Example)>,
    masking: &Masking,
    epoch: u64,
    rows: usize,
) -> RaggedBatch {
    let mut batch = RaggedBatch::new(ModelKind::MaskedLm);
    for (index, example) in examples {
        if example.labels.is_empty() {
            let masked = masking.masked(example, index, epoch, rows);
            batch.push(masked.ids, masked.targets, &example.weights);
        } else {
            let labels = example.labels.iter().copied();
            batch.push(example.input_ids.iter().copied(), labels, &example.weights);
        }
    }
    batch
}

/// A batch for an encoder-decoder model: the encoder reads the inputs, the decoder its own targets shifted by
/// one row, so that each row's label is its target as it stands.
pub fn seq2seq<'e>(examples: impl IntoIterator<Item = &'e Example>, inputs: DecoderInputs) -> RaggedBatch {
    let (mut batch, mut encoder) =
        (RaggedBatch::new(ModelKind::Seq2Seq), RaggedRows { starts: vec![0], ..Default::default() });
    for example in examples {
        batch.push(inputs.of(&example.labels), example.labels.iter().copied(), &example.weights);
        encoder.ids.extend(&example.input_ids);
        encoder.starts.push(encoder.ids.len());
    }
    batch.encoder = Some(encoder);
    batch
}

/// A batch of pairs: sequences `2i` and `2i + 1` belong together. No row predicts anything.
pub fn pairs<'e>(examples: impl IntoIterator<Item = &'e Example>) -> RaggedBatch {
    let mut batch = RaggedBatch::new(ModelKind::SentencePairs);
    for example in examples {
        for ids in [&example.input_ids, &example.second] {
            batch.push(ids.iter().copied(), ids.iter().map(|_| None), &[]);
        }
    }
    batch
}
