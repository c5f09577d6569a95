//! A model on a device: its token matrices, its stack (two of them in an encoder-decoder), its head.

use super::backend::{Backend, Head, Table};
use super::layers::{Chain, Gradients, LayerTensor, Linear, Loader, Naming, Slot, Stage, Update};
use super::stack::Stack;
use super::trained::{LowRank, Trained};
use crate::backend::Dropout;
use crate::error::{EngineError, Result};
use crate::spec::{ModelSpec, SentenceSpec, TokenMatrix, TrainedRows};
use toktune_weights::{Checkpoint, FrozenMatrix};

/// A token matrix on the device.
#[derive(Debug)]
pub(super) struct Tokens<B: Backend> {
    base: B::Matrix,
    extra: Option<B::Buffer>,
    /// Rows, the appended ones included.
    pub(super) rows: usize,
}

impl<B: Backend> Tokens<B> {
    fn new(backend: &B, of: &TokenMatrix) -> Self {
        let extra = (!of.extra().is_empty()).then(|| backend.place(of.extra().to_vec()));
        Self { base: backend.matrix(of.frozen()), extra, rows: of.rows() }
    }

    /// The matrix with placed rows over it.
    pub(super) fn table<'a>(&'a self, over: Option<&'a PlacedRows<'_, B>>) -> Table<'a, B> {
        Table {
            base: &self.base,
            extra: self.extra.as_ref(),
            overrides: over.map_or(&[], |rows| rows.rows.overrides()),
            values: over.map(|rows| &rows.values),
        }
    }
}

/// Trained rows with their values on the device.
#[derive(Debug)]
pub(super) struct PlacedRows<'a, B: Backend> {
    pub(super) rows: &'a TrainedRows,
    values: B::Buffer,
}

/// What is trained, on the device.
#[derive(Debug)]
pub(super) struct Placed<'a, B: Backend> {
    pub(super) rows: Vec<PlacedRows<'a, B>>,
    /// The updates of each block: the encoder's, then those of the stack; no list where nothing is updated.
    pub(super) updates: Vec<Vec<Update<B>>>,
}

/// Sums of gradients on the device, in the order of what is trained.
#[derive(Debug)]
pub(super) struct Sums<B: Backend> {
    pub(super) rows: Vec<B::Buffer>,
    pub(super) updates: Vec<[B::Buffer; 2]>,
}

impl<B: Backend> Sums<B> {
    pub(super) fn zeros(backend: &B, trained: &Trained<'_>) -> Self {
        let of = |update: &LowRank<'_>| [update.a, update.b].map(|values| backend.zeros(values.len()));
        Self {
            rows: trained.rows.iter().map(|rows| backend.zeros(rows.values.len())).collect(),
            updates: trained.updates.iter().map(of).collect(),
        }
    }

    /// Where a backward pass through blocks leaves gradients.
    pub(super) fn gradients<'a>(&'a mut self, memory: Option<&'a mut B::Buffer>) -> Gradients<'a, B> {
        Gradients { memory, updates: &mut self.updates }
    }

    /// The sums: of every trained layer's rows, then `A` and `B` of each update.
    pub(super) fn read(&self, backend: &B, trained: &Trained<'_>) -> Vec<Vec<f32>> {
        let mut all: Vec<Vec<f32>> = self.rows.iter().map(|sums| backend.read(sums)).collect();
        for ([a, b], of) in self.updates.iter().zip(&trained.updates) {
            let b = backend.read(b);
            all.extend([backend.read(a), transposed(&b, b.len() / of.r.max(1))]);
        }
        all
    }
}

/// The transpose of a matrix with rows of this width.
fn transposed(of: &[f32], width: usize) -> Vec<f32> {
    (0..width).flat_map(|col| of.iter().skip(col).step_by(width)).copied().collect()
}

/// A model on a device.
#[derive(Debug)]
pub struct Model<B: Backend> {
    pub(super) backend: B,
    /// The same device, with products that are fastest for few rows.
    pub(super) decoding: B,
    /// As `decoding`, for text that is generated.
    pub(super) generating: B,
    pub(super) spec: ModelSpec,
    pub(super) sentence: SentenceSpec,
    pub(super) embedding: Tokens<B>,
    /// `None` when the head is the embedding, or there is none.
    pub(super) head: Option<Tokens<B>>,
    head_bias: Option<B::Buffer>,
    pub(super) stack: Stack<B>,
    pub(super) encoder: Option<Stack<B>>,
    /// From the stack to the rows that meet the vocabulary.
    to_head: Chain<B>,
}

/// What a model is put together from.
pub(crate) struct Parts<'a> {
    pub(crate) spec: &'a ModelSpec,
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) naming: &'a Naming,
    pub(crate) embedding: &'a TokenMatrix,
    pub(crate) head: Option<&'a TokenMatrix>,
    /// The biases of the logits; empty for none.
    pub(crate) head_bias: Vec<f32>,
    pub(crate) sentence: SentenceSpec,
}

impl<B: Backend> Model<B> {
    /// Reads the blocks of a model.
    ///
    /// # Errors
    /// A tensor is missing, of another shape, or of an unsupported type.
    pub(crate) fn load(backend: B, parts: Parts<'_>) -> Result<Self> {
        let Parts { spec, checkpoint, naming, embedding, head, head_bias, sentence } = parts;
        let load = |of| Stack::load(&backend, of, checkpoint, naming);
        let stack = load(spec.stack.clone())?;
        let encoder = spec.encoder.clone().map(load).transpose()?;
        let mut to_head = Chain::default();
        if let Some(activation) = spec.head.transform {
            let (backend, of) = (&backend, &spec.stack);
            let loader = Loader { backend, checkpoint, naming, spec: of, distances: None };
            let (d, width) = (spec.stack.hidden_size, spec.stack.embedding.width);
            let bias = spec.head.transform_bias;
            to_head.0.push(Stage::Linear(loader.linear(spec.names.transform, (width, d), bias)?));
            to_head.0.push(Stage::Activation(activation));
            to_head.0.push(Stage::Norm(loader.norm(spec.names.transform_norm, None, width)?));
        }
        if spec.head.scale != 1.0 {
            to_head.0.push(Stage::Scale(spec.head.scale));
        }
        Ok(Self {
            decoding: backend.decoding(),
            generating: backend.decoding(),
            embedding: Tokens::new(&backend, embedding),
            head: head.map(|head| Tokens::new(&backend, head)),
            head_bias: (!head_bias.is_empty()).then(|| backend.place(head_bias)),
            spec: spec.clone(),
            sentence,
            stack,
            encoder,
            to_head,
            backend,
        })
    }

    /// Takes the token matrices anew, after they have changed.
    pub(super) fn set_tokens(&mut self, embedding: &TokenMatrix, head: Option<&TokenMatrix>) {
        self.embedding = Tokens::new(&self.backend, embedding);
        self.head = head.map(|head| Tokens::new(&self.backend, head));
    }

    /// Whether text is generated with activations that are rounded to 8 bits where they meet quantised weights.
    pub(super) fn round_generation(&mut self, rounds: bool) {
        self.generating = if rounds { self.backend.generating() } else { self.backend.decoding() };
    }

    /// The stacks: the encoder's first.
    pub(super) fn stacks(&self) -> impl Iterator<Item = &Stack<B>> {
        self.encoder.iter().chain([&self.stack])
    }

    pub(super) fn stacks_mut(&mut self) -> impl Iterator<Item = &mut Stack<B>> {
        self.encoder.iter_mut().chain([&mut self.stack])
    }

    /// The linear layers that can have updates, with the number of their block among all.
    pub(super) fn linears(&self) -> impl Iterator<Item = (usize, &Linear<B>)> {
        let blocks = self.stacks().flat_map(|stack| stack.blocks()).enumerate();
        blocks.flat_map(|(i, block)| block.linears().map(move |linear| (i, linear)))
    }

    /// The linear layers before and after the blocks, but for the head.
    pub(super) fn linears_around_blocks(&self) -> impl Iterator<Item = &Linear<B>> {
        self.stacks().flat_map(Stack::linears_around_blocks).chain(self.to_head.linears())
    }

    /// Every weight but the token matrices, by its full name.
    pub(super) fn tensors(&self) -> Vec<(String, LayerTensor<'_>)> {
        let backend = &self.backend;
        let mut tensors: Vec<_> = self.stacks().flat_map(Stack::tensors).collect();
        tensors.extend(self.to_head.norms().flat_map(|norm| norm.tensors(backend)));
        tensors.extend(self.to_head.linears().flat_map(|linear| linear.tensors(backend)));
        if let Some(bias) = &self.head_bias {
            let name = self.spec.names.head_bias.to_string();
            tensors.push((name, LayerTensor::Bias(backend.read(bias))));
        }
        tensors
    }

    /// Changes the weights of linear layers of the blocks by `of`, where it gives another one.
    pub(super) fn change_weights(&mut self, of: &mut dyn FnMut(&str, &FrozenMatrix) -> Option<FrozenMatrix>) {
        self.stacks_mut().for_each(|stack| stack.change_weights(&mut *of));
    }

    /// Puts what is trained on the device.
    pub(super) fn place<'a>(&self, trained: &Trained<'a>) -> Result<Placed<'a, B>> {
        let backend = &self.backend;
        let of = |&rows: &&'a TrainedRows| PlacedRows { rows, values: backend.place(rows.values.clone()) };
        let rows = trained.rows.iter().map(of).collect();
        let mut updates: Vec<Vec<Update<B>>> = Vec::new();
        if !trained.updates.is_empty() {
            updates.resize_with(self.stacks().map(|stack| stack.blocks().len()).sum(), Vec::new);
            let places: std::collections::HashMap<&str, (usize, Slot)> =
                self.linears().map(|(block, linear)| (linear.module(), (block, linear.slot()))).collect();
            for (index, of) in trained.updates.iter().enumerate() {
                let Some(&(block, slot)) = places.get(of.module) else {
                    return Err(EngineError::NoSuchModule { module: of.module.to_string() });
                };
                // far apart, so that the numbers of two layers' entries do not meet
                let seed = |seed: u64| seed.wrapping_add((index as u64 + 1) << 40);
                let dropout = trained.dropout.filter(|_| of.dropout > 0.0);
                updates[block].push(Update {
                    slot,
                    index,
                    a: backend.place(of.a.to_vec()),
                    b: backend.place(transposed(of.b, of.r)),
                    r: of.r,
                    scaling: of.scaling,
                    dropout: dropout.map(|s| Dropout { share: of.dropout, seed: seed(s) }),
                });
            }
        }
        Ok(Placed { rows, updates })
    }

    /// The updates of the encoder's blocks, and of those of the stack.
    pub(super) fn split_updates<'p>(&self, placed: &'p Placed<'_, B>) -> [&'p [Vec<Update<B>>]; 2] {
        let blocks = self.encoder.as_ref().map_or(0, |encoder| encoder.blocks().len());
        let (encoder, stack) = placed.updates.split_at(blocks.min(placed.updates.len()));
        [encoder, stack]
    }

    /// The matrix that the head multiplies with.
    pub(super) fn head_tokens(&self) -> &Tokens<B> {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// The head, with trained rows over its matrix.
    pub(super) fn head<'a>(&'a self, over: Option<&'a PlacedRows<'_, B>>) -> Head<'a, B> {
        Head {
            table: self.head_tokens().table(over),
            bias: self.head_bias.as_ref(),
            soft_cap: self.spec.head.soft_cap,
        }
    }

    /// The rows that meet the vocabulary from those of the last block.
    pub(super) fn final_rows(&self, x: B::Buffer) -> B::Buffer {
        self.to_head.run(&self.backend, self.stack.end().run(&self.backend, x))
    }

    /// The gradient of the last block's rows `x` from that of the rows that meet the vocabulary.
    pub(super) fn pull_final_rows(&self, x: &B::Buffer, dy: B::Buffer) -> B::Buffer {
        let (backend, end) = (&self.backend, self.stack.end());
        if self.to_head.is_empty() {
            return end.pull(backend, x, dy);
        }
        let middle = end.run(backend, backend.part(x, 0..backend.len(x)));
        end.pull(backend, x, self.to_head.pull(backend, &middle, dy))
    }
}
