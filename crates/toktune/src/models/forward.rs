//! Whole sequences through a model, without a gradient.

use super::block::Memory;
use super::model::PretrainedModel;
use super::pooling::{normalised, pool};
use super::stack::Stack;
use super::token_matrix::TrainedRows;
use super::update::BlockUpdates;
use crate::error::{Error, Result};
use crate::ops::{Sequences, Span};
use candle_core::Tensor;

/// The tokens of some sequences, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct TokenRows<'a> {
    /// The tokens of all.
    pub ids: &'a [u32],
    /// Where each sequence starts, and the number of tokens at the end.
    pub starts: &'a [usize],
    /// The trained rows of the embedding they are looked up in.
    pub trained: Option<&'a TrainedRows>,
}

impl TokenRows<'_> {
    fn rows(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        self.starts.windows(2).map(|w| w[0]..w[1])
    }
}

impl PretrainedModel {
    /// The rows of `tokens` after the last block, `[tokens, d]`. An encoder-decoder takes those of its encoder too.
    ///
    /// # Errors
    /// An id is past the vocabulary, or the encoder's tokens are missing or not asked for.
    pub fn hidden(
        &self,
        tokens: TokenRows<'_>,
        encoder: Option<TokenRows<'_>>,
        updates: Option<&[BlockUpdates]>,
    ) -> Result<Tensor> {
        let expected = self.kind().auto_class();
        let cross = match (self.encoder(), encoder) {
            (None, None) => None,
            (Some(_), Some(inputs)) => {
                let spans =
                    tokens.rows().zip(inputs.rows()).map(|(rows, keys)| Span { rows, past: 0..0, keys });
                Some((self.encode(inputs, updates)?, Sequences::new(spans.collect())))
            }
            _ => return Err(Error::WrongBatch { expected }),
        };
        self.through(self.stack(), tokens, cross.as_ref(), self.stack_updates(updates))
    }

    /// What the decoder of an encoder-decoder attends to for the encoder's tokens.
    ///
    /// # Errors
    /// An id is past the vocabulary, or there is no encoder.
    pub fn encode(&self, inputs: TokenRows<'_>, updates: Option<&[BlockUpdates]>) -> Result<Memory> {
        let encoder = self.encoder().ok_or(Error::WrongBatch { expected: self.kind().auto_class() })?;
        let updates = updates.map(|updates| &updates[..encoder.blocks().len()]);
        let last = self.through(encoder, inputs, None, updates)?;
        let d = encoder.spec().hidden_size;
        let rows = encoder.end().run(last.flatten_all()?.to_vec1()?);
        let depending = Tensor::from_vec(rows, (inputs.ids.len(), d), self.device())?;
        Ok(Memory { constant: Tensor::zeros((0, d), depending.dtype(), self.device())?, depending })
    }

    /// Those of the updates of all blocks that are for the stack.
    pub(crate) fn stack_updates<'u>(
        &self,
        updates: Option<&'u [BlockUpdates]>,
    ) -> Option<&'u [BlockUpdates]> {
        updates.map(|updates| &updates[self.encoder().map_or(0, |encoder| encoder.blocks().len())..])
    }

    /// A vector for each sequence, `[sequences, d]`, made of its last hidden rows as the model's [`SentenceSpec`] says: their
    /// mean, of length 1, where its files say nothing. Several poolings give several times `d`.
    ///
    /// [`SentenceSpec`]: super::SentenceSpec
    ///
    /// # Errors
    /// As [`PretrainedModel::hidden`].
    pub fn sentence_embeddings(&self, tokens: TokenRows<'_>) -> Result<Tensor> {
        let last = self.stack().end().run(self.hidden(tokens, None, None)?.flatten_all()?.to_vec1()?);
        let d = last.len() / tokens.ids.len().max(1);
        let sentence = self.sentence();
        let of = |rows: std::ops::Range<usize>| {
            let vector = pool(&sentence.pooling, &last[rows.start * d..rows.end * d], d);
            if sentence.normalise { normalised(&vector).0 } else { vector }
        };
        let vectors: Vec<f32> = tokens.rows().flat_map(of).map(|x| x as f32).collect();
        Ok(Tensor::from_vec(vectors, (tokens.rows().count(), d * sentence.pooling.len()), self.device())?)
    }

    fn through(
        &self,
        stack: &Stack,
        tokens: TokenRows<'_>,
        cross: Option<&(Memory, Sequences)>,
        updates: Option<&[BlockUpdates]>,
    ) -> Result<Tensor> {
        let mut rows = stack.rows_of(tokens.rows().map(|rows| Span::new(rows, 0..0)).collect(), None);
        rows.cross = cross.map(|(_, sequences)| sequences.clone());
        let x = stack.embed(tokens.ids, &rows, &self.embedding().table(tokens.trained))?;
        let mut x = Tensor::from_vec(x, (tokens.ids.len(), stack.spec().hidden_size), self.device())?;
        for (i, block) in stack.blocks().iter().enumerate() {
            let updates = updates.map(|blocks| &blocks[i]);
            x = block.forward_with(&x, &rows, None, cross.map(|(memory, _)| memory), updates)?.0;
        }
        Ok(x)
    }
}
