//! The last hidden rows of a batch, as an objective reads them.

use super::step::Forward;
use crate::backend::{Backend, FrozenPart, Labels};
use crate::constants::{CachedExamples, Key};
use crate::error::{EngineError, Result};
use crate::model::{Model, PlacedRows};
use crate::objective::{LastRows, Loss};
use crate::plan::{ConstantLabels, Label, Part, Plan};
use crate::spec::pooling;

/// The rows after the last block, with where their gradients go.
pub(super) struct Readout<'a, 'c, 't, B: Backend> {
    pub(super) model: &'a Model<B>,
    pub(super) plan: &'a Plan,
    pub(super) forward: &'a Forward<B>,
    /// The trained rows over the head.
    pub(super) output: Option<&'a PlacedRows<'t, B>>,
    pub(super) cached: Option<&'a mut CachedExamples<'c>>,
    /// Added to: the gradient of the trained rows over the head.
    pub(super) dtrained: Option<&'a mut B::Buffer>,
    /// Whether the gradient of the depending rows is wanted.
    pub(super) pull: bool,
    /// The labelled constant rows of this pass, once they are read.
    pub(super) constants: Option<ConstantRows<B>>,
    /// That gradient.
    pub(super) upstream: Option<B::Buffer>,
    /// What went wrong, since an objective cannot.
    pub(super) fault: Option<EngineError>,
}

/// What does not change of a row's loss: the row after the final norm, and the frozen part.
struct Constant {
    hidden: Vec<f32>,
    frozen: Vec<FrozenPart>,
}

/// The labelled constant rows of a batch in the order of their sequences: all that their losses and gradients are made of.
pub(super) struct ConstantRows<B: Backend> {
    targets: Vec<u32>,
    /// After the final norm, `[labels, d]`.
    hidden: B::Buffer,
    frozen: Vec<FrozenPart>,
}

impl<B: Backend> Readout<'_, '_, '_, B> {
    /// The gradient of the depending rows, where it was wanted and something reached them.
    pub(super) fn finish(self) -> Result<Option<B::Buffer>> {
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(self.upstream),
        }
    }

    /// The constant labelled rows. What does not change of them is kept.
    fn constant_rows(&mut self) -> Result<ConstantRows<B>> {
        let (model, backend, plan) = (self.model, &self.model.backend, self.plan);
        let d = model.spec.stack.embedding.width;
        let head = model.head(self.output);
        let part = &plan.constant;
        let labelled = backend.gather(&self.forward.constant, &part.labelled(), model.spec.stack.hidden_size);
        let computed = model.final_rows(labelled);
        let frozen = backend.frozen_parts(&computed, &head, &part.targets());
        let labels = || plan.constant_labels.iter().flat_map(|of| &of.labels);
        let targets: Vec<u32> = labels().map(|label| label.target).collect();
        let mut all_frozen: Vec<FrozenPart> = Vec::with_capacity(targets.len());
        let needs_host = self.cached.is_some();
        // one order, whatever is known: sums of gradients depend on it to the last bit
        let hidden = if needs_host {
            let on_host = backend.read(&computed);
            let mut all = Vec::with_capacity(targets.len() * d);
            for of in &plan.constant_labels {
                let constant = self.constant(of, (&on_host, &frozen), d)?;
                all.extend(constant.hidden);
                all_frozen.extend(constant.frozen);
            }
            backend.place(all)
        } else {
            let entries: Vec<u32> = labels().map(|label| label.entry as u32).collect();
            all_frozen.extend(labels().map(|label| frozen[label.entry]));
            backend.gather(&computed, &entries, d)
        };
        Ok(ConstantRows { targets, hidden, frozen: all_frozen })
    }

    /// The losses of the constant labelled rows, in the order of their sequences. With weights, none of them for each counting once,
    /// the head's own trained rows get the gradient of their sum.
    fn constant_losses(&mut self, weights: Option<&[f32]>) -> Result<Vec<Loss>> {
        let (model, backend, plan) = (self.model, &self.model.backend, self.plan);
        let rows = match self.constants.take() {
            Some(rows) => rows,
            None => self.constant_rows()?,
        };
        let head = model.head(self.output);
        let of = Labels { targets: &rows.targets, weights: weights.unwrap_or_default() };
        let dtrained = self.dtrained.as_deref_mut().filter(|_| weights.is_some());
        let losses = backend.with_trained_entries(&rows.hidden, &head, of, &rows.frozen, dtrained);
        self.constants = Some(rows);
        let labels = plan.constant_labels.iter().flat_map(|of| &of.labels);
        Ok(labels.zip(losses).map(|(label, value)| loss(label, value)).collect())
    }

    /// What does not change of a sequence's losses, from the cache or to be put into it.
    fn constant(
        &mut self,
        of: &ConstantLabels,
        (computed, frozen): (&[f32], &[FrozenPart]),
        d: usize,
    ) -> Result<Constant> {
        let key = self.cached.as_ref().and_then(|c| c.examples.get(of.sequence).copied()).map(Key::Labels);
        if of.is_known {
            let kept = match (&self.cached, key) {
                (Some(cached), Some(key)) => cached.cache.get(key)?.unwrap_or_default(),
                _ => Default::default(),
            };
            let line = |line: &[f32]| FrozenPart { others: line[d], target: line[d + 1] };
            return Ok(Constant {
                hidden: kept.chunks_exact(d + 2).flat_map(|line| &line[..d]).copied().collect(),
                frozen: kept.chunks_exact(d + 2).map(line).collect(),
            });
        }
        let row = |label: &Label| &computed[label.entry * d..][..d];
        let constant = Constant {
            hidden: of.labels.iter().flat_map(row).copied().collect(),
            frozen: of.labels.iter().map(|label| frozen[label.entry]).collect(),
        };
        if let (Some(cached), Some(key)) = (&mut self.cached, key)
            && cached.cache.takes(key, of.labels.len() * (d + 2), 0)
        {
            let lines = of.labels.iter().zip(&constant.frozen);
            let floats = lines
                .flat_map(|(label, frozen)| row(label).iter().copied().chain([frozen.others, frozen.target]));
            cached.cache.insert(key, floats.collect());
        }
        Ok(constant)
    }

    /// The losses of the depending labelled rows. With weights, one for each entry or none for each counting once, the gradient of
    /// their sum: that of the rows, when it is wanted, and that of the head's own trained rows.
    fn depending_losses(&mut self, weights: Option<&[f32]>) -> Vec<Loss> {
        let (model, backend, plan) = (self.model, &self.model.backend, self.plan);
        let part = &plan.depending;
        if part.entries.is_empty() {
            return Vec::new();
        }
        let (labelled, last) = self.labelled_states();
        let head = model.head(self.output);
        let targets = part.targets();
        let of = Labels { targets: &targets, weights: weights.unwrap_or_default() };
        let mut dlast = (self.pull && weights.is_some()).then(|| backend.take(backend.len(&last)));
        let dtrained = self.dtrained.as_deref_mut().filter(|_| weights.is_some());
        let losses = backend.cross_entropy(&last, &head, of, dlast.as_mut(), dtrained);
        drop(last);
        if let Some(dlast) = dlast {
            let dlabelled = model.pull_final_rows(&labelled, dlast);
            self.upstream = Some(self.spread(part, dlabelled));
        }
        plan.labels.iter().map(|label| loss(label, losses[label.entry])).collect()
    }

    /// The losses of constant and of depending rows; with what the labels of the first and the entries of the second count, their
    /// gradients.
    fn losses_of_both(&mut self, weights: Option<(&[f32], &[f32])>) -> Vec<Loss> {
        let mut losses = match self.constant_losses(weights.map(|of| of.0)) {
            Ok(losses) => losses,
            Err(fault) => {
                self.fault = Some(fault);
                return Vec::new();
            }
        };
        losses.extend(self.depending_losses(weights.map(|of| of.1)));
        losses
    }

    fn backend(&self) -> &B {
        &self.model.backend
    }

    /// The depending rows that have labels, after the last block and after the final norm.
    fn labelled_states(&self) -> (B::Buffer, B::Buffer) {
        let (model, backend) = (self.model, self.backend());
        let rows = self.plan.depending.labelled();
        let labelled = backend.gather(&self.forward.depending, &rows, model.spec.stack.hidden_size);
        let last = model.final_rows(backend.part(&labelled, 0..backend.len(&labelled)));
        (labelled, last)
    }

    /// The gradient of all depending rows from that of the labelled ones.
    fn spread(&self, part: &Part, dlabelled: B::Buffer) -> B::Buffer {
        let (backend, d) = (&self.model.backend, self.model.spec.stack.hidden_size);
        let mut upstream = backend.zeros(part.rows() * d);
        let mut order: Vec<u32> = (0..part.entries.len() as u32).collect();
        let row = |at: &u32| part.entries[*at as usize].row;
        if order.is_sorted_by_key(row) {
            backend.scatter(&dlabelled, &part.labelled(), None, d, &mut upstream);
        } else {
            order.sort_by_key(row);
            let sorted = backend.gather(&dlabelled, &order, d);
            let rows: Vec<u32> = order.iter().map(row).collect();
            backend.scatter(&sorted, &rows, None, d, &mut upstream);
        }
        upstream
    }

    /// The last rows of a part after what stands behind the blocks, on the host.
    fn last_rows(&self, hidden: &B::Buffer) -> Vec<f32> {
        let backend = &self.model.backend;
        let copy = backend.part(hidden, 0..backend.len(hidden));
        backend.read(&self.model.stack.end().run(backend, copy))
    }
}

fn loss(label: &Label, value: f32) -> Loss {
    Loss {
        sequence: label.sequence,
        row: Some(label.row),
        target: Some(label.target),
        value,
        weight: label.weight,
    }
}

/// What each label counts; empty where each counts once.
fn weights_of<'l>(labels: impl Iterator<Item = &'l Label> + Clone) -> Vec<f32> {
    match labels.clone().all(|label| label.weight == 1.0) {
        true => Vec::new(),
        false => labels.map(|label| label.weight).collect(),
    }
}

impl<B: Backend> LastRows for Readout<'_, '_, '_, B> {
    fn vocabulary(&mut self) -> Vec<Loss> {
        let plan = self.plan;
        let of_constants = weights_of(plan.constant_labels.iter().flat_map(|of| &of.labels));
        let of_entries = plan.depending.weights();
        self.losses_of_both(Some((&of_constants, &of_entries)))
    }

    fn label_losses(&mut self) -> Vec<Loss> {
        self.losses_of_both(None)
    }

    fn pull_labels(&mut self, weights: &[f32]) {
        if !self.pull && self.dtrained.is_none() {
            return;
        }
        let plan = self.plan;
        let constants = plan.constant_labels.iter().map(|of| of.labels.len()).sum::<usize>();
        let (of_constants, of_labels) = weights.split_at(constants.min(weights.len()));
        let mut of_entries = vec![0f32; plan.depending.entries.len()];
        for (label, weight) in plan.labels.iter().zip(of_labels) {
            of_entries[label.entry] += weight;
        }
        self.losses_of_both(Some((of_constants, &of_entries)));
    }

    fn states(&mut self) -> (Vec<Loss>, Vec<f32>) {
        let states = self.backend().read(&self.labelled_states().1);
        let d = self.model.spec.stack.embedding.width;
        let labels = &self.plan.labels;
        let of = |label: &Label| states[label.entry * d..][..d].to_vec();
        (labels.iter().map(|label| loss(label, 0.0)).collect(), labels.iter().flat_map(of).collect())
    }

    fn pull_states(&mut self, gradients: &[f32], vocabulary: f32) -> Vec<f32> {
        let (model, plan) = (self.model, self.plan);
        let (backend, part) = (&model.backend, &plan.depending);
        if part.entries.is_empty() {
            return Vec::new();
        }
        let d = model.spec.stack.embedding.width;
        let (labelled, last) = self.labelled_states();
        let mut dlast = vec![0f32; part.entries.len() * d];
        for (label, gradient) in plan.labels.iter().zip(gradients.chunks_exact(d)) {
            let own = &mut dlast[label.entry * d..][..d];
            own.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
        }
        let mut losses = Vec::new();
        if vocabulary != 0.0 {
            let (head, targets) = (model.head(self.output), part.targets());
            let weights: Vec<f32> = part.entries.iter().map(|entry| vocabulary * entry.weight).collect();
            let of = Labels { targets: &targets, weights: &weights };
            let mut of_vocabulary = self.pull.then(|| backend.take(backend.len(&last)));
            let values =
                backend.cross_entropy(&last, &head, of, of_vocabulary.as_mut(), self.dtrained.as_deref_mut());
            losses = plan.labels.iter().map(|label| values[label.entry]).collect();
            if let Some(of_vocabulary) = of_vocabulary {
                dlast.iter_mut().zip(backend.read(&of_vocabulary)).for_each(|(sum, g)| *sum += g);
            }
        }
        if self.pull {
            let dlabelled = model.pull_final_rows(&labelled, backend.place(dlast));
            self.upstream = Some(self.spread(part, dlabelled));
        }
        losses
    }

    fn vectors(&mut self) -> Vec<Vec<f64>> {
        let (plan, d) = (self.plan, self.model.spec.stack.embedding.width);
        let modes = &self.model.sentence.pooling;
        let parts = [(&plan.constant, &self.forward.constant), (&plan.depending, &self.forward.depending)];
        let sequences = || parts.iter().flat_map(|(part, _)| &part.sequences);
        let mut vectors = vec![Vec::new(); sequences().max().map_or(0, |last| last + 1)];
        for (part, hidden) in parts {
            let rows = self.last_rows(hidden);
            for (span, &sequence) in part.places.spans.iter().zip(&part.sequences) {
                vectors[sequence] = pooling::pool(modes, &rows[span.rows.start * d..span.rows.end * d], d);
            }
        }
        vectors
    }

    fn pull_vectors(&mut self, gradients: &[Vec<f64>]) {
        if !self.pull {
            return;
        }
        let (model, backend, part) = (self.model, &self.model.backend, &self.plan.depending);
        let (modes, d) = (&model.sentence.pooling, model.spec.stack.embedding.width);
        let last = self.last_rows(&self.forward.depending);
        let mut dlast = vec![0f32; last.len()];
        for (span, &sequence) in part.places.spans.iter().zip(&part.sequences) {
            let at = span.rows.start * d..span.rows.end * d;
            pooling::pull(modes, &last[at.clone()], d, &gradients[sequence], &mut dlast[at]);
        }
        self.upstream = Some(model.stack.end().pull(backend, &self.forward.depending, backend.place(dlast)));
    }
}
