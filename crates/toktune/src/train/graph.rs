//! A pass over a stack's blocks through candle's autograd, one block's graph at a time: for devices that have no kernels of
//! ours, for LoRA, and as the other opinion that [`super::pass`] is tested against.

use super::pass::StackRun;
use crate::error::Result;
use crate::models::{Memory, RowsOfBatch};
use crate::ops::{KeyValues, vjp_with};
use candle_core::{Device, Tensor, Var};

/// What the forward pass leaves for the backward one.
pub(super) struct Trace {
    rows: RowsOfBatch,
    /// Input of every block for the depending rows `[rows, d]`.
    inputs: Vec<Tensor>,
    /// Keys and values of the constant rows in every block.
    past: Vec<Option<KeyValues>>,
}

impl Trace {
    /// Where the depending rows stand.
    pub(super) fn rows(&self) -> &RowsOfBatch {
        &self.rows
    }
}

/// The hidden rows after the last block, constant and depending ones; with `keep`, what the backward pass needs is left.
pub(super) fn forward(
    run: StackRun<'_>,
    memory: Option<&Memory>,
    keep: bool,
) -> Result<(Trace, Vec<f32>, Vec<f32>)> {
    let (plan, device, d) = (run.plan, run.model.device(), run.stack.spec().hidden_size);
    let constant_rows = run.rows_of(&plan.constant, false);
    let rows = run.rows_of(&plan.depending, true);
    let tensor = |x: Vec<f32>| Tensor::from_vec(x.clone(), (x.len() / d.max(1), d), device);
    let mut constant = tensor(run.embedded(&plan.constant, &constant_rows)?)?;
    let mut depending = tensor(run.embedded(&plan.depending, &rows)?)?;
    let is_causal = run.stack.spec().attention.causal;
    // constant rows see constant rows of the encoder alone
    let memory_of_constant = memory
        .map(|memory| {
            let depending = Tensor::zeros((0, d), memory.depending.dtype(), device)?;
            Ok::<_, crate::Error>(Memory { depending, constant: memory.constant.clone() })
        })
        .transpose()?;
    let (mut inputs, mut past) = (Vec::new(), Vec::new());
    for (i, block) in run.stack.blocks().iter().enumerate() {
        let key_values = if plan.constant.ids.is_empty() {
            None
        } else if run.needs_key_values_only(i) {
            Some(block.key_values(&constant, &constant_rows)?)
        } else {
            let (next, key_values) =
                block.forward(&constant, &constant_rows, None, memory_of_constant.as_ref())?;
            constant = next;
            is_causal.then_some(key_values)
        };
        if !plan.depending.ids.is_empty() {
            // with updates there are no constant rows, which would need them too
            let updates = run.updates.map(|blocks| &blocks[i]);
            let (next, _) = block.forward_with(&depending, &rows, key_values.as_ref(), memory, updates)?;
            let input = std::mem::replace(&mut depending, next);
            if keep {
                inputs.push(input);
                past.push(key_values);
            }
        }
    }
    Ok((Trace { rows, inputs, past }, on_host(&constant)?, on_host(&depending)?))
}

/// The gradient of the embedded rows from that of the last hidden ones; that of the encoder's depending rows is added to
/// `dmemory`. `add` is told the gradients of the updates: the update's number, 0 for `A` and 1 for `B`, the gradient.
pub(super) fn pull(
    run: StackRun<'_>,
    trace: Trace,
    upstream: Vec<f32>,
    memory: Option<&Memory>,
    dmemory: &mut [f32],
    mut add: impl FnMut(usize, usize, Vec<f32>),
) -> Result<Vec<f32>> {
    let Trace { rows, inputs, past } = trace;
    let mut upstream = Tensor::from_vec(
        upstream,
        inputs.first().map_or((0, 0).into(), |x| x.shape().clone()),
        run.model.device(),
    )?;
    // rows of the encoder that depend have a gradient too
    let depends = memory.is_some_and(|memory| memory.depending.elem_count() > 0);
    let memory_var =
        memory.filter(|_| depends).map(|memory| Var::from_tensor(&memory.depending)).transpose()?;
    let tracked_memory = memory.map(|memory| Memory {
        depending: memory_var.as_ref().map_or(&memory.depending, |var| var.as_tensor()).clone(),
        constant: memory.constant.clone(),
    });
    let blocks = run.stack.blocks().iter().enumerate();
    for ((i, block), (input, past)) in blocks.zip(inputs.into_iter().zip(past)).rev() {
        let of_block = run.updates.map(|blocks| &blocks[i]).filter(|updates| !updates.0.is_empty());
        let tracked = of_block.map(|updates| updates.tracked()).transpose()?;
        let (updates, mut vars) = tracked.unzip();
        let vars = vars.get_or_insert_default();
        vars.extend(memory_var.clone());
        let (dx, mut gradients) = vjp_with(&input, vars, &upstream, |x| {
            let memory = tracked_memory.as_ref();
            Ok(block.forward_with(x, &rows, past.as_ref(), memory, updates.as_ref())?.0)
        })?;
        upstream = dx;
        if memory_var.is_some() {
            let gradient = gradients.pop().map(|gradient| on_host(&gradient)).transpose()?;
            dmemory.iter_mut().zip(gradient.unwrap_or_default()).for_each(|(sum, g)| *sum += g);
        }
        for (update, pair) in of_block.iter().flat_map(|u| &u.0).zip(gradients.chunks_exact(2)) {
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
