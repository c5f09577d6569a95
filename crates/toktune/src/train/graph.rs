//! A pass over a model's blocks through candle's autograd, one block's graph at a time: for devices that have no kernels of
//! ours, and as the other opinion that [`super::pass`] is tested against.

use super::plan::Plan;
use crate::error::Result;
use crate::models::{CausalLm, RowsOfBatch, TrainedRows};
use crate::ops::{KeyValues, vjp};
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
            let (next, _) = block.forward(&depending, &rows, key_values.as_ref())?;
            let input = std::mem::replace(&mut depending, next);
            if keep {
                inputs.push(input);
                past.push(key_values);
            }
        }
    }
    Ok((Trace { rows, inputs, past }, on_host(&constant)?, on_host(&depending)?))
}

/// The gradient of the embedded rows from that of the last hidden ones.
pub(super) fn pull(model: &CausalLm, trace: Trace, upstream: Vec<f32>) -> Result<Vec<f32>> {
    let Trace { rows, inputs, past } = trace;
    let mut upstream = Tensor::from_vec(
        upstream,
        inputs.first().map_or((0, 0).into(), |x| x.shape().clone()),
        model.device(),
    )?;
    for (block, (input, past)) in model.blocks().iter().zip(inputs.into_iter().zip(past)).rev() {
        upstream = vjp(&input, &upstream, |x| Ok(block.forward(x, &rows, past.as_ref())?.0))?;
    }
    on_host(&upstream)
}

fn on_host(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}
