//! The forward and backward pass of one micro-batch, a block at a time.
//!
//! Forward, the constant rows leave their keys and values in every block, and the depending rows their block's input and
//! what else of the block there is room for ([`super::kept`]). The loss gives the gradient of the last hidden rows; then,
//! last block to first, one block's graph is rebuilt on the depending rows, the gradient pulled through it, and the
//! graph dropped. What reaches the bottom is added to the rows of the trained tokens. With LoRA every row depends, and each
//! block's graph gives the gradients of its updates too.

use super::kept::levels;
use super::plan::{Part, Plan};
use crate::data::RaggedBatch;
use crate::error::{Error, Result};
use crate::models::{BlockUpdates, CausalLm, RowsOfBatch, TrainedRows};
use crate::ops::{HeadGradients, Keep, KeyValues, Memo, cross_entropy, vjp, vjp_with};
use crate::profile;
use crate::tuners::ActiveRows;
use candle_core::{Device, Tensor};

/// What a pass over a micro-batch is to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The losses.
    Losses,
    /// The losses and the gradients.
    Gradients,
    /// The same, computing every row as if it depended on what is trained: slower, for comparison.
    GradientsWithoutShortcuts,
}

/// Labels with the losses of their rows, in nats.
pub type LabelLosses = Vec<(u32, f32)>;

/// The result of a pass over a micro-batch.
#[derive(Clone, Debug)]
pub struct StepOutput {
    /// Each label with the loss of its row, in nats.
    pub losses: LabelLosses,
    /// The gradient of the *sum* of the losses, one for each trained layer, `[k, d]`, then for `A` and `B` of each
    /// LoRA update; zeros where only losses were wanted. Divide by the number of labels of the whole optimizer step.
    pub gradients: Vec<Vec<f32>>,
}

impl StepOutput {
    /// The sum of the losses.
    pub fn loss_sum(&self) -> f64 {
        self.losses.iter().map(|(_, loss)| *loss as f64).sum()
    }
}

/// What the forward pass leaves for the backward one.
struct Trace {
    /// Input of every block for the depending rows `[rows, d]`.
    inputs: Vec<Tensor>,
    /// Keys and values of the constant rows in every block.
    past: Vec<Option<KeyValues>>,
    /// What was kept of every block.
    memos: Vec<Memo>,
    /// Hidden rows after the last block.
    constant: Tensor,
    depending: Tensor,
    depending_rows: RowsOfBatch,
}

/// Runs `model` with `rows` over `batch`, keeping at most `kept_bytes` of activations for the backward pass beside the
/// inputs of the blocks; the result does not depend on how many.
///
/// # Errors
/// An id is past the vocabulary, or the loss is not finite; then a weight that is not finite is named if there is one.
pub fn run(
    model: &CausalLm,
    rows: ActiveRows<'_>,
    batch: &RaggedBatch,
    wanted: Wanted,
    kept_bytes: u64,
) -> Result<StepOutput> {
    let updates = rows.updates(model)?;
    let shortcuts = wanted != Wanted::GradientsWithoutShortcuts;
    let plan = Plan::new(batch, rows.input_rows(), updates.is_some(), shortcuts);
    let mut gradients = rows.zero_gradients();
    let backward = wanted != Wanted::Losses;
    // without a trained input token or update there is nothing to pull through the blocks
    let trained = rows.input.is_some() || updates.is_some();
    let pull = backward && trained && !plan.depending.labelled.is_empty();
    let keep = pull.then(|| levels(model.blocks(), plan.depending.ids.len(), kept_bytes));
    let trace = forward(model, rows.input_rows(), updates.as_deref(), &plan, keep.as_deref())?;
    let (mut losses, _) =
        head(model, rows, &plan.constant, &trace.constant, false, backward, &mut gradients)?;
    let (more, upstream) =
        head(model, rows, &plan.depending, &trace.depending, pull, backward, &mut gradients)?;
    losses.extend(more);
    if let Some(&(target, loss)) = losses.iter().find(|(_, loss)| !loss.is_finite()) {
        return Err(not_finite(model, target, loss));
    }
    if let Some(upstream) = upstream {
        let dx = pull_through_blocks(model, rows, updates.as_deref(), trace, upstream, &mut gradients)?;
        if let Some(at) = rows.input {
            add_to_rows(model, rows.input_rows(), &plan.depending.ids, &dx, &mut gradients[at])?;
        }
    }
    Ok(StepOutput { losses, gradients })
}

/// With `keep`, a level for each block, everything is left that the backward pass needs.
fn forward(
    model: &CausalLm,
    trained: Option<&TrainedRows>,
    updates: Option<&[BlockUpdates]>,
    plan: &Plan,
    keep: Option<&[Keep]>,
) -> Result<Trace> {
    let constant_rows = model.rows_of(plan.constant.spans.clone());
    let depending_rows = model.rows_of(plan.depending.spans.clone());
    let mut constant = model.embed(&plan.constant.ids, trained)?;
    let mut depending = model.embed(&plan.depending.ids, trained)?;
    let (mut inputs, mut past, mut memos) = (Vec::new(), Vec::new(), Vec::new());
    for (i, block) in model.blocks().iter().enumerate() {
        let last = i + 1 == model.blocks().len();
        let key_values = if plan.constant.ids.is_empty() {
            None
        } else if last && plan.constant.labelled.is_empty() {
            Some(block.key_values(&constant, &constant_rows)?)
        } else {
            let (next, key_values) = block.forward(&constant, &constant_rows, None, &mut Memo::off())?;
            constant = next;
            Some(key_values)
        };
        if !plan.depending.ids.is_empty() {
            let mut memo = keep.map_or_else(Memo::off, |keep| Memo::record(keep[i]));
            // with updates there are no constant rows, for which they would be needed too
            let updates = updates.map(|blocks| &blocks[i]);
            let (next, _) =
                block.forward_with(&depending, &depending_rows, key_values.as_ref(), &mut memo, updates)?;
            let input = std::mem::replace(&mut depending, next);
            if keep.is_some() {
                inputs.push(input);
                past.push(key_values);
                memos.push(memo.into_replay());
            }
        }
    }
    Ok(Trace { inputs, past, memos, constant, depending, depending_rows })
}

/// The losses of a part's labelled rows, and, when `pull`, the gradient of its hidden rows `[rows, d]`. The head's own
/// trained rows get their gradient when `train`.
fn head(
    model: &CausalLm,
    rows: ActiveRows<'_>,
    part: &Part,
    x: &Tensor,
    pull: bool,
    train: bool,
    gradients: &mut [Vec<f32>],
) -> Result<(LabelLosses, Option<Tensor>)> {
    if part.targets.is_empty() {
        return Ok((Vec::new(), None));
    }
    let index = Tensor::from_slice(&part.labelled, part.labelled.len(), x.device())?;
    let labelled = x.index_select(&index, 0)?;
    let hidden = model.final_norm(&labelled)?;
    let trained = rows.output.filter(|_| train).map(|at| gradients[at].as_mut_slice());
    let table = model.head().table(rows.output_rows());
    let precision = model.head().frozen().precision();
    let (losses, dh) =
        cross_entropy(&hidden, &table, &part.targets, HeadGradients { hidden: pull, trained }, precision)?;
    let upstream = match dh {
        Some(dh) => {
            let dx = vjp(&labelled, &dh, |x| model.final_norm(x))?;
            Some(x.zeros_like()?.index_add(&index, &dx, 0)?)
        }
        None => None,
    };
    Ok((part.targets.iter().copied().zip(losses).collect(), upstream))
}

/// The gradient of the first block's input, from that of the last block's output. What was kept of a block is dropped as
/// soon as the block is done. The gradients of the updates are added to theirs.
fn pull_through_blocks(
    model: &CausalLm,
    active: ActiveRows<'_>,
    updates: Option<&[BlockUpdates]>,
    trace: Trace,
    mut upstream: Tensor,
    gradients: &mut [Vec<f32>],
) -> Result<Tensor> {
    let Trace { inputs, past, memos, depending_rows: rows, .. } = trace;
    let kept = inputs.into_iter().zip(past).zip(memos);
    for (i, (block, ((input, past), mut memo))) in model.blocks().iter().zip(kept).enumerate().rev() {
        let of_block = updates.map(|blocks| &blocks[i]).filter(|updates| !updates.0.is_empty());
        let Some(of_block) = of_block else {
            upstream = vjp(&input, &upstream, |x| Ok(block.forward(x, &rows, past.as_ref(), &mut memo)?.0))?;
            continue;
        };
        let (tracked, vars) = of_block.tracked()?;
        let (dx, of_vars) = vjp_with(&input, &vars, &upstream, |x| {
            Ok(block.forward_with(x, &rows, past.as_ref(), &mut memo, Some(&tracked))?.0)
        })?;
        upstream = dx;
        for (update, pair) in of_block.0.iter().zip(of_vars.chunks_exact(2)) {
            let at = active.place_of_update(update.index);
            for (sums, gradient) in gradients[at..].iter_mut().zip(pair) {
                let gradient: Vec<f32> = gradient.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
                sums.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
            }
        }
    }
    Ok(upstream)
}

/// Adds the gradient of the embedded rows to that of the tokens they are.
fn add_to_rows(
    model: &CausalLm,
    trained: Option<&TrainedRows>,
    ids: &[u32],
    dx: &Tensor,
    sums: &mut [f32],
) -> Result<()> {
    let Some(trained) = trained else { return Ok(()) };
    let places: Vec<(usize, usize)> =
        ids.iter().enumerate().filter_map(|(row, &id)| Some((row, trained.position(id)?))).collect();
    let dx: Vec<f32> = dx.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
    let (scale, width) = (model.spec().embed_scale, trained.width());
    profile::time(profile::Part::Embedding, 0, || {
        toktune_kernels::embedding::scatter_add(&dx, &places, scale, width, sums);
    });
    Ok(())
}

fn not_finite(model: &CausalLm, target: u32, loss: f32) -> Error {
    let what = match model.first_non_finite() {
        Some((name, row)) => format!("{name}.weight, row {row}"),
        None => format!("the loss of label {target} is {loss}"),
    };
    Error::NotFinite { what }
}
