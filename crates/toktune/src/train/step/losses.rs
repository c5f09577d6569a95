//! The losses of labelled rows against the vocabulary, and the gradient that they give the last hidden rows.

use super::super::constants::Constants;
use super::super::plan::{Part, Plan};
use super::{LabelLosses, Step};
use crate::profile;
use std::borrow::Cow;
use toktune_kernels::Matrix;
use toktune_kernels::cross_entropy::{
    FrozenPart, Gradients, cross_entropy, frozen_parts, with_trained_entries,
};

/// The rows of a part after the last block, `[rows, d]`.
#[derive(Clone, Copy)]
pub(super) struct Hidden<'a> {
    pub(super) part: &'a Part,
    pub(super) rows: &'a [f32],
}

impl Hidden<'_> {
    /// The rows that have labels.
    fn labelled(&self, d: usize) -> Vec<f32> {
        self.part.labelled.iter().flat_map(|&row| &self.rows[row as usize * d..][..d]).copied().collect()
    }
}

impl Step<'_> {
    /// The losses of the constant labelled rows, in the order of their sequences. What does not change of them is recorded;
    /// the head's own trained rows get their gradient.
    pub(super) fn constant_losses(
        &mut self,
        plan: &Plan,
        hidden: Hidden<'_>,
        known: &[Cow<'_, Constants>],
        record: &mut [Option<Constants>],
    ) -> LabelLosses {
        let (model, rows) = (self.model, self.rows);
        let table = model.head().table(rows.output_rows());
        let (head, precision) = (model.logit_head(&table), model.head().frozen().precision());
        let d = table.cols();
        let computed = model.final_rows(hidden.labelled(model.spec().stack.hidden_size));
        let flops = 2 * computed.len() * table.rows();
        let frozen = profile::time(profile::Part::Head, flops, || {
            frozen_parts(&computed, &head, &plan.constant.targets, precision)
        });
        let mut parts = Vec::new();
        for (i, of) in plan.computed.iter().enumerate() {
            let (hidden, frozen): (&[f32], &[FrozenPart]) =
                (&computed[of.labelled.start * d..of.labelled.end * d], &frozen[of.labelled.clone()]);
            if let Some(Some(record)) = record.get_mut(i) {
                (record.hidden, record.frozen) = (hidden.to_vec(), frozen.to_vec());
            }
            parts.push((of.sequence, hidden, frozen, &plan.constant.targets[of.labelled.clone()]));
        }
        for (of, known) in plan.known.iter().zip(known) {
            parts.push((of.sequence, &known.hidden, &known.frozen, &plan.known_targets[of.labelled.clone()]));
        }
        // one order, whatever is known: sums of gradients depend on it to the last bit
        parts.sort_by_key(|part| part.0);
        let hidden: Vec<f32> = parts.iter().flat_map(|part| part.1).copied().collect();
        let frozen: Vec<FrozenPart> = parts.iter().flat_map(|part| part.2).copied().collect();
        let targets: Vec<u32> = parts.iter().flat_map(|part| part.3).copied().collect();
        let mut losses = vec![0f32; targets.len()];
        let at = rows.output.filter(|_| self.backward);
        let trained = at.map(|at| self.gradients[at].as_mut_slice());
        profile::time(profile::Part::Head, 0, || {
            with_trained_entries(&hidden, &head, &targets, &frozen, &mut losses, trained);
        });
        targets.into_iter().zip(losses).collect()
    }

    /// The losses of a part's labelled rows, and, when `pull`, the gradient of its hidden rows. The head's own trained rows
    /// get their gradient.
    pub(super) fn head(&mut self, hidden: Hidden<'_>, pull: bool) -> (LabelLosses, Option<Vec<f32>>) {
        let part = hidden.part;
        if part.targets.is_empty() {
            return (Vec::new(), None);
        }
        let (model, rows, d) = (self.model, self.rows, self.model.spec().stack.hidden_size);
        let labelled = hidden.labelled(d);
        let last = model.final_rows(labelled.clone());
        let table = model.head().table(rows.output_rows());
        let (head, precision) = (model.logit_head(&table), model.head().frozen().precision());
        let mut losses = vec![0f32; part.targets.len()];
        let mut dlast = pull.then(|| vec![0f32; last.len()]);
        let at = rows.output.filter(|_| self.backward);
        let trained = at.map(|at| self.gradients[at].as_mut_slice());
        let flops = 2 * last.len() * table.rows() * if pull { 2 } else { 1 };
        profile::time(profile::Part::Head, flops, || {
            let wanted = Gradients { hidden: dlast.as_deref_mut(), trained };
            cross_entropy(&last, &head, &part.targets, &mut losses, wanted, precision);
        });
        drop(last);
        let upstream = dlast.map(|dlast| {
            let dlabelled = model.pull_final_rows(&labelled, dlast);
            let mut upstream = vec![0f32; hidden.rows.len()];
            for (row, dx) in part.labelled.iter().zip(dlabelled.chunks_exact(d)) {
                upstream[*row as usize * d..][..d].copy_from_slice(dx);
            }
            upstream
        });
        (part.targets.iter().copied().zip(losses).collect(), upstream)
    }
}
