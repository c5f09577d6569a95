//! Which rows of a batch have to be computed, and which of them depend on what is trained.
//!
//! In a causal decoder a row before the first trainable token of its sequence does not depend on the trained rows. It is
//! *constant*: computed forward, never backward, and seen by later rows through its keys and values only. A row after
//! the last label of its sequence is not computed at all, nor is a sequence without a label.

use crate::data::RaggedBatch;
use crate::models::TrainedRows;
use crate::ops::Span;

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

/// A batch cut into its constant and its depending rows.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) constant: Part,
    pub(super) depending: Part,
}

impl Plan {
    /// Cuts `batch`. With `shortcuts` off every row depends, which gives the same result with more work; the tests
    /// compare the two. When `blocks` are trained too, every row before the last label depends.
    pub(super) fn new(
        batch: &RaggedBatch,
        input: Option<&TrainedRows>,
        blocks: bool,
        shortcuts: bool,
    ) -> Self {
        let mut plan = Self::default();
        for bounds in batch.starts.windows(2) {
            let sequence = bounds[0]..bounds[1];
            let labelled = sequence.clone().rev().find(|&row| batch.targets[row].is_some());
            let end = match labelled {
                Some(last) if shortcuts => last + 1,
                None if shortcuts => continue,
                _ => sequence.end,
            };
            let trainable = |&row: &usize| input.is_some_and(|rows| rows.position(batch.ids[row]).is_some());
            let first = match shortcuts && !blocks {
                true => (sequence.start..end).find(trainable).unwrap_or(end),
                false => sequence.start,
            };
            let past = plan.constant.ids.len()..plan.constant.ids.len() + (first - sequence.start);
            if first > sequence.start {
                plan.constant.push(batch, sequence.start..first, 0..0);
            }
            if end > first {
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
        };
        let plan = Plan::new(&batch, Some(&trained), false, true);
        assert_eq!(plan.constant.ids, [1, 2, 5]);
        assert_eq!((plan.constant.labelled, plan.constant.targets), (vec![1, 2], vec![9, 6]));
        assert_eq!(plan.depending.ids, [9, 3, 9]);
        assert_eq!((plan.depending.labelled, plan.depending.targets), (vec![1, 2], vec![4, 7]));
        assert_eq!(plan.depending.spans, [Span { rows: 0..2, past: 0..2 }, Span { rows: 2..3, past: 3..3 }]);
        let all = Plan::new(&batch, Some(&trained), false, false);
        assert!(all.constant.ids.is_empty() && all.depending.ids == batch.ids);
        // with updates of the blocks: all rows but those after the last label
        let updated = Plan::new(&batch, Some(&trained), true, true);
        assert!(updated.constant.ids.is_empty());
        assert_eq!(updated.depending.ids, [1, 2, 9, 3, 5, 9]);
    }
}
