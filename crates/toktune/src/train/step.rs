//! The forward and backward pass of one micro-batch, a block at a time.
//!
//! Forward, the constant rows leave their keys and values in every block, and the depending rows their block's input and
//! what else of the block there is room for ([`super::kept`]). The loss gives the gradient of the last hidden rows; then,
//! last block to first, the gradient is pulled through one block after the other. What reaches the bottom is added to the
//! rows of the trained tokens.
//!
//! On the CPU a block runs without a graph ([`super::pass`]); elsewhere, with LoRA, and for comparison, with one
//! ([`super::graph`]). With LoRA every row before the last label depends, and the graphs give the gradients of its updates.

use super::constants::{CachedExamples, Constants};
use super::plan::{Part, Plan};
use super::{graph, kept, pass};
use crate::data::RaggedBatch;
use crate::error::{Error, Result};
use crate::models::{CausalLm, TrainedRows};
use crate::profile;
use crate::tuners::ActiveRows;
use std::borrow::Cow;
use toktune_kernels::Matrix;
use toktune_kernels::cross_entropy::{
    FrozenPart, Gradients, cross_entropy, frozen_parts, with_trained_entries,
};
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

/// How a step is taken; its result does not depend on it.
#[derive(Debug, Default)]
pub struct StepOptions<'a> {
    /// At most so many bytes of activations are kept for the backward pass, beside the inputs of the blocks.
    pub kept_bytes: u64,
    /// Constants from earlier epochs, to be used and added to.
    pub constants: Option<CachedExamples<'a>>,
}

/// Runs `model` with `rows` over `batch`.
///
/// # Errors
/// An id is past the vocabulary, the file of the constants cannot be read or written, or the loss is not finite; then a
/// weight that is not finite is named if there is one.
pub fn run(
    model: &CausalLm,
    rows: ActiveRows<'_>,
    batch: &RaggedBatch,
    wanted: Wanted,
    mut options: StepOptions<'_>,
) -> Result<StepOutput> {
    let shortcuts = wanted != Wanted::GradientsWithoutShortcuts;
    let updates = rows.updates(model)?;
    let on_host = shortcuts && updates.is_none() && model.device().is_cpu();
    let mut cached = options.constants.take().filter(|_| on_host);
    let is_known = |sequence| cached.as_ref().is_some_and(|c| c.is_known(sequence));
    let plan = Plan::new(batch, rows.input_rows(), updates.is_some(), shortcuts, is_known);
    let known = plan.known.iter().map(|c| known_constants(cached.as_ref(), c.sequence));
    let known = known.collect::<Result<Vec<_>>>()?;
    let mut record = room_for(model, &plan, cached.as_ref());
    let mut gradients = rows.zero_gradients();
    let backward = wanted != Wanted::Losses;
    // without a trained input token or update there is nothing to pull through the blocks
    let trained = rows.input.is_some() || updates.is_some();
    let pull = backward && trained && !plan.depending.labelled.is_empty();
    let (trace, constant, depending) = if on_host {
        let levels = || kept::levels(model.blocks(), plan.depending.ids.len(), options.kept_bytes);
        let keep = pull.then(levels);
        let (trace, constant, depending) =
            pass::forward(model, rows.input_rows(), &plan, keep.as_deref(), &known, &mut record)?;
        (Trace::Host(trace), constant, depending)
    } else {
        let (trace, constant, depending) =
            graph::forward(model, rows.input_rows(), updates.as_deref(), &plan, pull)?;
        (Trace::Graph(trace), constant, depending)
    };
    let mut losses = constant_losses(
        model,
        rows,
        &plan,
        &constant,
        &known,
        &mut record,
        backward.then_some(&mut gradients),
    );
    drop(known);
    if let Some(cached) = &mut cached {
        for (of, constants) in plan.computed.iter().zip(record) {
            if let Some(constants) = constants {
                cached.cache.insert(cached.examples[of.sequence], constants)?;
            }
        }
    }
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

fn known_constants<'a>(
    cached: Option<&'a CachedExamples<'_>>,
    sequence: usize,
) -> Result<Cow<'a, Constants>> {
    let found = cached.map(|c| c.cache.get(c.examples[sequence])).transpose()?.flatten();
    Ok(found.unwrap_or_default())
}

/// Empty constants to be recorded for each computed sequence that the cache has room for.
fn room_for(model: &CausalLm, plan: &Plan, cached: Option<&CachedExamples<'_>>) -> Vec<Option<Constants>> {
    let spec = model.spec();
    let row = 2 * model.blocks().len() * spec.kv_heads * spec.head_dim;
    let mut floats = 0;
    let sizes = plan.computed.iter().map(|of| {
        let key_values = if of.has_depending { of.rows.len() * row } else { 0 };
        key_values + of.labelled.len() * (spec.hidden_size + 2)
    });
    sizes
        .map(|size| {
            let fits = cached.is_some_and(|c| c.cache.has_room(floats + size));
            floats += if fits { size } else { 0 };
            fits.then(Constants::default)
        })
        .collect()
}

/// The losses of the constant labelled rows, in the order of their sequences. What does not change of them is recorded;
/// the head's own trained rows get their gradient in `gradients`.
fn constant_losses(
    model: &CausalLm,
    rows: ActiveRows<'_>,
    plan: &Plan,
    x: &[f32],
    known: &[Cow<'_, Constants>],
    record: &mut [Option<Constants>],
    gradients: Option<&mut Vec<Vec<f32>>>,
) -> LabelLosses {
    let d = model.spec().hidden_size;
    let table = model.head().table(rows.output_rows());
    let precision = model.head().frozen().precision();
    let computed = final_rows(model, &labelled_rows(&plan.constant, x, d));
    let flops = 2 * computed.len() * table.rows();
    let frozen = profile::time(profile::Part::Head, flops, || {
        frozen_parts(&computed, &table, &plan.constant.targets, precision)
    });
    let mut parts = Vec::new();
    for (of, record) in plan.computed.iter().zip(record) {
        let (hidden, frozen): (&[f32], &[FrozenPart]) =
            (&computed[of.labelled.start * d..of.labelled.end * d], &frozen[of.labelled.clone()]);
        if let Some(record) = record {
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
    let trained = gradients.and_then(|g| rows.output.map(|at| g[at].as_mut_slice()));
    profile::time(profile::Part::Head, 0, || {
        with_trained_entries(&hidden, &table, &targets, &frozen, &mut losses, trained);
    });
    targets.into_iter().zip(losses).collect()
}

/// The rows of `x [rows, d]` that have labels.
fn labelled_rows(part: &Part, x: &[f32], d: usize) -> Vec<f32> {
    part.labelled.iter().flat_map(|&row| &x[row as usize * d..][..d]).copied().collect()
}

/// Rows after the final norm.
fn final_rows(model: &CausalLm, x: &[f32]) -> Vec<f32> {
    let mut hidden = vec![0f32; x.len()];
    model.final_norm_rows().run(x, &mut hidden);
    hidden
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
    let labelled = labelled_rows(part, x, d);
    let mut hidden = final_rows(model, &labelled);
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
