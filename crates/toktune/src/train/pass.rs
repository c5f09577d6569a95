//! A pass over a model's blocks on the CPU, without a graph.

use super::constants::Constants;
use super::plan::{Crossing, Part, Plan};
use crate::error::Result;
use crate::models::block::Past;
use crate::models::block::pass::{Around, HostMemory, Keep, Kept};
use crate::models::buffers::{Buffer, Buffers};
use crate::models::{BlockUpdates, PretrainedModel, RowsOfBatch, Stack, TrainedRows};
use std::borrow::Cow;

/// A stack with the batch that is to pass through it.
#[derive(Clone, Copy)]
pub(super) struct StackRun<'a> {
    pub(super) model: &'a PretrainedModel,
    pub(super) stack: &'a Stack,
    /// The trained rows of its embedding.
    pub(super) trained: Option<&'a TrainedRows>,
    /// The updates of its blocks.
    pub(super) updates: Option<&'a [BlockUpdates]>,
    pub(super) plan: &'a Plan,
    /// Where its rows find the encoder's.
    pub(super) crossing: Option<&'a Crossing>,
}

impl StackRun<'_> {
    /// Where the rows of a part stand.
    pub(super) fn rows_of(&self, part: &Part, is_depending: bool) -> RowsOfBatch {
        let mut rows = self.stack.rows_of(part.spans.clone(), Some(&part.lengths));
        let of = |c: &Crossing| if is_depending { c.depending.clone() } else { c.constant.clone() };
        rows.cross = self.crossing.map(of);
        rows.uncounted.clone_from(&part.uncounted);
        rows
    }

    /// The embedded rows of a part.
    pub(super) fn embedded(&self, part: &Part, rows: &RowsOfBatch) -> Result<Vec<f32>> {
        self.stack.embed(&part.ids, rows, &self.model.embedding().table(self.trained))
    }

    /// Whether nothing of a block is needed of its constant rows but keys and values.
    pub(super) fn needs_key_values_only(&self, block: usize) -> bool {
        let last = block + 1 == self.stack.blocks().len();
        last && self.stack.spec().attention.causal && self.plan.constant.labelled.is_empty()
    }
}

/// What the forward pass leaves for the backward one.
pub(super) struct Trace {
    buffers: Buffers,
    rows: RowsOfBatch,
    /// Keys and values of the constant rows in every block.
    past: Vec<Option<(Vec<f32>, Vec<f32>)>>,
    /// What was kept of every block.
    kept: Vec<Kept>,
}

impl Trace {
    /// Where the depending rows stand.
    pub(super) fn rows(&self) -> &RowsOfBatch {
        &self.rows
    }
}

fn past_of(key_values: Option<&(Vec<f32>, Vec<f32>)>) -> Past<'_> {
    key_values.map_or_else(Past::default, |(k, v)| Past { k, v })
}

/// The hidden rows after the last block, constant and depending ones. With `keep`, a level for each block, everything is
/// left that the backward pass needs. `known` are the constants of the plan's known sequences; keys and values of the
/// computed ones are left in `record`, one for each, where there is one.
pub(super) fn forward(
    run: StackRun<'_>,
    memory: HostMemory<'_>,
    keep: Option<&[Keep]>,
    known: &[Cow<'_, Constants>],
    record: &mut [Option<Constants>],
) -> Result<(Trace, Vec<f32>, Vec<f32>)> {
    let (plan, blocks, buffers) = (run.plan, run.stack.blocks(), Buffers::default());
    let constant_rows = run.rows_of(&plan.constant, false);
    let rows = run.rows_of(&plan.depending, true);
    let mut constant = run.embedded(&plan.constant, &constant_rows)?;
    let mut depending = run.embedded(&plan.depending, &rows)?;
    let (mut past, mut all_kept) = (Vec::new(), Vec::new());
    let owned = |(k, v): (Buffer, Buffer)| (k.to_vec(), v.to_vec());
    let is_causal = run.stack.spec().attention.causal;
    for (i, block) in blocks.iter().enumerate() {
        // constant rows see constant rows of the encoder alone
        let memory_of_constant = HostMemory { depending: &[], ..memory };
        let around = Around {
            rows: &constant_rows,
            past: Past::default(),
            memory: memory_of_constant,
            buffers: &buffers,
        };
        let mut key_values = if plan.constant.ids.is_empty() {
            plan.known.iter().any(|c| !c.rows.is_empty()).then(Default::default)
        } else if run.needs_key_values_only(i) {
            Some(owned(block.run_key_values(&constant, &around)))
        } else {
            let key_values = block.run(&mut constant, &around, None);
            is_causal.then(|| owned(key_values))
        };
        if let Some((k, v)) = &mut key_values {
            record_rows(plan, (&k[..], &v[..]), record);
            append_known(plan, known, (i, blocks.len()), (k, v));
        }
        if plan.depending.ids.is_empty() {
            continue;
        }
        let mut kept = Kept::default();
        let keep = keep.map(|levels| (levels[i], &mut kept));
        let is_kept = keep.is_some();
        let around = Around { rows: &rows, past: past_of(key_values.as_ref()), memory, buffers: &buffers };
        block.run(&mut depending, &around, keep);
        if is_kept {
            past.push(key_values);
            all_kept.push(kept);
        }
    }
    Ok((Trace { buffers, rows, past, kept: all_kept }, constant, depending))
}

/// Adds one block's keys and values of the computed constant rows to what is recorded of their sequences.
fn record_rows(plan: &Plan, (k, v): (&[f32], &[f32]), record: &mut [Option<Constants>]) {
    let width = k.len() / plan.constant.ids.len().max(1);
    for (of, record) in plan.computed.iter().zip(record) {
        if let Some(record) = record.as_mut().filter(|_| of.has_depending) {
            let rows = of.rows.start * width..of.rows.end * width;
            record.key_values.extend_from_slice(&k[rows.clone()]);
            record.key_values.extend_from_slice(&v[rows]);
        }
    }
}

/// Appends one block's keys and values of the known constant rows to those of the computed ones.
fn append_known(
    plan: &Plan,
    known: &[Cow<'_, Constants>],
    (block, blocks): (usize, usize),
    (k, v): (&mut Vec<f32>, &mut Vec<f32>),
) {
    for (of, constants) in plan.known.iter().zip(known) {
        if of.has_depending {
            let size = constants.key_values.len() / blocks / 2;
            let (keys, values) = constants.key_values[2 * block * size..][..2 * size].split_at(size);
            k.extend_from_slice(keys);
            v.extend_from_slice(values);
        }
    }
}

/// The gradient of the embedded rows from that of the last hidden ones; that of the encoder's depending rows is added to
/// `dmemory`. What was kept of a block is dropped as soon as the block is done.
pub(super) fn pull(
    stack: &Stack,
    trace: Trace,
    mut gradient: Vec<f32>,
    memory: HostMemory<'_>,
    dmemory: &mut [f32],
) -> Vec<f32> {
    let Trace { buffers, rows, past, kept } = trace;
    for (block, (past, kept)) in stack.blocks().iter().zip(past.into_iter().zip(kept)).rev() {
        let around = Around { rows: &rows, past: past_of(past.as_ref()), memory, buffers: &buffers };
        block.pull(&mut gradient, kept, &around, dmemory);
    }
    gradient
}
