//! A pass over a model's blocks on the CPU, without a graph.

use super::constants::Constants;
use super::plan::Plan;
use crate::error::Result;
use crate::models::block::pass::{Keep, Kept, Past};
use crate::models::buffers::{Buffer, Buffers};
use crate::models::{CausalLm, RowsOfBatch, TrainedRows};
use std::borrow::Cow;

/// What the forward pass leaves for the backward one.
pub(super) struct Trace {
    buffers: Buffers,
    rows: RowsOfBatch,
    /// Keys and values of the constant rows in every block.
    past: Vec<Option<(Vec<f32>, Vec<f32>)>>,
    /// What was kept of every block.
    kept: Vec<Kept>,
}

fn past_of(key_values: Option<&(Vec<f32>, Vec<f32>)>) -> Past<'_> {
    key_values.map_or_else(Past::default, |(k, v)| Past { k, v })
}

/// The hidden rows after the last block, constant and depending ones. With `keep`, a level for each block, everything is
/// left that the backward pass needs. `known` are the constants of the plan's known sequences; keys and values of the
/// computed ones are left in `record`, one for each, where there is one.
pub(super) fn forward(
    model: &CausalLm,
    trained: Option<&TrainedRows>,
    plan: &Plan,
    keep: Option<&[Keep]>,
    known: &[Cow<'_, Constants>],
    record: &mut [Option<Constants>],
) -> Result<(Trace, Vec<f32>, Vec<f32>)> {
    let buffers = Buffers::default();
    let constant_rows = model.rows_of(plan.constant.spans.clone());
    let rows = model.rows_of(plan.depending.spans.clone());
    let mut constant = model.embedded(&plan.constant.ids, trained)?;
    let mut depending = model.embedded(&plan.depending.ids, trained)?;
    let (mut past, mut all_kept) = (Vec::new(), Vec::new());
    let owned = |(k, v): (Buffer, Buffer)| (k.to_vec(), v.to_vec());
    for (i, block) in model.blocks().iter().enumerate() {
        let last = i + 1 == model.blocks().len();
        let mut key_values = if plan.constant.ids.is_empty() {
            plan.known.iter().any(|c| !c.rows.is_empty()).then(Default::default)
        } else if last && plan.constant.labelled.is_empty() {
            Some(owned(block.run_key_values(&constant, &constant_rows, &buffers)))
        } else {
            let none = Past::default();
            Some(owned(block.run(&mut constant, &constant_rows, none, None, &buffers)))
        };
        if let Some((k, v)) = &mut key_values {
            record_rows(plan, (&k[..], &v[..]), record);
            append_known(plan, known, (i, model.blocks().len()), (k, v));
        }
        if plan.depending.ids.is_empty() {
            continue;
        }
        let mut kept = Kept::default();
        let keep = keep.map(|levels| (levels[i], &mut kept));
        let is_kept = keep.is_some();
        block.run(&mut depending, &rows, past_of(key_values.as_ref()), keep, &buffers);
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

/// The gradient of the embedded rows from that of the last hidden ones. What was kept of a block is dropped as soon as the
/// block is done.
pub(super) fn pull(model: &CausalLm, trace: Trace, mut gradient: Vec<f32>) -> Vec<f32> {
    let Trace { buffers, rows, past, kept } = trace;
    for (block, (past, kept)) in model.blocks().iter().zip(past.into_iter().zip(kept)).rev() {
        block.pull(&mut gradient, kept, &rows, past_of(past.as_ref()), &buffers);
    }
    gradient
}
