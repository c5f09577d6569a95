//! The forward and backward pass of one micro-batch, a block at a time.
//!
//! Forward, the constant rows leave their keys and values in every block, and the depending rows their block's input and
//! what else of the block there is room for ([`super::kept`]). The loss gives the gradient of the last hidden rows; then,
//! last block to first, the gradient is pulled through one block after the other. What reaches the bottom is added to the
//! rows of the trained tokens. In an encoder-decoder the encoder passes first forward and last backward.
//!
//! On the CPU a block runs without a graph ([`super::pass`]); elsewhere, with LoRA, and for comparison, with one
//! ([`super::graph`]). With LoRA every row before the last label depends, and the graphs give the gradients of its updates.

mod losses;
mod pairs;

use super::constants::{CachedExamples, Constants};
use super::pass::StackRun;
use super::plan::{Crossing, Plan, Rules};
use super::{graph, kept, pass};
use crate::data::{RaggedBatch, RaggedRows};
use crate::error::{Error, Result};
use crate::models::block::pass::HostMemory;
use crate::models::{BlockUpdates, Memory, ModelKind, PretrainedModel, RowsOfBatch, Stack, TrainedRows};
use crate::profile;
use crate::tuners::ActiveRows;
use candle_core::Tensor;
use losses::Hidden;
use std::borrow::Cow;
use std::ops::Range;

pub use pairs::NO_TOKEN;

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
    /// Of pairs: how many anchors have their own positive as the nearest of the batch; `None` for other models.
    pub nearest: Option<usize>,
}

impl StepOutput {
    /// The sum of the losses.
    pub fn loss_sum(&self) -> f64 {
        self.losses.iter().map(|(_, loss)| *loss as f64).sum()
    }
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
/// An id is past the vocabulary, the batch is one for another kind of model, the file of the constants cannot be read or
/// written, or the loss is not finite; then a weight that is not finite is named if there is one.
pub fn run(
    model: &PretrainedModel,
    rows: ActiveRows<'_>,
    batch: &RaggedBatch,
    wanted: Wanted,
    options: StepOptions<'_>,
) -> Result<StepOutput> {
    if batch.encoder.is_some() != model.encoder().is_some() {
        return Err(Error::WrongBatch { expected: model.kind().auto_class() });
    }
    let updates = rows.updates(model)?;
    let shortcuts = wanted != Wanted::GradientsWithoutShortcuts;
    let on_host = shortcuts && updates.is_none() && model.device().is_cpu();
    let blocks_of_encoder = model.encoder().map_or(0, |encoder| encoder.blocks().len());
    let (of_encoder, of_stack) = match &updates {
        Some(updates) => {
            let (encoder, stack) = updates.split_at(blocks_of_encoder);
            (Some(encoder), Some(stack))
        }
        None => (None, None),
    };
    let mut step = Step {
        backward: wanted != Wanted::Losses,
        on_host,
        shortcuts,
        // what may be kept is shared by the stacks
        kept_bytes: options.kept_bytes / model.stack_specs().count() as u64,
        gradients: rows.zero_gradients(),
        ..Step::new(model, rows)
    };
    let constants = options.constants.filter(|_| on_host && model.kind() == ModelKind::Causal);
    let losses = match (model.encoder(), &batch.encoder) {
        (Some(encoder), Some(inputs)) => {
            step.encoder_decoder(encoder, batch, inputs, (of_encoder, of_stack))?
        }
        _ if model.kind() == ModelKind::SentencePairs => step.sentence_pairs(batch, of_stack)?,
        _ => step.one_stack(batch, of_stack, constants)?,
    };
    if let Some(&(target, loss)) = losses.iter().find(|(_, loss)| !loss.is_finite()) {
        return Err(not_finite(model, target, loss));
    }
    Ok(StepOutput { losses, gradients: step.gradients, nearest: step.nearest })
}

/// One pass over a micro-batch.
struct Step<'a> {
    model: &'a PretrainedModel,
    rows: ActiveRows<'a>,
    backward: bool,
    on_host: bool,
    shortcuts: bool,
    has_updates: bool,
    kept_bytes: u64,
    /// One for everything that is trained.
    gradients: Vec<Vec<f32>>,
    /// Of pairs, once they have passed.
    nearest: Option<usize>,
}

/// What a forward pass left, by the way it ran.
enum Trace {
    Host(pass::Trace),
    Graph(graph::Trace),
}

impl Trace {
    fn rows(&self) -> &RowsOfBatch {
        match self {
            Trace::Host(trace) => trace.rows(),
            Trace::Graph(trace) => trace.rows(),
        }
    }
}

/// The rows of a stack after its last block.
struct Forward {
    trace: Trace,
    constant: Vec<f32>,
    depending: Vec<f32>,
}

/// The encoder's rows as a decoder sees them.
#[derive(Default)]
struct MemoryRows {
    depending: Vec<f32>,
    constant: Vec<f32>,
    /// The same on the device, where a graph needs them.
    tensors: Option<Memory>,
}

impl MemoryRows {
    fn on_host(&self) -> HostMemory<'_> {
        HostMemory { depending: &self.depending, constant: &self.constant }
    }
}

/// The rows of `batch` that a step computes, for each stack they pass through.
pub(super) fn plans<'a>(
    model: &'a PretrainedModel,
    rows: ActiveRows<'_>,
    batch: &RaggedBatch,
) -> Vec<(&'a Stack, Plan)> {
    let step = Step::new(model, rows);
    match (model.encoder(), &batch.encoder) {
        (Some(encoder), Some(inputs)) => {
            let (plan, depends) = step.encoder_plan(encoder, batch, inputs);
            vec![(encoder, plan), (model.stack(), step.stack_plan(batch, Some(&depends), |_| false))]
        }
        _ => vec![(model.stack(), step.stack_plan(batch, None, |_| false))],
    }
}

impl<'a> Step<'a> {
    /// A pass that has nothing to do yet.
    fn new(model: &'a PretrainedModel, rows: ActiveRows<'a>) -> Self {
        Self {
            model,
            rows,
            backward: false,
            on_host: true,
            shortcuts: true,
            has_updates: rows.has_updates(),
            kept_bytes: 0,
            gradients: Vec::new(),
            nearest: None,
        }
    }

    fn rules<'r>(&self, stack: &Stack, input: Option<&'r TrainedRows>) -> Rules<'r> {
        let (causal, padding) = (stack.spec().attention.causal, stack.spec().embedding.positions.padding());
        Rules { blocks: self.has_updates, shortcuts: self.shortcuts, padding, ..Rules::new(input, causal) }
    }

    /// A decoder or a masked language model.
    fn one_stack(
        &mut self,
        batch: &RaggedBatch,
        updates: Option<&[BlockUpdates]>,
        mut cached: Option<CachedExamples<'_>>,
    ) -> Result<LabelLosses> {
        let (model, trained) = (self.model, self.rows.input_rows());
        let is_known = |sequence| cached.as_ref().is_some_and(|c| c.is_known(sequence));
        let plan = self.stack_plan(batch, None, is_known);
        let known = plan.known.iter().map(|c| known_constants(cached.as_ref(), c.sequence));
        let known = known.collect::<Result<Vec<_>>>()?;
        let mut record = room_for(model, &plan, cached.as_ref());
        let run = StackRun { model, stack: model.stack(), trained, updates, plan: &plan, crossing: None };
        let pull = self.pulls(&plan) && !plan.depending.labelled.is_empty();
        let forward = self.forward(run, &MemoryRows::default(), pull, &known, &mut record)?;
        let constant = Hidden { part: &plan.constant, rows: &forward.constant };
        let mut losses = self.constant_losses(&plan, constant, &known, &mut record);
        drop(known);
        if let Some(cached) = &mut cached {
            for (of, constants) in plan.computed.iter().zip(record) {
                if let Some(constants) = constants {
                    cached.cache.insert(cached.examples[of.sequence], constants);
                }
            }
        }
        let (more, upstream) = self.head(Hidden { part: &plan.depending, rows: &forward.depending }, pull);
        losses.extend(more);
        if let Some(upstream) = upstream {
            let finite = losses.iter().all(|(_, loss)| loss.is_finite());
            if finite {
                self.pull(run, forward.trace, upstream, &MemoryRows::default(), &mut [], self.rows.input)?;
            }
        }
        Ok(losses)
    }

    /// The encoder's rows that are computed, with the sequences of the batch whose encoder rows depend.
    fn encoder_plan(&self, encoder: &Stack, batch: &RaggedBatch, inputs: &RaggedRows) -> (Plan, Vec<bool>) {
        let is_wanted =
            |rows: Range<usize>| !self.shortcuts || batch.targets[rows].iter().any(Option::is_some);
        let wanted: Vec<bool> = batch.sequences().map(is_wanted).collect();
        let inputs = RaggedBatch {
            ids: inputs.ids.clone(),
            starts: inputs.starts.clone(),
            targets: vec![None; inputs.ids.len()],
            encoder: None,
        };
        let rules = Rules { wanted: Some(&wanted), ..self.rules(encoder, self.rows.encoder_rows()) };
        let plan = Plan::new(&inputs, &rules, |_| false);
        let mut depends = vec![false; wanted.len()];
        plan.depending.sequences.iter().for_each(|&sequence| depends[sequence] = true);
        (plan, depends)
    }

    /// The rows of the stack that are computed; `memory` says whose encoder rows depend.
    fn stack_plan(
        &self,
        batch: &RaggedBatch,
        memory: Option<&[bool]>,
        known: impl Fn(usize) -> bool,
    ) -> Plan {
        let wanted = vec![true; batch.sequences().len()];
        // pairs have no labels: every sequence of them is wanted
        let wanted = (self.model.kind() == ModelKind::SentencePairs).then_some(&wanted[..]);
        let rules = Rules { memory, wanted, ..self.rules(self.model.stack(), self.rows.input_rows()) };
        Plan::new(batch, &rules, known)
    }

    /// An encoder-decoder: the encoder's rows first, then the decoder's over them, and back in the other order.
    fn encoder_decoder(
        &mut self,
        encoder: &'a Stack,
        batch: &RaggedBatch,
        inputs: &RaggedRows,
        (of_encoder, of_stack): (Option<&[BlockUpdates]>, Option<&[BlockUpdates]>),
    ) -> Result<LabelLosses> {
        let (model, trained) = (self.model, self.rows.encoder_rows());
        let (plan, depends) = self.encoder_plan(encoder, batch, inputs);
        let run =
            StackRun { model, stack: encoder, trained, updates: of_encoder, plan: &plan, crossing: None };
        let pull_encoder = self.pulls(&plan);
        let none = MemoryRows::default();
        let ahead = self.forward(run, &none, pull_encoder, &[], &mut [])?;
        let mut memory = MemoryRows {
            depending: encoder.end().run(ahead.depending.clone()),
            constant: encoder.end().run(ahead.constant),
            tensors: None,
        };
        if !self.on_host {
            let d = encoder.spec().hidden_size;
            let tensor = |x: &[f32]| Tensor::from_slice(x, (x.len() / d.max(1), d), model.device());
            memory.tensors =
                Some(Memory { depending: tensor(&memory.depending)?, constant: tensor(&memory.constant)? });
        }

        let of_decoder = self.rows.input_rows();
        let decoder_plan = self.stack_plan(batch, Some(&depends), |_| false);
        let crossing = Crossing::new(&plan, &decoder_plan);
        let decoder_run = StackRun {
            model,
            stack: model.stack(),
            trained: of_decoder,
            updates: of_stack,
            plan: &decoder_plan,
            crossing: Some(&crossing),
        };
        let depending = &decoder_plan.depending;
        let pull =
            self.backward && !depending.labelled.is_empty() && (pull_encoder || self.pulls(&decoder_plan));
        let forward = self.forward(decoder_run, &memory, pull, &[], &mut [])?;
        let constant = Hidden { part: &decoder_plan.constant, rows: &forward.constant };
        let mut losses = self.constant_losses(&decoder_plan, constant, &[], &mut []);
        let (more, upstream) = self.head(Hidden { part: depending, rows: &forward.depending }, pull);
        losses.extend(more);
        let Some(upstream) = upstream.filter(|_| losses.iter().all(|(_, loss)| loss.is_finite())) else {
            return Ok(losses);
        };
        let mut dmemory = vec![0f32; memory.depending.len()];
        self.pull(decoder_run, forward.trace, upstream, &memory, &mut dmemory, self.rows.input)?;
        if pull_encoder {
            let upstream = encoder.end().pull(&ahead.depending, dmemory);
            self.pull(run, ahead.trace, upstream, &none, &mut [], self.rows.encoder)?;
        }
        Ok(losses)
    }

    /// Whether something below the depending rows of `plan` is trained.
    fn pulls(&self, plan: &Plan) -> bool {
        // without a trained input token or update there is nothing to pull through the blocks
        self.backward && !plan.depending.ids.is_empty() && (self.rows.acts_on_inputs() || self.has_updates)
    }

    fn forward(
        &self,
        run: StackRun<'_>,
        memory: &MemoryRows,
        pull: bool,
        known: &[Cow<'_, Constants>],
        record: &mut [Option<Constants>],
    ) -> Result<Forward> {
        if self.on_host {
            let levels = || kept::levels(run.stack.blocks(), run.plan.depending.ids.len(), self.kept_bytes);
            let keep = pull.then(levels);
            let (trace, constant, depending) =
                pass::forward(run, memory.on_host(), keep.as_deref(), known, record)?;
            return Ok(Forward { trace: Trace::Host(trace), constant, depending });
        }
        let (trace, constant, depending) = graph::forward(run, memory.tensors.as_ref(), pull)?;
        Ok(Forward { trace: Trace::Graph(trace), constant, depending })
    }

    /// Pulls the gradient `upstream` of the last hidden rows of `run` to the bottom, and adds it to the rows of the trained
    /// layer `layer` that embeds its tokens.
    fn pull(
        &mut self,
        run: StackRun<'_>,
        trace: Trace,
        upstream: Vec<f32>,
        memory: &MemoryRows,
        dmemory: &mut [f32],
        layer: Option<usize>,
    ) -> Result<()> {
        let rows = trace.rows().clone();
        let dx = match trace {
            Trace::Host(trace) => pass::pull(run.stack, trace, upstream, memory.on_host(), dmemory),
            Trace::Graph(trace) => {
                let (rows, gradients) = (self.rows, &mut self.gradients);
                let add = |index, part: usize, gradient: Vec<f32>| {
                    let sums = &mut gradients[rows.place_of_update(index) + part];
                    sums.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
                };
                graph::pull(run, trace, upstream, memory.tensors.as_ref(), dmemory, add)?
            }
        };
        match layer {
            Some(layer) => self.add_to_rows(run, &rows, &dx, layer),
            None => Ok(()),
        }
    }

    /// Adds the gradient of the embedded rows to that of the tokens they are.
    fn add_to_rows(&mut self, run: StackRun<'_>, rows: &RowsOfBatch, dx: &[f32], layer: usize) -> Result<()> {
        let Some(trained) = run.trained else { return Ok(()) };
        let (ids, d) = (&run.plan.depending.ids, run.stack.spec().hidden_size);
        let (chosen, places): (Vec<usize>, Vec<usize>) =
            ids.iter().enumerate().filter_map(|(row, &id)| Some((row, trained.position(id)?))).unzip();
        let dx: Vec<f32> = chosen.iter().flat_map(|&row| &dx[row * d..][..d]).copied().collect();
        let table = self.model.embedding().table(run.trained);
        let dtokens = run.stack.pull_embedding(ids, rows, &chosen, &table, dx)?;
        let places: Vec<(usize, usize)> = places.into_iter().enumerate().collect();
        let (scale, width) = (run.stack.spec().embedding.scale, trained.width());
        let sums = &mut self.gradients[layer];
        profile::time(profile::Part::Embedding, 0, || {
            toktune_kernels::embedding::scatter_add(&dtokens, &places, scale, width, sums);
        });
        Ok(())
    }
}

fn known_constants<'a>(
    cached: Option<&'a CachedExamples<'_>>,
    sequence: usize,
) -> Result<Cow<'a, Constants>> {
    let found = cached.map(|c| c.cache.get(c.examples[sequence])).transpose()?.flatten();
    Ok(found.unwrap_or_default())
}

/// Empty constants to be recorded for each computed sequence that the cache has room for.
fn room_for(
    model: &PretrainedModel,
    plan: &Plan,
    cached: Option<&CachedExamples<'_>>,
) -> Vec<Option<Constants>> {
    let spec = model.stack().spec();
    let row = 2 * model.blocks().len() * spec.attention.kv_heads * spec.attention.head_dim;
    let width = spec.embedding.width;
    let mut floats = 0;
    let sizes = plan.computed.iter().map(|of| {
        let key_values = if of.has_depending { of.rows.len() * row } else { 0 };
        key_values + of.labelled.len() * (width + 2)
    });
    sizes
        .map(|size| {
            let fits = cached.is_some_and(|c| c.cache.has_room(floats + size));
            floats += if fits { size } else { 0 };
            fits.then(Constants::default)
        })
        .collect()
}

fn not_finite(model: &PretrainedModel, target: u32, loss: f32) -> Error {
    let what = match model.first_non_finite() {
        Some((name, row)) => format!("{name}.weight, row {row}"),
        None => format!("the loss of label {target} is {loss}"),
    };
    Error::NotFinite { what }
}
