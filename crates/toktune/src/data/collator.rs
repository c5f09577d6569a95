//! Examples to batches, for each kind of model.

use crate::models::PretrainedModel;
use crate::text::AutoTokenizer;
use std::ops::Range;

use super::{DataError, DecoderInputs, Example, Masking, ModelKind, RaggedBatch, Source, batch};

/// What batches are made for, with what that needs beside the examples.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Collator {
    /// A causal language model.
    #[default]
    Causal,
    /// A masked language model.
    MaskedLm(Masking),
    /// An encoder-decoder model.
    Seq2Seq(DecoderInputs),
    /// A model of sentence pairs.
    SentencePairs,
}

impl Collator {
    /// What makes the batches of `model`. The masks of a masked language model are those of its tokenizer, drawn by `seed`; without
    /// a tokenizer its rows bring their own labels.
    pub fn of(model: &PretrainedModel, tokenizer: Option<&AutoTokenizer>, seed: u64) -> Self {
        match (model.kind(), model.decoder_inputs()) {
            (ModelKind::Seq2Seq, Some(inputs)) => Collator::Seq2Seq(inputs),
            (ModelKind::SentencePairs, _) => Collator::SentencePairs,
            (ModelKind::MaskedLm, _) => {
                Collator::MaskedLm(tokenizer.map_or_else(Masking::none, |of| Masking::of(of, seed)))
            }
            _ => Collator::Causal,
        }
    }

    /// The kind of model.
    pub fn kind(&self) -> ModelKind {
        match self {
            Collator::Causal => ModelKind::Causal,
            Collator::MaskedLm(_) => ModelKind::MaskedLm,
            Collator::Seq2Seq(_) => ModelKind::Seq2Seq,
            Collator::SentencePairs => ModelKind::SentencePairs,
        }
    }

    /// Checks the settings against a model with `rows` rows.
    pub(super) fn check(&self, rows: usize) -> Result<(), DataError> {
        match self {
            Collator::MaskedLm(masking) => masking.check(rows),
            Collator::Seq2Seq(inputs) => inputs
                .tokens()
                .find(|(_, id)| *id as usize >= rows)
                .map_or(Ok(()), |(what, id)| Err(DataError::NoSuchRow { what, id, rows })),
            Collator::Causal | Collator::SentencePairs => Ok(()),
        }
    }

    /// A batch of examples with their places in the data, as epoch `epoch` has them; the model has `rows` rows.
    pub(super) fn batch<'e>(
        &self,
        examples: impl Iterator<Item = (usize, &'e Example)>,
        epoch: u64,
        rows: usize,
    ) -> RaggedBatch {
        let plain = |examples| std::iter::Iterator::map(examples, |(_, example)| example);
        match self {
            Collator::Causal => batch::causal(plain(examples)),
            Collator::MaskedLm(masking) => batch::masked(examples, masking, epoch, rows),
            Collator::Seq2Seq(inputs) => batch::seq2seq(plain(examples), *inputs),
            Collator::SentencePairs => batch::pairs(plain(examples)),
        }
    }

    /// Checks that what is learnt of the row at `at` can have weights.
    pub(super) fn check_weighted(&self, at: &Source) -> Result<(), DataError> {
        if *self != Collator::SentencePairs {
            return Ok(());
        }
        let problem = "the loss of sentence pairs is that of whole batches, and every pair counts once";
        let (at, key) = (at.clone(), "loss_weight".to_owned());
        Err(DataError::NotObeyed { at, key, problem: problem.to_owned() })
    }

    /// Every token that the model reads of an example.
    pub fn inputs<'e>(&self, example: &'e Example) -> Box<dyn Iterator<Item = u32> + 'e> {
        let read = example.input_ids.iter().chain(&example.second).copied();
        match self {
            Collator::Seq2Seq(inputs) => Box::new(read.chain(inputs.of(&example.labels))),
            _ => Box::new(read),
        }
    }

    /// Which of [`inputs`](Self::inputs) some loss depends on: those that a decoder reads before its last label, and all that an
    /// encoder reads where there is a label.
    pub(super) fn acting_inputs(&self, example: &Example) -> Vec<Range<usize>> {
        let inputs = || self.inputs(example).count();
        let last_of = |places: Range<usize>| {
            let is_label = |at: &usize| example.labels[*at].is_some() && example.counts(*at);
            places.rev().find(is_label)
        };
        let last = last_of(0..example.labels.len());
        if example.is_preference() {
            let (first, all) = (example.input_ids.len(), example.labels.len());
            let ends = [(0, last_of(0..first.min(all))), (first, last_of(first.min(all)..all))];
            return ends.into_iter().filter_map(|(start, last)| Some(start..last?)).collect();
        }
        let acting = match (self, last) {
            (Collator::SentencePairs, _) => inputs(),
            (Collator::MaskedLm(_), _) if self.targets(example).next().is_some() => inputs(),
            (Collator::Causal, Some(at)) => at,
            (Collator::Seq2Seq(_), Some(at)) => example.input_ids.len() + at + 1,
            _ => 0,
        };
        std::iter::once(0..acting).collect()
    }

    /// Every token of an example that can be a target: of one that is masked anew in every epoch, each that can be
    /// chosen.
    pub fn targets<'e>(&'e self, example: &'e Example) -> Box<dyn Iterator<Item = u32> + 'e> {
        let counting = |ids: Box<dyn Iterator<Item = (usize, u32)> + 'e>| {
            Box::new(ids.filter(|(at, _)| example.counts(*at)).map(|(_, id)| id))
        };
        if let (Collator::MaskedLm(masking), true) = (self, example.labels.is_empty()) {
            let chosen = move |(_, id): &(usize, u32)| masking.may_choose(*id);
            return counting(Box::new(example.input_ids.iter().copied().enumerate().filter(chosen)));
        }
        let labels = example.labels.iter().enumerate().filter_map(|(at, label)| Some((at, (*label)?)));
        match self {
            // a first position's label has nothing before it
            Collator::Causal => {
                let second = if example.is_preference() { example.input_ids.len() } else { 0 };
                counting(Box::new(labels.filter(move |(at, _)| *at > 0 && *at != second)))
            }
            _ => counting(Box::new(labels)),
        }
    }

    /// Whether anything can be learnt from an example.
    pub(super) fn can_learn(&self, example: &Example) -> bool {
        self.kind() == ModelKind::SentencePairs || self.targets(example).next().is_some()
    }

    /// The targets of example `index` in epoch `epoch`.
    pub(super) fn label_tokens(&self, example: &Example, index: usize, epoch: u64, rows: usize) -> usize {
        match self {
            Collator::MaskedLm(masking) if example.labels.is_empty() => {
                let targets = masking.masked(example, index, epoch, rows).targets;
                targets
                    .iter()
                    .enumerate()
                    .filter(|(at, target)| target.is_some() && example.counts(*at))
                    .count()
            }
            _ => self.targets(example).count(),
        }
    }
}
