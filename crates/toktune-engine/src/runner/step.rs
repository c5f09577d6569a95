//! The forward and backward pass of one micro-batch.
//!
//! The constant rows run first and leave their keys and values in every block; the depending rows run over them and leave
//! what the backward pass reads. The objective makes losses of the last rows, and gives the gradient of those that depend, which
//! is pulled through the blocks. What reaches the bottom is added to the rows of the trained tokens. In an encoder-decoder
//! the encoder passes first forward and last backward.

use super::readout::Readout;
use crate::backend::Backend;
use crate::batch::RaggedBatch;
use crate::batch::RaggedRows;
use crate::constants::{CachedExamples, Key};
use crate::error::{EngineError, Result};
use crate::layers::{Kept, KeyValues, Memory, Rows, Update};
use crate::model::{Model, Placed, Sums};
use crate::objective::{self, Losses, Objective, Reads};
use crate::plan::{Crossing, Known, NodeKey, Part, Plan, Rules, levels};
use crate::spec::{ModelKind, TrainedRows};
use crate::stack::{self, Run, Stack};
use crate::trained::Trained;

/// What a pass over a micro-batch is to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The losses.
    Losses,
    /// The losses, number for number those that a pass with gradients gives, which [`Wanted::Losses`] of few rows need not be.
    LossesAsTrained,
    /// The losses and the gradients.
    Gradients,
    /// The same, computing every row of every sequence as if it depended on what is trained: slower, for comparison.
    GradientsWithoutShortcuts,
}

/// The result of a pass over a micro-batch.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StepOutput {
    /// The losses.
    pub losses: Losses,
    /// The gradient of the weighted *sum* of the losses, one for each trained layer, `[k, d]`, then for `A` and `B` of each
    /// update; zeros where only losses were wanted. Divide by the weight of the whole optimizer step.
    pub gradients: Vec<Vec<f32>>,
    /// Rows that were not computed, for other sequences have them or they are known from earlier steps.
    pub shared_rows: usize,
}

/// How a step is taken; its result does not depend on it.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct StepOptions<'a> {
    /// At most so many bytes of activations are kept for the backward pass, beside the inputs of the blocks.
    pub kept_bytes: u64,
    /// Constants from earlier steps, to be used and added to.
    pub constants: Option<CachedExamples<'a>>,
}

impl<'a> StepOptions<'a> {
    /// Of both.
    pub fn new(kept_bytes: u64, constants: Option<CachedExamples<'a>>) -> Self {
        StepOptions { kept_bytes, constants }
    }
}

/// What is known of a batch's sequences from earlier steps.
struct KnownOfBatch<'a, 'c>(Option<&'a CachedExamples<'c>>);

impl Known for KnownOfBatch<'_, '_> {
    fn rows(&self, key: NodeKey) -> bool {
        self.0.is_some_and(|cached| key_of(cached, key).is_some_and(|key| cached.cache.contains(key)))
    }

    fn labels(&self, sequence: usize) -> bool {
        let of = |cached: &CachedExamples<'_>| {
            cached.examples.get(sequence).is_some_and(|&example| cached.cache.contains(Key::Labels(example)))
        };
        self.0.is_some_and(of)
    }
}

/// What constant rows are kept under.
fn key_of(cached: &CachedExamples<'_>, key: NodeKey) -> Option<Key> {
    match key {
        NodeKey::Segment(id) => Some(Key::Segment(id)),
        NodeKey::Own(sequence) => cached.examples.get(sequence).map(|&example| Key::Own(example)),
    }
}

/// What surrounds the pass of one stack.
struct Pass<'a, B: Backend> {
    stack: &'a Stack<B>,
    plan: &'a Plan,
    crossing: Option<&'a Crossing>,
    memory: Option<&'a Memory<B::Buffer>>,
    updates: &'a [Vec<Update<B>>],
    /// Which trained rows embed its tokens.
    input: Option<usize>,
}

/// What a stack's forward pass left.
pub(super) struct Forward<B: Backend> {
    /// The constant rows after the last block.
    pub(super) constant: B::Buffer,
    /// The depending rows after the last block.
    pub(super) depending: B::Buffer,
    rows: Rows<B>,
    past: Vec<KeyValues<B::Buffer>>,
    kept: Vec<Kept<B>>,
}

impl<B: Backend> Model<B> {
    /// As [`super::Runner::step`].
    pub(super) fn take_step(
        &self,
        batch: &RaggedBatch,
        trained: &Trained<'_>,
        wanted: Wanted,
        options: StepOptions<'_>,
    ) -> Result<StepOutput> {
        if batch.kind != self.spec.kind || batch.encoder.is_some() != self.encoder.is_some() {
            let (found, expected) = (batch.kind.auto_class(), self.spec.kind.auto_class());
            return Err(EngineError::WrongBatch { found, expected });
        }
        let mut step = Step {
            model: self,
            trained,
            placed: self.place(trained)?,
            sums: Sums::zeros(&self.backend, trained),
            objective: objective_of(batch, self.spec.kind),
            backward: matches!(wanted, Wanted::Gradients | Wanted::GradientsWithoutShortcuts),
            as_trained: wanted != Wanted::Losses,
            shortcuts: wanted != Wanted::GradientsWithoutShortcuts,
            // what may be kept is shared by the stacks
            kept_bytes: options.kept_bytes / self.stacks().count() as u64,
            shared_rows: 0,
        };
        // an encoder's rows are not known from the examples' tokens alone where an update may have changed them
        let constants = options.constants.filter(|_| step.shortcuts && self.encoder.is_none());
        let losses = match (&self.encoder, &batch.encoder) {
            (Some(encoder), Some(inputs)) => step.encoder_decoder(encoder, batch, inputs)?,
            _ => step.one_stack(batch, constants)?,
        };
        let gradients = step.sums.read(&self.backend, trained);
        let shared_rows = step.shared_rows;
        self.backend.release();
        Ok(StepOutput { losses, gradients, shared_rows })
    }

    /// The rows of `batch` that a step computes, for each stack they pass through.
    pub(super) fn plans(&self, batch: &RaggedBatch, trained: &Trained<'_>) -> Vec<(&Stack<B>, Plan)> {
        let planner = Planner { model: self, trained, shortcuts: true };
        match (&self.encoder, &batch.encoder) {
            (Some(encoder), Some(inputs)) => {
                let (plan, depends) = planner.encoder_plan(encoder, batch, inputs);
                vec![(encoder, plan), (&self.stack, planner.stack_plan(batch, Some(&depends), &()))]
            }
            _ => vec![(&self.stack, planner.stack_plan(batch, None, &()))],
        }
    }
}

/// What a batch is for.
fn objective_of(batch: &RaggedBatch, kind: ModelKind) -> &dyn Objective {
    match (&batch.distillation, &batch.preference) {
        (Some(distillation), _) => distillation,
        (None, Some(preference)) => preference,
        (None, None) => objective::of(kind),
    }
}

/// Decides which rows are computed.
struct Planner<'a, 't, B: Backend> {
    model: &'a Model<B>,
    trained: &'a Trained<'t>,
    shortcuts: bool,
}

impl<B: Backend> Planner<'_, '_, B> {
    fn rules<'r>(&self, stack: &Stack<B>, input: Option<&'r TrainedRows>) -> Rules<'r> {
        let (causal, padding) = (stack.spec().attention.causal, stack.spec().embedding.positions.padding());
        let (blocks, shortcuts) = (!self.trained.updates.is_empty(), self.shortcuts);
        Rules { blocks, shortcuts, padding, ..Rules::new(input, causal) }
    }

    /// The encoder's rows that are computed, with the sequences of the batch whose encoder rows depend.
    fn encoder_plan(
        &self,
        encoder: &Stack<B>,
        batch: &RaggedBatch,
        inputs: &RaggedRows,
    ) -> (Plan, Vec<bool>) {
        let is_wanted =
            |rows: std::ops::Range<usize>| !self.shortcuts || batch.targets[rows].iter().any(Option::is_some);
        let wanted: Vec<bool> = batch.sequences().map(is_wanted).collect();
        let inputs = RaggedBatch {
            ids: inputs.ids.clone(),
            starts: inputs.starts.clone(),
            targets: vec![None; inputs.ids.len()],
            ..RaggedBatch::default()
        };
        let rules = Rules { wanted: Some(&wanted), ..self.rules(encoder, self.trained.encoder_rows()) };
        let plan = Plan::new(&inputs, &rules, &());
        let mut depends = vec![false; wanted.len()];
        plan.depending.sequences.iter().for_each(|&sequence| depends[sequence] = true);
        (plan, depends)
    }

    /// The rows of the stack that are computed; `memory` says whose encoder rows depend.
    fn stack_plan(&self, batch: &RaggedBatch, memory: Option<&[bool]>, known: &impl Known) -> Plan {
        let wanted = vec![true; batch.sequences().len()];
        let reads = objective_of(batch, self.model.spec.kind).reads();
        let wanted = (reads == Reads::WholeSequences).then_some(&wanted[..]);
        let rules = Rules { memory, wanted, ..self.rules(&self.model.stack, self.trained.input_rows()) };
        // where entries are left out by chance, and where nothing is left out of the work, no two sequences have the same rows
        if self.shortcuts && !self.trained.drops_out() {
            return Plan::new(batch, &rules, known);
        }
        Plan::new(&RaggedBatch { segments: Vec::new(), ..batch.clone() }, &rules, known)
    }
}

/// One pass over a micro-batch.
struct Step<'a, 't, B: Backend> {
    model: &'a Model<B>,
    trained: &'a Trained<'t>,
    placed: Placed<'t, B>,
    sums: Sums<B>,
    objective: &'a dyn Objective,
    backward: bool,
    /// Whether products are those of training.
    as_trained: bool,
    shortcuts: bool,
    kept_bytes: u64,
    shared_rows: usize,
}

impl<B: Backend> Step<'_, '_, B> {
    fn planner(&self) -> Planner<'_, '_, B> {
        Planner { model: self.model, trained: self.trained, shortcuts: self.shortcuts }
    }

    /// A decoder or an encoder alone.
    fn one_stack(&mut self, batch: &RaggedBatch, mut cached: Option<CachedExamples<'_>>) -> Result<Losses> {
        let model = self.model;
        let plan = self.planner().stack_plan(batch, None, &KnownOfBatch(cached.as_ref()));
        self.shared_rows += plan.unshared_rows.saturating_sub(plan.constant.rows() + plan.depending.rows());
        let [_, updates] = model.split_updates(&self.placed);
        let input = self.trained.input;
        let pass = Pass { stack: &model.stack, plan: &plan, crossing: None, memory: None, updates, input };
        let pull = self.pulls(&plan) && !plan.depending.places.ids.is_empty();
        let forward = self.forward(&pass, pull, cached.as_mut())?;
        let mut readout = Readout {
            model,
            plan: &plan,
            forward: &forward,
            output: self.trained.output.map(|at| &self.placed.rows[at]),
            cached: cached.as_mut(),
            dtrained: self.trained.output.filter(|_| self.backward).map(|at| &mut self.sums.rows[at]),
            pull,
            constants: None,
            upstream: None,
            fault: None,
        };
        let losses = self.objective.losses(&mut readout);
        let upstream = readout.finish()?;
        check_finite(&losses)?;
        if let Some(upstream) = upstream {
            let of = (&self.placed, self.trained);
            pull_to_rows(model, &pass, of, forward, upstream, (&mut self.sums, None))?;
        }
        Ok(losses)
    }

    /// An encoder-decoder: the encoder's rows first, then the decoder's over them, and back in the other order.
    fn encoder_decoder(
        &mut self,
        encoder: &Stack<B>,
        batch: &RaggedBatch,
        inputs: &RaggedRows,
    ) -> Result<Losses> {
        let (model, backend) = (self.model, &self.model.backend);
        let [of_encoder, of_stack] = model.split_updates(&self.placed);
        let (plan, depends) = self.planner().encoder_plan(encoder, batch, inputs);
        let pass = Pass {
            stack: encoder,
            plan: &plan,
            crossing: None,
            memory: None,
            updates: of_encoder,
            input: self.trained.encoder,
        };
        let pull_encoder = self.pulls(&plan);
        let ahead = self.forward(&pass, pull_encoder, None)?;
        let copy = |x: &B::Buffer| backend.part(x, 0..backend.len(x));
        let memory = Memory {
            depending: encoder.end().run(backend, copy(&ahead.depending)),
            constant: (plan.constant.rows() > 0).then(|| encoder.end().run(backend, copy(&ahead.constant))),
        };
        let decoder_plan = self.planner().stack_plan(batch, Some(&depends), &());
        let crossing = Crossing::new(&plan, &decoder_plan);
        let decoder = Pass {
            stack: &model.stack,
            plan: &decoder_plan,
            crossing: Some(&crossing),
            memory: Some(&memory),
            updates: of_stack,
            input: self.trained.input,
        };
        let pull = self.backward
            && !decoder_plan.depending.places.ids.is_empty()
            && (pull_encoder || self.pulls(&decoder_plan));
        let forward = self.forward(&decoder, pull, None)?;
        let mut readout = Readout {
            model,
            plan: &decoder_plan,
            forward: &forward,
            output: self.trained.output.map(|at| &self.placed.rows[at]),
            cached: None,
            dtrained: self.trained.output.filter(|_| self.backward).map(|at| &mut self.sums.rows[at]),
            pull,
            constants: None,
            upstream: None,
            fault: None,
        };
        let losses = self.objective.losses(&mut readout);
        let upstream = readout.finish()?;
        check_finite(&losses)?;
        let Some(upstream) = upstream else { return Ok(losses) };
        let (of, sums) = ((&self.placed, self.trained), &mut self.sums);
        let mut dmemory = backend.zeros(backend.len(&memory.depending));
        pull_to_rows(model, &decoder, of, forward, upstream, (sums, Some(&mut dmemory)))?;
        if pull_encoder {
            let upstream = encoder.end().pull(backend, &ahead.depending, dmemory);
            pull_to_rows(model, &pass, of, ahead, upstream, (sums, None))?;
        }
        Ok(losses)
    }

    /// Whether something below the depending rows of `plan` is trained.
    fn pulls(&self, plan: &Plan) -> bool {
        // without a trained input token or update there is nothing to pull through the blocks
        let trains_below = self.trained.acts_on_inputs() || !self.trained.updates.is_empty();
        self.backward && plan.depending.rows() > 0 && trains_below
    }

    /// The embedded rows of a part, and where they stand.
    fn embedded(&self, pass: &Pass<'_, B>, part: &Part, is_depending: bool) -> Result<(Rows<B>, B::Buffer)> {
        let of = |c: &Crossing| if is_depending { c.depending.clone() } else { c.constant.clone() };
        let rows = pass.stack.rows(&part.places, pass.crossing.map(of));
        let tokens = &self.model.embedding;
        let table = tokens.table(pass.input.map(|at| &self.placed.rows[at]));
        let x = pass.stack.embed(&rows, &table, tokens.rows)?;
        Ok((rows, x))
    }

    /// The rows of a stack after its last block; with `pull` everything is left that the backward pass reads.
    fn forward(
        &self,
        pass: &Pass<'_, B>,
        pull: bool,
        mut cached: Option<&mut CachedExamples<'_>>,
    ) -> Result<Forward<B>> {
        let (plan, stack) = (pass.plan, pass.stack);
        let backend = if self.as_trained { &self.model.backend } else { &self.model.decoding };
        let is_seen = plan.computed.iter().any(|node| node.is_seen);
        // nothing of a last block is needed of rows without labels but keys and values
        let wanted = match plan.constant.entries.is_empty() {
            _ if !stack.spec().attention.causal || !is_seen => stack::Wanted::Hidden,
            true => stack::Wanted::OnlyKeyValues,
            false => stack::Wanted::KeyValues,
        };
        // constant rows see constant rows of the encoder alone
        let memory = pass.memory.map(|memory| Memory {
            depending: backend.take(0),
            constant: memory.constant.as_ref().map(|x| backend.part(x, 0..backend.len(x))),
        });
        let known = self.known(plan, cached.as_deref())?;
        let (rows, x) = self.embedded(pass, &plan.constant, false)?;
        let run = Run { past: &known, memory: memory.as_ref(), ..Run::new(backend) };
        // with updates there are no constant rows, which would need them too
        let constant = match plan.constant.rows() {
            0 => stack::Trace { hidden: x, key_values: Vec::new(), kept: Vec::new() },
            _ => stack.run(&rows, x, &run, wanted),
        };
        drop((rows, memory));
        if let Some(cached) = &mut cached {
            self.record(plan, &constant.key_values, cached);
        }
        let past = self.join(constant.key_values, known);
        let (rows, x) = self.embedded(pass, &plan.depending, true)?;
        let run = Run { past: &past, memory: pass.memory, updates: pass.updates, ..Run::new(backend) };
        let costs: Vec<_> = stack.blocks().iter().map(|block| block.kept_floats()).collect();
        let levels = pull.then(|| levels(&costs, plan.depending.rows(), self.kept_bytes));
        let wanted = levels.as_ref().map_or(stack::Wanted::Hidden, |levels| stack::Wanted::Kept(levels));
        let depending = match plan.depending.rows() {
            0 => stack::Trace { hidden: x, key_values: Vec::new(), kept: Vec::new() },
            _ => stack.run(&rows, x, &run, wanted),
        };
        Ok(Forward {
            constant: constant.hidden,
            depending: depending.hidden,
            rows,
            past: if pull { past } else { Vec::new() },
            kept: depending.kept,
        })
    }

    /// Keys and values of the known constant rows, in every block; nothing where none are known.
    fn known(&self, plan: &Plan, cached: Option<&CachedExamples<'_>>) -> Result<Vec<KeyValues<B::Buffer>>> {
        let (Some(cached), false) = (cached, plan.known.is_empty()) else { return Ok(Vec::new()) };
        let widths: Vec<_> = self.model.stack.blocks().iter().map(|of| of.key_value_widths()).collect();
        let width: usize = widths.iter().flatten().sum();
        let mut kept = Vec::new();
        for node in &plan.known {
            let key = key_of(cached, node.key);
            kept.extend(key.map(|key| cached.cache.get(key)).transpose()?.flatten());
        }
        let mut first = 0;
        let of_block = |[of_keys, of_values]: &[usize; 2]| {
            let (mut k, mut v) = (Vec::new(), Vec::new());
            for floats in &kept {
                let rows = floats.len() / width.max(1);
                let own = &floats[first * rows..][..(of_keys + of_values) * rows];
                let (keys, values) = own.split_at(of_keys * rows);
                k.extend_from_slice(keys);
                v.extend_from_slice(values);
            }
            first += of_keys + of_values;
            KeyValues { k: self.model.backend.place(k), v: self.model.backend.place(v) }
        };
        Ok(widths.iter().map(of_block).collect())
    }

    /// Keeps the keys and values of the computed constant rows that others see.
    fn record(&self, plan: &Plan, key_values: &[KeyValues<B::Buffer>], cached: &mut CachedExamples<'_>) {
        let backend = &self.model.backend;
        if key_values.is_empty() {
            return;
        }
        for node in plan.computed.iter().filter(|node| node.is_seen) {
            let Some(key) = key_of(cached, node.key) else { continue };
            let total: usize = key_values.iter().map(|of| backend.len(&of.k) + backend.len(&of.v)).sum();
            let size = total / plan.constant.rows().max(1) * node.rows.len();
            if cached.cache.contains(key) || !cached.cache.takes(key, size, 0) {
                continue;
            }
            let mut floats = Vec::with_capacity(size);
            for of_block in key_values {
                for x in [&of_block.k, &of_block.v] {
                    let width = backend.len(x) / plan.constant.rows().max(1);
                    let rows = node.rows.start * width..node.rows.end * width;
                    floats.extend(backend.read(&backend.part(x, rows)));
                }
            }
            cached.cache.insert(key, floats);
        }
    }

    /// The keys and values of computed rows, then those of known ones.
    fn join(
        &self,
        computed: Vec<KeyValues<B::Buffer>>,
        known: Vec<KeyValues<B::Buffer>>,
    ) -> Vec<KeyValues<B::Buffer>> {
        if computed.is_empty() || known.is_empty() {
            return if known.is_empty() { computed } else { known };
        }
        let backend = &self.model.backend;
        let join = |a: B::Buffer, b: B::Buffer| {
            let mut both = backend.zeros(backend.len(&a) + backend.len(&b));
            backend.put(&a, 0, &mut both);
            backend.put(&b, backend.len(&a), &mut both);
            both
        };
        let pairs = computed.into_iter().zip(known);
        pairs.map(|(a, b)| KeyValues { k: join(a.k, b.k), v: join(a.v, b.v) }).collect()
    }
}

/// Pulls the gradient `upstream` of the last hidden rows to the bottom, and adds it to the trained rows that embed the tokens.
fn pull_to_rows<B: Backend>(
    model: &Model<B>,
    pass: &Pass<'_, B>,
    (placed, trained): (&Placed<'_, B>, &Trained<'_>),
    forward: Forward<B>,
    upstream: B::Buffer,
    (sums, memory): (&mut Sums<B>, Option<&mut B::Buffer>),
) -> Result<()> {
    let (backend, stack) = (&model.backend, pass.stack);
    let Forward { rows, past, kept, .. } = forward;
    let run = Run { past: &past, memory: pass.memory, updates: pass.updates, ..Run::new(backend) };
    let dx = stack.pull(&rows, &run, kept, upstream, &mut sums.gradients(memory));
    let (Some(layer), Some(of)) = (pass.input, pass.input.map(|at| trained.rows[at])) else { return Ok(()) };
    let places = rows.ids.iter().enumerate().filter_map(|(row, &id)| Some((row as u32, of.position(id)?)));
    let (chosen, places): (Vec<u32>, Vec<usize>) = places.unzip();
    let dx = backend.gather(&dx, &chosen, stack.spec().hidden_size);
    let table = model.embedding.table(Some(&placed.rows[layer]));
    let dtokens = stack.pull_embedding(&rows, &chosen, &table, dx)?;
    let places: Vec<(usize, usize)> = places.into_iter().enumerate().collect();
    let scale = stack.spec().embedding.scale;
    backend.pull_embed(&dtokens, &places, scale, of.width(), &mut sums.rows[layer]);
    Ok(())
}

/// Nothing is pulled through the blocks from a loss that is not finite.
fn check_finite(losses: &Losses) -> Result<()> {
    match losses.losses.iter().find(|loss| !loss.value.is_finite()) {
        None => Ok(()),
        Some(loss) => {
            let what = match loss.target {
                Some(target) => format!("the loss of label {target} is {}", loss.value),
                None => format!("the loss of sequence {} is {}", loss.sequence, loss.value),
            };
            Err(EngineError::NotFinite { what })
        }
    }
}
