//! A pass over a model's blocks through candle's autograd, one block's graph at a time: for devices that have no kernels of
//! ours, for LoRA, and as the other opinion that [`super::pass`] is tested against.

use super::plan::Plan;
use crate::error::Result;
use crate::models::{BlockUpdates, CausalLm, RowsOfBatch, TrainedRows};
use crate::ops::{KeyValues, vjp, vjp_with};
use candle_core::{Device, Tensor};

/// What the forward pass leaves for the backward one.
pub(super) struct Trace {
    rows: RowsOfBatch,
    /// Input of every block for the depending rows `[rows, d]`.
    inputs: Vec<Tensor>,
    /// Keys and values of the constant rows in every block.
    past: Vec<Option<KeyValues>>,
}

/// The hidden rows after the last block, constant and depending ones; with `keep`, what the backward pass needs is left.
pub(super) fn forward(
    model: &CausalLm,
    trained: Option<&TrainedRows>,
    updates: Option<&[BlockUpdates]>,
    plan: &Plan,
    keep: bool,
) -> Result<(Trace, Vec<f32>, Vec<f32>)> {
    let constant_rows = model.rows_of(plan.constant.spans.clone());
    let rows = model.rows_of(plan.depending.spans.clone());
    let mut constant = model.embed(&plan.constant.ids, trained)?;
    let mut depending = model.embed(&plan.depending.ids, trained)?;
    let (mut inputs, mut past) = (Vec::new(), Vec::new());
    for (i, block) in model.blocks().iter().enumerate() {
        let last = i + 1 == model.blocks().len();
        let key_values = if plan.constant.ids.is_empty() {
            None
        } else if last && plan.constant.labelled.is_empty() {
            Some(block.key_values(&constant, &constant_rows)?)
        } else {
            let (next, key_values) = block.forward(&constant, &constant_rows, None)?;
            constant = next;
            Some(key_values)
        };
        if !plan.depending.ids.is_empty() {
            // with updates there are no constant rows, which would need them too
            let updates = updates.map(|blocks| &blocks[i]);
            let (next, _) = block.forward_with(&depending, &rows, key_values.as_ref(), updates)?;
            let input = std::mem::replace(&mut depending, next);
            if keep {
                inputs.push(input);
                past.push(key_values);
            }
        }
    }
    Ok((Trace { rows, inputs, past }, on_host(&constant)?, on_host(&depending)?))
}

/// The gradient of the embedded rows from that of the last hidden ones. `add` is told the gradients of the updates: the
/// update's number, 0 for `A` and 1 for `B`, the gradient.
pub(super) fn pull(
    model: &CausalLm,
    updates: Option<&[BlockUpdates]>,
    trace: Trace,
    upstream: Vec<f32>,
    mut add: impl FnMut(usize, usize, Vec<f32>),
) -> Result<Vec<f32>> {
    let Trace { rows, inputs, past } = trace;
    let mut upstream = Tensor::from_vec(
        upstream,
        inputs.first().map_or((0, 0).into(), |x| x.shape().clone()),
        model.device(),
    )?;
    let blocks = model.blocks().iter().enumerate();
    for ((i, block), (input, past)) in blocks.zip(inputs.into_iter().zip(past)).rev() {
        let of_block = updates.map(|blocks| &blocks[i]).filter(|updates| !updates.0.is_empty());
        let Some(of_block) = of_block else {
            upstream = vjp(&input, &upstream, |x| Ok(block.forward(x, &rows, past.as_ref())?.0))?;
            continue;
        };
        let (tracked, vars) = of_block.tracked()?;
        let (dx, gradients) = vjp_with(&input, &vars, &upstream, |x| {
            Ok(block.forward_with(x, &rows, past.as_ref(), Some(&tracked))?.0)
        })?;
        upstream = dx;
        for (update, pair) in of_block.0.iter().zip(gradients.chunks_exact(2)) {
            for (part, gradient) in pair.iter().enumerate() {
                add(update.index, part, on_host(gradient)?);
            }
        }
    }
    on_host(&upstream)
}

fn on_host(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}
