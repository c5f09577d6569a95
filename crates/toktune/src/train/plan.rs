//! Which rows of a batch have to be computed, and which of them depend on what is trained.
//!
//! In a causal decoder a row before the first trainable token of its sequence does not depend on the trained rows. It is
//! *constant*: computed forward, never backward, and seen by later rows through its keys and values only. A row after
//! the last label of its sequence is not computed at all, nor is a sequence without a label.

use crate::data::RaggedBatch;
use crate::models::TrainedRows;
use crate::ops::Span;
use std::ops::Range;

/// Some rows of a batch that are computed together.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Their tokens.
    pub(super) ids: Vec<u32>,
    /// Their sequences, with the constant rows before them as the past.
    pub(super) spans: Vec<Span>,
    /// The rows that have a label, and the labels.
    pub(super) labelled: Vec<u32>,
    pub(super) targets: Vec<u32>,
}

impl Part {
    fn push(&mut self, batch: &RaggedBatch, rows: std::ops::Range<usize>, past: std::ops::Range<usize>) {
        let start = self.ids.len();
        self.ids.extend_from_slice(&batch.ids[rows.clone()]);
        self.spans.push(Span { rows: start..self.ids.len(), past });
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

/// The rows of a sequence that are computed, and the first of them that depends.
fn bounds(
    batch: &RaggedBatch,
    sequence: Range<usize>,
    input: Option<&TrainedRows>,
    blocks: bool,
    shortcuts: bool,
) -> Option<(usize, usize)> {
    let labelled = sequence.clone().rev().find(|&row| batch.targets[row].is_some());
    let end = match labelled {
        Some(last) if shortcuts => last + 1,
        None if shortcuts => return None,
        _ => sequence.end,
    };
    let trainable = |&row: &usize| input.is_some_and(|rows| rows.position(batch.ids[row]).is_some());
    let first = match shortcuts && !blocks {
        true => (sequence.start..end).find(trainable).unwrap_or(end),
        false => sequence.start,
    };
    Some((first, end))
}

impl Plan {
    /// Cuts `batch`, leaving out the constant rows of sequences that are `known`. With `shortcuts` off every row depends,
    /// which gives the same result with more work; the tests compare the two. When `blocks` are trained too, every row
    /// before the last label depends.
    pub(super) fn new(
        batch: &RaggedBatch,
        input: Option<&TrainedRows>,
        blocks: bool,
        shortcuts: bool,
        known: impl Fn(usize) -> bool,
    ) -> Self {
        let cuts: Vec<_> =
            batch.starts.windows(2).map(|s| bounds(batch, s[0]..s[1], input, blocks, shortcuts)).collect();
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
                    plan.constant.push(batch, start..first, 0..0);
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
                plan.depending.push(batch, first..end, past);
            }
        }
        plan
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
        let plan = Plan::new(&batch, Some(&trained), false, true, |_| false);
        assert_eq!(plan.constant.ids, [1, 2, 5]);
        assert_eq!((plan.constant.labelled, plan.constant.targets), (vec![1, 2], vec![9, 6]));
        assert_eq!(plan.depending.ids, [9, 3, 9]);
        assert_eq!((plan.depending.labelled, plan.depending.targets), (vec![1, 2], vec![4, 7]));
        assert_eq!(plan.depending.spans, [Span { rows: 0..2, past: 0..2 }, Span { rows: 2..3, past: 3..3 }]);
        let all = Plan::new(&batch, Some(&trained), false, false, |_| false);
        assert!(all.constant.ids.is_empty() && all.depending.ids == batch.ids);

        // with updates of the blocks: all rows but those after the last label
        let updated = Plan::new(&batch, Some(&trained), true, true, |_| false);
        assert!(updated.constant.ids.is_empty());
        assert_eq!(updated.depending.ids, [1, 2, 9, 3, 5, 9]);

        // the first sequence is known: its past rows come after the one that is computed
        let plan = Plan::new(&batch, Some(&trained), false, true, |sequence| sequence == 0);
        assert_eq!((plan.constant.ids, plan.constant.targets), (vec![5], vec![6]));
        assert_eq!(plan.depending.spans, [Span { rows: 0..2, past: 1..3 }, Span { rows: 2..3, past: 1..1 }]);
        let of =
            |sequence, rows, has_depending| ConstantRows { sequence, rows, labelled: 0..1, has_depending };
        assert_eq!(plan.computed, [of(1, 0..1, false)]);
        assert_eq!((plan.known, plan.known_targets), (vec![of(0, 1..3, true)], vec![9]));
    }
}
