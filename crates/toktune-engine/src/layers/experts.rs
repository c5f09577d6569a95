//! A mixture of experts: a router sends each row through a few MLPs of many and adds their weighted results, and those of an
//! MLP that every row passes through, where there is one.
//!
//! ```text
//! y = Σ_{e in C} w_e expert_e(x) + σ(x gᵀ) shared(x)        or, where inputs are weighed, expert_e(w_e x)
//! ```
//!
//! Which experts `C` a row takes, and the weights `w`, is the matter of [`Router`].
//!
//! The experts take their rows one expert after the other, so that each decodes its weights once, and at most [`CHUNK_ROWS`]
//! rows are gathered at a time. A row gets the results of its experts in the order of the experts, whatever the number of
//! threads.

use super::around::{Around, Gradients};
use super::linear::Linear;
use super::mlp::{KeptMlp, Mlp};
use super::routing::Router;
use crate::backend::{Backend, Write};
use rayon::prelude::*;
use toktune_kernels::gated_mlp::CHUNK_ROWS;

/// Frozen weights of a mixture of experts.
#[derive(Debug)]
pub(super) struct Experts<B: Backend> {
    /// `[experts, d]`. Its products are always `f32`: rounding could send a row to other experts, which is no small error.
    pub(super) router: Linear<B>,
    pub(super) routing: Router,
    /// Without updates.
    pub(super) experts: Vec<Mlp<B>>,
    pub(super) shared: Option<Shared<B>>,
}

/// The MLP that every row passes through.
#[derive(Debug)]
pub(super) struct Shared<B: Backend> {
    pub(super) mlp: Mlp<B>,
    /// One number a row, whose logistic function weighs the result.
    pub(super) gate: Option<Linear<B>>,
}

/// What is kept of a mixture for its backward pass.
#[derive(Debug)]
pub(super) struct KeptExperts<B: Backend> {
    /// Of the experts, in the order in which they take their rows.
    chosen: Vec<KeptMlp<B>>,
    /// Of the shared MLP.
    shared: Option<Box<KeptMlp<B>>>,
    /// Its result, where a gate weighs it.
    result: Option<B::Buffer>,
}

/// Where the rows go.
struct Routed {
    /// The router's, `[rows, experts]`.
    logits: Vec<f32>,
    /// For each expert.
    assigned: Vec<Assigned>,
}

/// The rows of an expert, in order.
#[derive(Default)]
struct Assigned {
    rows: Vec<u32>,
    /// Of its results, or of its inputs.
    weights: Vec<f32>,
}

impl Assigned {
    /// Rows with their weights, few enough to be gathered.
    fn chunks(&self) -> impl Iterator<Item = (&[u32], &[f32])> {
        self.rows.chunks(CHUNK_ROWS).zip(self.weights.chunks(CHUNK_ROWS))
    }
}

impl<B: Backend> Shared<B> {
    /// Its linear layers.
    fn linears(&self) -> Vec<&Linear<B>> {
        self.mlp.linears().into_iter().chain(&self.gate).collect()
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear<B>> {
        self.mlp.linears_mut().into_iter().chain(&mut self.gate).collect()
    }

    fn kept_floats(&self) -> usize {
        self.mlp.kept_floats() + self.gate.as_ref().map_or(0, Linear::inputs)
    }

    /// What the gate makes of each row, after the logistic function.
    fn gates(around: &Around<'_, B>, gate: &Linear<B>, x: &B::Buffer) -> Vec<f32> {
        let mut gates = around.backend.read(&gate.apply(around, (x, 0)));
        gates.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp()));
        gates
    }

    /// Adds its weighted result to `y`; with `keep`, gives what the backward pass wants of the MLP, and its result.
    fn run(
        &self,
        around: &Around<'_, B>,
        x: &B::Buffer,
        y: &mut B::Buffer,
        keep: bool,
    ) -> (Option<KeptMlp<B>>, Option<B::Buffer>) {
        let Some(gate) = &self.gate else { return (self.mlp.run(around, x, Write::Add, y, keep), None) };
        let backend = around.backend;
        let mut result = backend.take(backend.len(y));
        let kept = self.mlp.run(around, x, Write::Over, &mut result, keep);
        let gates = Self::gates(around, gate, x);
        let kept_result = keep.then(|| backend.keep(&result));
        backend.scale_rows(&mut result, &backend.place(gates));
        backend.add(y, &result);
        (kept, kept_result)
    }

    /// Adds the gradient of `x` to `dx`, from that of what it added.
    fn pull(
        &self,
        around: &Around<'_, B>,
        [x, dy]: [&B::Buffer; 2],
        (kept, result): (Option<KeptMlp<B>>, Option<B::Buffer>),
        dx: &mut B::Buffer,
        gradients: &mut Gradients<'_, B>,
    ) {
        let backend = around.backend;
        let mut own = backend.take(backend.len(dx));
        let Some(gate) = &self.gate else {
            self.mlp.pull(around, [x, dy], kept, &mut own, gradients);
            return backend.add(dx, &own);
        };
        let result = result.unwrap_or_else(|| {
            let mut result = backend.take(backend.len(x));
            self.mlp.run(around, x, Write::Over, &mut result, false);
            result
        });
        let gates = Self::gates(around, gate, x);
        let (mut dresult, mut products) = (backend.part(dy, 0..backend.len(dy)), backend.take(gates.len()));
        backend.weigh(&mut dresult, &result, &backend.place(gates.clone()), &mut products);
        self.mlp.pull(around, [x, &dresult], kept, &mut own, gradients);
        backend.add(dx, &own);
        let slopes = backend.read(&products).into_iter().zip(gates).map(|(d, g)| d * g * (1.0 - g));
        gate.pull(around, (x, 0), &backend.place(slopes.collect()), (Write::Add, dx), gradients);
    }
}

impl<B: Backend> Experts<B> {
    /// The linear layers that can have updates. Not those of the experts, nor the router: transformers 5 holds them as
    /// parameters that are no linear layers, so PEFT's `all-linear` leaves them alone.
    pub(super) fn linears(&self) -> Vec<&Linear<B>> {
        self.shared.iter().flat_map(Shared::linears).collect()
    }

    /// The router, then every expert's, then those that every row passes through.
    pub(super) fn all_linears(&self) -> Vec<&Linear<B>> {
        let own = self.experts.iter().flat_map(Mlp::linears);
        [&self.router].into_iter().chain(own).chain(self.linears()).collect()
    }

    /// Calls `change` with the linear layers whose weights may be changed: every one but the router.
    pub(super) fn change_linears(&mut self, backend: &B, mut change: impl FnMut(&mut Linear<B>)) {
        for mlp in &mut self.experts {
            mlp.linears_mut().into_iter().for_each(&mut change);
            mlp.put_together(backend);
        }
        if let Some(shared) = &mut self.shared {
            shared.linears_mut().into_iter().for_each(&mut change);
            shared.mlp.put_together(backend);
        }
    }

    pub(super) fn kept_floats(&self) -> usize {
        let one = self.experts.first().map_or(0, Mlp::kept_floats);
        self.routing.routing.chosen * one + self.shared.as_ref().map_or(0, Shared::kept_floats)
    }

    /// Width of the rows.
    fn width(&self) -> usize {
        self.router.inputs()
    }

    fn route(&self, backend: &B, x: &B::Buffer) -> Routed {
        let count = self.experts.len();
        let mut logits = backend.take(backend.len(x) / self.width().max(1) * count);
        self.router.run_frozen(backend, x, Write::Over, &mut logits);
        let logits = backend.read(&logits);
        let rows = logits.par_chunks(count.max(1));
        let chosen: Vec<_> = rows.map(|row| self.routing.choose(row)).collect();
        let mut assigned: Vec<Assigned> = self.experts.iter().map(|_| Assigned::default()).collect();
        for (row, chosen) in chosen.into_iter().enumerate() {
            for (expert, weight) in chosen {
                let of = &mut assigned[expert as usize];
                of.rows.push(row as u32);
                of.weights.push(weight);
            }
        }
        Routed { logits, assigned }
    }

    /// The rows of an expert as it reads them.
    fn inputs(&self, backend: &B, x: &B::Buffer, rows: &[u32], weights: &B::Buffer) -> B::Buffer {
        let mut own = backend.gather(x, rows, self.width());
        if self.routing.routing.weighs_input {
            backend.scale_rows(&mut own, weights);
        }
        own
    }

    /// As [`super::feed_forward::FeedForward::run`].
    pub(super) fn run(
        &self,
        around: &Around<'_, B>,
        x: &B::Buffer,
        write: Write,
        y: &mut B::Buffer,
        keep: bool,
    ) -> Option<KeptExperts<B>> {
        let backend = around.backend;
        let (d, routed) = (self.width(), self.route(backend, x));
        // what is in `y` is added to the whole sum, not to its parts
        let mut sum = backend.zeros(backend.len(y));
        let mut chosen = Vec::new();
        for (mlp, assigned) in self.experts.iter().zip(&routed.assigned) {
            for (rows, weights) in assigned.chunks() {
                let weights = backend.place(weights.to_vec());
                let own = self.inputs(backend, x, rows, &weights);
                let mut result = backend.take(backend.len(&own));
                chosen.extend(mlp.run(around, &own, Write::Over, &mut result, keep));
                let factors = (!self.routing.routing.weighs_input).then_some(&weights);
                backend.scatter(&result, rows, factors, d, &mut sum);
            }
        }
        let shared = self.shared.as_ref().map(|shared| shared.run(around, x, &mut sum, keep));
        match write {
            Write::Over => backend.put(&sum, 0, y),
            Write::Add => backend.add(y, &sum),
        }
        let (shared, result) = shared.unwrap_or_default();
        keep.then_some(KeptExperts { chosen, shared: shared.map(Box::new), result })
    }

    /// As [`super::feed_forward::FeedForward::pull`].
    pub(super) fn pull(
        &self,
        around: &Around<'_, B>,
        [x, dy]: [&B::Buffer; 2],
        kept: Option<KeptExperts<B>>,
        dx: &mut B::Buffer,
        gradients: &mut Gradients<'_, B>,
    ) {
        let backend = around.backend;
        let count = self.experts.len();
        let Routed { logits, assigned } = self.route(backend, x);
        let (kept, of_shared) = match kept {
            Some(KeptExperts { chosen, shared, result }) => (chosen, (shared.map(|kept| *kept), result)),
            None => (Vec::new(), (None, None)),
        };
        let mut kept = kept.into_iter();
        // the gradients of the weights become those of the logits, in place
        let mut dlogits = vec![0f32; logits.len()];
        backend.put(&backend.zeros(backend.len(dx)), 0, dx);
        for (number, (mlp, assigned)) in self.experts.iter().zip(&assigned).enumerate() {
            for (rows, weights) in assigned.chunks() {
                let weights = backend.place(weights.to_vec());
                let assigned = (rows, &weights);
                let (down, dweights) =
                    self.pull_expert(around, mlp, [x, dy], assigned, kept.next(), gradients);
                backend.scatter(&down, rows, None, self.width(), dx);
                for (&row, dweight) in rows.iter().zip(dweights) {
                    dlogits[row as usize * count + number] = dweight;
                }
            }
        }
        let rows = dlogits.par_chunks_mut(count.max(1)).zip(logits.par_chunks(count.max(1)));
        rows.for_each(|(gradients, logits)| self.routing.pull(logits, gradients));
        self.router.pull_frozen(backend, &backend.place(dlogits), Write::Add, dx);
        if let Some(shared) = &self.shared {
            shared.pull(around, [x, dy], of_shared, dx, gradients);
        }
    }

    /// The gradients of the `rows` of one expert, as it has them one after the other, and those of their weights.
    fn pull_expert(
        &self,
        around: &Around<'_, B>,
        mlp: &Mlp<B>,
        [x, dy]: [&B::Buffer; 2],
        (rows, weights): (&[u32], &B::Buffer),
        kept: Option<KeptMlp<B>>,
        gradients: &mut Gradients<'_, B>,
    ) -> (B::Buffer, Vec<f32>) {
        let (backend, d) = (around.backend, self.width());
        let (own, dresult) = (self.inputs(backend, x, rows, weights), backend.gather(dy, rows, d));
        let mut down = backend.take(backend.len(&own));
        let dweights = if self.routing.routing.weighs_input {
            mlp.pull(around, [&own, &dresult], kept, &mut down, gradients);
            let mut dweights = backend.take(rows.len());
            backend.weigh(&mut down, &backend.gather(x, rows, d), weights, &mut dweights);
            dweights
        } else {
            mlp.pull_weighted(around, [&own, &dresult, weights], kept, &mut down, gradients)
        };
        (down, backend.read(&dweights))
    }
}
