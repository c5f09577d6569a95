//! A frozen linear layer, with the low-rank updates that a pass has for it.

use super::LayerTensor;
use super::around::{Around, Gradients};
use super::lora::Update;
use crate::backend::{Backend, Stored, StoredAs, Write};
use toktune_weights::FrozenMatrix;

/// The place of a linear layer among those of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub usize);

impl Slot {
    /// That of a layer which no update reaches.
    pub const NONE: Slot = Slot(usize::MAX);
}

/// A frozen linear layer `[out, in]`.
#[derive(Debug)]
pub struct Linear<B: Backend> {
    /// Its full name, as transformers names the module.
    pub(super) module: String,
    /// Its place among the linear layers of its block.
    pub(super) slot: Slot,
    /// The weight as the file holds it.
    pub(super) frozen: FrozenMatrix,
    pub(super) weight: Stored<B::Matrix>,
    pub(super) bias: Option<B::Buffer>,
}

impl<B: Backend> Linear<B> {
    /// Its full name, as transformers names the module.
    pub fn module(&self) -> &str {
        &self.module
    }

    /// Its place among the linear layers of its block.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// The weight as the file holds it.
    pub fn frozen(&self) -> &FrozenMatrix {
        &self.frozen
    }

    /// Which way round the weight is stored.
    pub fn stored(&self) -> StoredAs {
        self.weight.stored
    }

    /// Width of its inputs.
    pub fn inputs(&self) -> usize {
        self.weight.stored.sizes(&self.frozen).0
    }

    /// Width of its outputs.
    pub fn outputs(&self) -> usize {
        self.weight.stored.sizes(&self.frozen).1
    }

    /// Whether `out = x Wᵀ` is all it does, with a weight that is stored by rows.
    pub(super) fn is_bare(&self) -> bool {
        self.bias.is_none() && self.weight.stored == StoredAs::Rows
    }

    /// Changes the weight for another.
    pub(crate) fn set_weight(&mut self, backend: &B, weight: FrozenMatrix) {
        self.weight.matrix = backend.matrix(&weight);
        self.frozen = weight;
    }

    fn updates<'a>(&self, around: &Around<'a, B>) -> impl Iterator<Item = &'a Update<B>> {
        let slot = self.slot;
        around.updates.iter().filter(move |update| update.slot == slot)
    }

    /// Whether a pass has an update for it.
    pub(super) fn is_updated(&self, around: &Around<'_, B>) -> bool {
        self.updates(around).next().is_some()
    }

    /// `y [rows, out]` from `x [rows, in]`; `first` is the number of the first of these rows in the pass.
    pub(super) fn run(
        &self,
        around: &Around<'_, B>,
        (x, first): (&B::Buffer, usize),
        write: Write,
        y: &mut B::Buffer,
    ) {
        self.run_frozen(around.backend, x, write, y);
        for update in self.updates(around) {
            update.run(around.backend, x, first * self.inputs(), y);
        }
    }

    /// The same without updates.
    pub(crate) fn run_frozen(&self, backend: &B, x: &B::Buffer, write: Write, y: &mut B::Buffer) {
        backend.product(x, &self.weight, write, y);
        if let Some(bias) = &self.bias {
            backend.add_to_each(y, bias);
        }
    }

    /// As [`Linear::run`] with a result of its own.
    pub(super) fn apply(&self, around: &Around<'_, B>, (x, first): (&B::Buffer, usize)) -> B::Buffer {
        let backend = around.backend;
        let mut y = backend.take(backend.len(x) / self.inputs().max(1) * self.outputs());
        self.run(around, (x, first), Write::Over, &mut y);
        y
    }

    /// The gradient of `x` from that of `y`, and those of the updates. `x` is read where there are updates alone.
    pub(super) fn pull(
        &self,
        around: &Around<'_, B>,
        (x, first): (&B::Buffer, usize),
        dy: &B::Buffer,
        (write, dx): (Write, &mut B::Buffer),
        gradients: &mut Gradients<'_, B>,
    ) {
        self.pull_frozen(around.backend, dy, write, dx);
        for update in self.updates(around) {
            update.pull(around.backend, (x, first * self.inputs()), dy, Some(dx), gradients);
        }
    }

    /// The gradient of `x` without updates.
    pub(crate) fn pull_frozen(&self, backend: &B, dy: &B::Buffer, write: Write, dx: &mut B::Buffer) {
        backend.pull_product(dy, &self.weight, write, dx);
    }

    /// The gradients of the updates alone, for an input that has none.
    pub(super) fn pull_updates(
        &self,
        around: &Around<'_, B>,
        x: &B::Buffer,
        dy: &B::Buffer,
        gradients: &mut Gradients<'_, B>,
    ) {
        for update in self.updates(around) {
            update.pull(around.backend, (x, 0), dy, None, gradients);
        }
    }

    /// Its stored tensors by their names.
    pub(crate) fn tensors(&self, backend: &B) -> Vec<(String, LayerTensor<'_>)> {
        let weight = (format!("{}.weight", self.module), LayerTensor::Matrix(&self.frozen));
        let bias = self.bias.as_ref();
        let bias = bias.map(|bias| (format!("{}.bias", self.module), LayerTensor::Bias(backend.read(bias))));
        [weight].into_iter().chain(bias).collect()
    }
}
