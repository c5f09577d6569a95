//! A model that runs, whatever device it lies on: what stands above the engine is free of generics.

mod decode;
mod labelled;
mod memory;
mod readout;
mod step;

pub use memory::Footprint;
pub use step::{StepOptions, StepOutput, Wanted};

use super::layers::LayerTensor;
use super::model::Model;
use super::trained::Trained;
use crate::backend::{Backend, StoredAs};
use crate::batch::RaggedBatch;
use crate::error::Result;
use crate::objective::TeacherRows;
use crate::spec::TokenMatrix;
use std::fmt::Debug;
use toktune_weights::FrozenMatrix;

/// A linear layer of a block.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LinearLayer<'a> {
    /// Its full name, as transformers names the module.
    pub module: &'a str,
    /// Its weight.
    pub weight: &'a FrozenMatrix,
    /// Which way round it is stored.
    pub stored: StoredAs,
    /// Width of its inputs.
    pub inputs: usize,
    /// Width of its outputs.
    pub outputs: usize,
}

/// The tokens of some sequences, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct TokenRows<'a> {
    /// The tokens of all.
    pub ids: &'a [u32],
    /// Where each sequence starts, and the number of tokens at the end.
    pub starts: &'a [usize],
}

/// Changes some weights: a layer's full name and its weight to another weight, or nothing.
pub type ChangeWeight<'a> = dyn FnMut(&str, &FrozenMatrix) -> Option<FrozenMatrix> + 'a;

/// Sequences that go on, token by token, over the keys and values of all rows before.
pub trait Session: Debug + Send {
    /// Runs the next tokens of some sequences, each `(sequence, tokens)`, and gives the logits of each one's last row.
    ///
    /// # Errors
    /// An id is past the vocabulary, a sequence goes past the positions that were learnt, there is none of that number, or one
    /// is to go on twice or with nothing.
    fn advance(&mut self, next: &[(usize, &[u32])]) -> Result<Vec<Vec<f32>>>;

    /// Tokens of a sequence that have been run.
    fn len(&self, sequence: usize) -> usize;

    /// Whether no sequence has begun.
    fn is_empty(&self) -> bool;
}

/// A model on a device.
pub trait Runner: Debug + Send + Sync {
    /// The losses of a batch, and the gradients of their sum.
    ///
    /// # Errors
    /// An id is past the vocabulary, the batch is one for another kind of model, the file of the constants cannot be read or
    /// written, or a loss is not finite.
    fn step(
        &self,
        batch: &RaggedBatch,
        trained: &Trained<'_>,
        wanted: Wanted,
        options: StepOptions<'_>,
    ) -> Result<StepOutput>;

    /// What a model gives for the labelled rows of a batch, for another to be brought near to: their states, and where a
    /// `divergence` is wanted the losses and their gradients too.
    ///
    /// # Errors
    /// The model is no decoder; an id is past the vocabulary; its logits are capped, where a divergence is wanted.
    fn teach(&self, batch: &RaggedBatch, trained: &Trained<'_>, divergence: bool) -> Result<TeacherRows>;

    /// Gives `take` the logits of each labelled row of a batch, `[vocabulary]`, with the label's number in their order. They are
    /// computed for some rows at a time.
    ///
    /// # Errors
    /// The model is no decoder; an id is past the vocabulary.
    fn each_logits(
        &self,
        batch: &RaggedBatch,
        trained: &Trained<'_>,
        take: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()>;

    /// What a step over a batch takes of memory, beside the weights.
    fn footprint(&self, batch: &RaggedBatch, trained: &Trained<'_>) -> Footprint;

    /// The logits of whole sequences, `[rows, vocabulary]` each; those of an encoder-decoder's decoder, whose encoder reads
    /// `inputs`.
    ///
    /// # Errors
    /// An id is past the vocabulary; there are inputs and no encoder, or the other way round.
    fn logits(
        &self,
        tokens: TokenRows<'_>,
        inputs: Option<TokenRows<'_>>,
        trained: &Trained<'_>,
    ) -> Result<Vec<Vec<f32>>>;

    /// A vector for each sequence, made of its last hidden rows as the model's files say; several poolings give several times
    /// the hidden width.
    ///
    /// # Errors
    /// An id is past the vocabulary.
    fn vectors(&self, tokens: TokenRows<'_>, trained: &Trained<'_>) -> Result<Vec<Vec<f32>>>;

    /// Opens sequences that go on from nothing; in an encoder-decoder from what its encoder reads, one for each of `inputs`.
    ///
    /// # Errors
    /// An id is past the vocabulary.
    fn session<'a>(
        &'a self,
        sequences: usize,
        inputs: Option<TokenRows<'_>>,
        trained: &Trained<'a>,
    ) -> Result<Box<dyn Session + 'a>>;

    /// The linear layers of the blocks that can have updates.
    fn linears(&self) -> Vec<LinearLayer<'_>>;

    /// Every linear layer of the blocks, those of experts and their routers too.
    fn all_linears(&self) -> Vec<LinearLayer<'_>>;

    /// The full names of the linear layers before and after the blocks, but for the head.
    fn linears_around_blocks(&self) -> Vec<&str>;

    /// Every weight but the token matrices, by its full name.
    fn tensors(&self) -> Vec<(String, LayerTensor<'_>)>;

    /// Changes weights of linear layers of the blocks, but for those of routers.
    fn change_weights(&mut self, of: &mut ChangeWeight<'_>);

    /// Takes the token matrices anew, after they have changed.
    fn set_tokens(&mut self, embedding: &TokenMatrix, head: Option<&TokenMatrix>);

    /// Whether a [`Session`] rounds activations to 8 bits where a few rows of them meet quantised weights, which is not so at
    /// first: faster, and nothing else that the model computes changes.
    fn round_generation(&mut self, rounds: bool);
}

fn layer<B: Backend>(linear: &super::layers::Linear<B>) -> LinearLayer<'_> {
    LinearLayer {
        module: linear.module(),
        weight: linear.frozen(),
        stored: linear.stored(),
        inputs: linear.inputs(),
        outputs: linear.outputs(),
    }
}

impl<B: Backend> Runner for Model<B> {
    fn step(
        &self,
        batch: &RaggedBatch,
        trained: &Trained<'_>,
        wanted: Wanted,
        options: StepOptions<'_>,
    ) -> Result<StepOutput> {
        self.take_step(batch, trained, wanted, options)
    }

    fn teach(&self, batch: &RaggedBatch, trained: &Trained<'_>, divergence: bool) -> Result<TeacherRows> {
        self.teacher_rows(batch, trained, divergence)
    }

    fn each_logits(
        &self,
        batch: &RaggedBatch,
        trained: &Trained<'_>,
        take: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.label_logits(batch, trained, take)
    }

    fn footprint(&self, batch: &RaggedBatch, trained: &Trained<'_>) -> Footprint {
        self.footprint_of(batch, trained)
    }

    fn logits(
        &self,
        tokens: TokenRows<'_>,
        inputs: Option<TokenRows<'_>>,
        trained: &Trained<'_>,
    ) -> Result<Vec<Vec<f32>>> {
        self.logits_of(tokens, inputs, trained)
    }

    fn vectors(&self, tokens: TokenRows<'_>, trained: &Trained<'_>) -> Result<Vec<Vec<f32>>> {
        self.vectors_of(tokens, trained)
    }

    fn session<'a>(
        &'a self,
        sequences: usize,
        inputs: Option<TokenRows<'_>>,
        trained: &Trained<'a>,
    ) -> Result<Box<dyn Session + 'a>> {
        Ok(Box::new(self.begin(sequences, inputs, trained)?))
    }

    fn linears(&self) -> Vec<LinearLayer<'_>> {
        Model::linears(self).map(|(_, linear)| layer(linear)).collect()
    }

    fn all_linears(&self) -> Vec<LinearLayer<'_>> {
        let blocks = self.stacks().flat_map(|stack| stack.blocks());
        blocks.flat_map(|block| block.all_linears()).map(layer).collect()
    }

    fn linears_around_blocks(&self) -> Vec<&str> {
        Model::linears_around_blocks(self).map(|linear| linear.module()).collect()
    }

    fn tensors(&self) -> Vec<(String, LayerTensor<'_>)> {
        Model::tensors(self)
    }

    fn change_weights(&mut self, of: &mut ChangeWeight<'_>) {
        Model::change_weights(self, of);
    }

    fn set_tokens(&mut self, embedding: &TokenMatrix, head: Option<&TokenMatrix>) {
        Model::set_tokens(self, embedding, head);
    }

    fn round_generation(&mut self, rounds: bool) {
        Model::round_generation(self, rounds);
    }
}
