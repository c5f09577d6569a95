//! The forward and backward pass of one micro-batch, a block at a time.
//!
//! Forward, the constant rows leave their keys and values in every block, and the depending rows their block's input and
//! what else of the block there is room for ([`super::kept`]). The loss gives the gradient of the last hidden rows; then,
//! last block to first, the gradient is pulled through one block after the other. What reaches the bottom is added to the
//! rows of the trained tokens.
//!
//! On the CPU a block runs without a graph ([`super::pass`]); elsewhere, with LoRA, and for comparison, with one
//! ([`super::graph`]). With LoRA every row before the last label depends, and the graphs give the gradients of its updates.

use super::plan::{Part, Plan};
use super::{graph, kept, pass};
use crate::data::RaggedBatch;
use crate::error::{Error, Result};
use crate::models::{CausalLm, TrainedRows};
use crate::profile;
use crate::tuners::ActiveRows;
use toktune_kernels::Matrix;
use toktune_kernels::cross_entropy::{Gradients, cross_entropy};
use toktune_kernels::matmul::Write;

/// What a pass over a micro-batch is to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The losses.
    Losses,
    /// The losses and the gradients.
    Gradients,
    /// The same, computing every row as if it depended on what is trained, through candle's autograd: slower, for
    /// comparison.
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

/// What a forward pass left, by the way it ran.
enum Trace {
    Host(pass::Trace),
    Graph(graph::Trace),
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
    let shortcuts = wanted != Wanted::GradientsWithoutShortcuts;
    let updates = rows.updates(model)?;
    let plan = Plan::new(batch, rows.input_rows(), updates.is_some(), shortcuts);
    let mut gradients = rows.zero_gradients();
    let backward = wanted != Wanted::Losses;
    // without a trained input token or update there is nothing to pull through the blocks
    let trained = rows.input.is_some() || updates.is_some();
    let pull = backward && trained && !plan.depending.labelled.is_empty();
    let (trace, constant, depending) = if shortcuts && updates.is_none() && model.device().is_cpu() {
        let keep = pull.then(|| kept::levels(model.blocks(), plan.depending.ids.len(), kept_bytes));
        let (trace, constant, depending) = pass::forward(model, rows.input_rows(), &plan, keep.as_deref())?;
        (Trace::Host(trace), constant, depending)
    } else {
        let (trace, constant, depending) =
            graph::forward(model, rows.input_rows(), updates.as_deref(), &plan, pull)?;
        (Trace::Graph(trace), constant, depending)
    };
    let (mut losses, _) = head(model, rows, &plan.constant, &constant, false, backward, &mut gradients);
    let (more, upstream) = head(model, rows, &plan.depending, &depending, pull, backward, &mut gradients);
    losses.extend(more);
    if let Some(&(target, loss)) = losses.iter().find(|(_, loss)| !loss.is_finite()) {
        return Err(not_finite(model, target, loss));
    }
    if let Some(upstream) = upstream {
        let dx = match trace {
            Trace::Host(trace) => pass::pull(model, trace, upstream),
            Trace::Graph(trace) => {
                let add = |index, part: usize, gradient: Vec<f32>| {
                    let sums = &mut gradients[rows.place_of_update(index) + part];
                    sums.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
                };
                graph::pull(model, updates.as_deref(), trace, upstream, add)?
            }
        };
        if let Some(at) = rows.input {
            add_to_rows(model, rows.input_rows(), &plan.depending.ids, &dx, &mut gradients[at]);
        }
    }
    Ok(StepOutput { losses, gradients })
}

/// The losses of a part's labelled rows, and, when `pull`, the gradient of its hidden rows `x [rows, d]`. The head's own
/// trained rows get their gradient when `train`.
fn head(
    model: &CausalLm,
    rows: ActiveRows<'_>,
    part: &Part,
    x: &[f32],
    pull: bool,
    train: bool,
    gradients: &mut [Vec<f32>],
) -> (LabelLosses, Option<Vec<f32>>) {
    if part.targets.is_empty() {
        return (Vec::new(), None);
    }
    let (d, norm) = (model.spec().hidden_size, model.final_norm_rows());
    let labelled: Vec<f32> =
        part.labelled.iter().flat_map(|&row| &x[row as usize * d..][..d]).copied().collect();
    let mut hidden = vec![0f32; labelled.len()];
    norm.run(&labelled, &mut hidden);
    let table = model.head().table(rows.output_rows());
    let precision = model.head().frozen().precision();
    let mut losses = vec![0f32; part.targets.len()];
    let mut dh = pull.then(|| vec![0f32; hidden.len()]);
    let trained = rows.output.filter(|_| train).map(|at| gradients[at].as_mut_slice());
    let flops = 2 * hidden.len() * table.rows() * if pull { 2 } else { 1 };
    profile::time(profile::Part::Head, flops, || {
        let wanted = Gradients { hidden: dh.as_deref_mut(), trained };
        cross_entropy(&hidden, &table, &part.targets, &mut losses, wanted, precision);
    });
    let upstream = dh.map(|dh| {
        norm.pull(&labelled, &dh, Write::Over, &mut hidden);
        let mut upstream = vec![0f32; x.len()];
        for (row, dx) in part.labelled.iter().zip(hidden.chunks_exact(d)) {
            upstream[*row as usize * d..][..d].copy_from_slice(dx);
        }
        upstream
    });
    (part.targets.iter().copied().zip(losses).collect(), upstream)
}

/// Adds the gradient of the embedded rows to that of the tokens they are.
fn add_to_rows(model: &CausalLm, trained: Option<&TrainedRows>, ids: &[u32], dx: &[f32], sums: &mut [f32]) {
    let Some(trained) = trained else { return };
    let places: Vec<(usize, usize)> =
        ids.iter().enumerate().filter_map(|(row, &id)| Some((row, trained.position(id)?))).collect();
    let (scale, width) = (model.spec().embed_scale, trained.width());
    profile::time(profile::Part::Embedding, 0, || {
        toktune_kernels::embedding::scatter_add(dx, &places, scale, width, sums);
    });
}

fn not_finite(model: &CausalLm, target: u32, loss: f32) -> Error {
    let what = match model.first_non_finite() {
        Some((name, row)) => format!("{name}.weight, row {row}"),
        None => format!("the loss of label {target} is {loss}"),
    };
    Error::NotFinite { what }
}
