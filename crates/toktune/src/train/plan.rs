//! Which rows of a batch have to be computed, and which of them depend on what is trained.
//!
//! In a causal decoder a row before the first trainable token of its sequence does not depend on the trained rows. It is
//! *constant*: computed forward, never backward, and seen by later rows through its keys and values only. A row after
//! the last label of its sequence is not computed at all, nor is a sequence without a label.
//!
//! Where rows see the whole sequence, as in an encoder, all of it depends as soon as it holds a trainable token, and none of
//! it does otherwise. Where they see an encoder's rows, they depend if these do.

use crate::data::RaggedBatch;
use crate::models::TrainedRows;
use crate::ops::{Sequences, Span};
use std::ops::Range;

/// What decides which rows depend.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    /// The trained rows of the embedding.
    pub(super) input: Option<&'a TrainedRows>,
    /// The blocks are trained too, so that every row depends.
    pub(super) blocks: bool,
    /// Off, every row depends and is computed, which gives the same result with more work; the tests compare the two.
    pub(super) shortcuts: bool,
    /// Rows see the rows before them only.
    pub(super) causal: bool,
    /// The sequences that are wanted; `None` wants those with a label.
    pub(super) wanted: Option<&'a [bool]>,
    /// The sequences whose encoder rows depend.
    pub(super) memory: Option<&'a [bool]>,
    /// The token that positions do not count.
    pub(super) padding: Option<u32>,
}

/// Some rows of a batch that are computed together.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Their tokens.
    pub(super) ids: Vec<u32>,
    /// Their sequences, with the constant rows before them as the past.
    pub(super) spans: Vec<Span>,
    /// Which sequences of the batch these are.
    pub(super) sequences: Vec<usize>,
    /// How long these sequences are as a whole.
    pub(super) lengths: Vec<usize>,
    /// Tokens of padding before the rows of each, where positions do not count them.
    pub(super) uncounted: Vec<usize>,
    /// The rows that have a label, and the labels.
    pub(super) labelled: Vec<u32>,
    pub(super) targets: Vec<u32>,
}

impl Part {
    fn push(
        &mut self,
        batch: &RaggedBatch,
        sequence: usize,
        rows: Range<usize>,
        past: Range<usize>,
        padding: Option<u32>,
    ) {
        let before = &batch.ids[batch.starts[sequence]..rows.start];
        self.uncounted.push(before.iter().filter(|id| Some(**id) == padding).count());
        let start = self.ids.len();
        self.ids.extend_from_slice(&batch.ids[rows.clone()]);
        self.spans.push(Span::new(start..self.ids.len(), past));
        self.sequences.push(sequence);
        self.lengths.push(batch.starts[sequence + 1] - batch.starts[sequence]);
        for (i, row) in rows.enumerate() {
            if let Some(target) = batch.targets[row] {
                self.labelled.push((start + i) as u32);
                self.targets.push(target);
            }
        }
    }
}

/// The constant rows of one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConstantRows {
    /// Which sequence of the batch.
    pub(super) sequence: usize,
    /// The rows among all constant ones: those computed first, then those whose keys and values are known.
    pub(super) rows: Range<usize>,
    /// Their labels among all labels of computed (or of known) constant rows.
    pub(super) labelled: Range<usize>,
    /// Whether rows of the sequence depend, and need the keys and values.
    pub(super) has_depending: bool,
}

/// A batch cut into its constant and its depending rows.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Constant rows to be computed.
    pub(super) constant: Part,
    pub(super) depending: Part,
    /// The sequences of the constant rows to be computed.
    pub(super) computed: Vec<ConstantRows>,
    /// The sequences whose constant rows are known from an earlier epoch, with the targets of their labelled rows.
    pub(super) known: Vec<ConstantRows>,
    pub(super) known_targets: Vec<u32>,
}

impl<'a> Rules<'a> {
    /// What decides where nothing but rows of the embedding is trained.
    pub(super) fn new(input: Option<&'a TrainedRows>, causal: bool) -> Self {
        Self { input, blocks: false, shortcuts: true, causal, wanted: None, memory: None, padding: None }
    }

    /// The rows of a sequence that are computed, and the first of them that depends.
    fn bounds(&self, batch: &RaggedBatch, sequence: usize) -> Option<(usize, usize)> {
        let rows = batch.starts[sequence]..batch.starts[sequence + 1];
        let labelled = rows.clone().rev().find(|&row| batch.targets[row].is_some());
        let wanted = self.wanted.map_or(labelled.is_some(), |wanted| wanted[sequence]);
        let end = match labelled {
            _ if !self.shortcuts => rows.end,
            _ if !wanted => return None,
            Some(last) if self.causal && self.wanted.is_none() => last + 1,
            _ => rows.end,
        };
        let trainable = |&row: &usize| self.input.is_some_and(|i| i.position(batch.ids[row]).is_some());
        let all = !self.shortcuts || self.blocks || self.memory.is_some_and(|memory| memory[sequence]);
        let first = match (rows.start..end).find(trainable) {
            _ if all => rows.start,
            Some(first) if self.causal => first,
            Some(_) => rows.start,
            None => end,
        };
        Some((first, end))
    }
}

impl Plan {
    /// Cuts `batch` by `rules`, leaving out the constant rows of sequences that are `known`.
    pub(super) fn new(batch: &RaggedBatch, rules: &Rules<'_>, known: impl Fn(usize) -> bool) -> Self {
        let count = batch.starts.len().saturating_sub(1);
        let cuts: Vec<_> = (0..count).map(|sequence| rules.bounds(batch, sequence)).collect();
        let sequences = || cuts.iter().enumerate().filter_map(|(i, cut)| cut.map(|cut| (i, cut)));
        let computed: usize =
            sequences().filter(|(i, _)| !known(*i)).map(|(i, (first, _))| first - batch.starts[i]).sum();
        let mut plan = Self::default();
        let mut next_known = computed;
        for (sequence, (first, end)) in sequences() {
            let (start, has_depending) = (batch.starts[sequence], end > first);
            let count = first - start;
            let past = if known(sequence) {
                // keys and values are known where a row needs them
                let rows = next_known..next_known + if has_depending { count } else { 0 };
                next_known = rows.end;
                let labels = plan.known_targets.len();
                plan.known_targets.extend(batch.targets[start..first].iter().flatten());
                let labelled = labels..plan.known_targets.len();
                plan.known.push(ConstantRows { sequence, rows: rows.clone(), labelled, has_depending });
                rows
            } else {
                let rows = plan.constant.ids.len()..plan.constant.ids.len() + count;
                let labels = plan.constant.targets.len();
                if count > 0 {
                    plan.constant.push(batch, sequence, start..first, 0..0, rules.padding);
                    let labelled = labels..plan.constant.targets.len();
                    plan.computed.push(ConstantRows {
                        sequence,
                        rows: rows.clone(),
                        labelled,
                        has_depending,
                    });
                }
                rows
            };
            if has_depending {
                let past = if count == 0 { 0..0 } else { past };
                plan.depending.push(batch, sequence, first..end, past, rules.padding);
            }
        }
        plan
    }
}

/// Where the rows of a decoder find the encoder's.
#[derive(Debug)]
pub(super) struct Crossing {
    pub(super) constant: Sequences,
    pub(super) depending: Sequences,
}

impl Crossing {
    /// The rows of `decoder` beside those of `encoder`, both cut from the same batch.
    pub(super) fn new(encoder: &Plan, decoder: &Plan) -> Self {
        let of = |part: &Part| {
            let mut next = 0;
            let span = |(span, sequence): (&Span, &usize)| {
                let rows_in = |part: &Part| {
                    let at = part.sequences.binary_search(sequence).ok()?;
                    Some(part.spans[at].rows.clone())
                };
                let keys = rows_in(&encoder.depending).unwrap_or(next..next);
                next = keys.end;
                let past = rows_in(&encoder.constant).unwrap_or(0..0);
                Span { rows: span.rows.clone(), past, keys }
            };
            Sequences::new(part.spans.iter().zip(&part.sequences).map(span).collect())
        };
        Self { constant: of(&decoder.constant), depending: of(&decoder.depending) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_at_the_first_trainable_token_and_after_the_last_label() {
        let trained = TrainedRows::new(vec![9], 1, vec![0.0]);
        let batch = RaggedBatch {
            //        constant | depends | unused        all constant   no label   depends from the start
            ids: vec![1, 2, 9, 3, 4, 5, 6, 9, 1, 9, 7],
            starts: vec![0, 5, 7, 9, 11],
            targets: [None, Some(9), None, Some(4), None, Some(6), None, None, None, Some(7), None].to_vec(),
            encoder: None,
        };
        let rules = Rules::new(Some(&trained), true);
        let plan = Plan::new(&batch, &rules, |_| false);
        assert_eq!(plan.constant.ids, [1, 2, 5]);
        assert_eq!((plan.constant.labelled, plan.constant.targets), (vec![1, 2], vec![9, 6]));
        assert_eq!(plan.depending.ids, [9, 3, 9]);
        assert_eq!((plan.depending.labelled, plan.depending.targets), (vec![1, 2], vec![4, 7]));
        assert_eq!(plan.depending.spans, [Span::new(0..2, 0..2), Span::new(2..3, 0..0)]);
        let all = Plan::new(&batch, &Rules { shortcuts: false, ..rules }, |_| false);
        assert!(all.constant.ids.is_empty() && all.depending.ids == batch.ids);

        // the other sequences, of which one depends because its encoder rows do, and one has no label
        let memory = [false, true, false, false];
        let plan = Plan::new(&batch, &Rules { memory: Some(&memory), ..rules }, |_| false);
        assert_eq!((plan.depending.ids, plan.depending.sequences), (vec![9, 3, 5, 9], vec![0, 1, 3]));
        assert_eq!(plan.depending.lengths, [5, 2, 2]);
        let plan = Plan::new(&batch, &Rules { padding: Some(2), ..rules }, |_| false);
        assert_eq!((plan.constant.uncounted, plan.depending.uncounted), (vec![0, 0], vec![1, 0]));

        // where rows see the whole sequence
        let plan = Plan::new(&batch, &Rules { causal: false, ..rules }, |_| false);
        assert_eq!(plan.constant.ids, [5, 6]);
        assert_eq!((plan.depending.ids, plan.depending.sequences), (vec![1, 2, 9, 3, 4, 9, 7], vec![0, 3]));
        let wanted = [false, true, true, false];
        let plan = Plan::new(&batch, &Rules { causal: false, wanted: Some(&wanted), ..rules }, |_| false);
        assert_eq!((plan.constant.ids, plan.depending.ids), (vec![5, 6], vec![9, 1]));

        // with updates of the blocks: all rows but those after the last label
        let updated = Plan::new(&batch, &Rules { blocks: true, ..rules }, |_| false);
        assert!(updated.constant.ids.is_empty());
        assert_eq!(updated.depending.ids, [1, 2, 9, 3, 5, 9]);

        // the first sequence is known: its past rows come after the one that is computed
        let plan = Plan::new(&batch, &rules, |sequence| sequence == 0);
        assert_eq!((plan.constant.ids, plan.constant.targets), (vec![5], vec![6]));
        assert_eq!(plan.depending.spans, [Span::new(0..2, 1..3), Span::new(2..3, 0..0)]);
        let of =
            |sequence, rows, has_depending| ConstantRows { sequence, rows, labelled: 0..1, has_depending };
        assert_eq!(plan.computed, [of(1, 0..1, false)]);
        assert_eq!((plan.known, plan.known_targets), (vec![of(0, 1..3, true)], vec![9]));
    }

    #[test]
    fn decoder_rows_find_the_rows_of_their_encoder() {
        let trained = TrainedRows::new(vec![9], 1, vec![0.0]);
        let rules = Rules { wanted: Some(&[true, true, true]), ..Rules::new(Some(&trained), false) };
        let encoder = RaggedBatch {
            ids: vec![1, 2, 3, 9, 4, 5, 9],
            starts: vec![0, 2, 5, 7],
            targets: vec![None; 7],
            encoder: None,
        };
        let encoder = Plan::new(&encoder, &rules, |_| false);
        let decoder = RaggedBatch {
            ids: vec![1, 9, 2, 3, 4],
            starts: vec![0, 2, 4, 5],
            targets: vec![Some(7); 5],
            encoder: None,
        };
        let rules = Rules { memory: Some(&[false, true, true]), ..Rules::new(Some(&trained), true) };
        let decoder = Plan::new(&decoder, &rules, |_| false);
        let crossing = Crossing::new(&encoder, &decoder);
        let span = |rows, past, keys| Span { rows, past, keys };
        assert_eq!(*crossing.constant.spans, [span(0..1, 0..2, 0..0)]);
        assert_eq!(
            *crossing.depending.spans,
            [span(0..1, 0..2, 0..0), span(1..3, 0..0, 0..3), span(3..4, 0..0, 3..5)]
        );
    }
}
