//! Whole sequences through a model, without a gradient.

use super::block::Memory;
use super::model::PretrainedModel;
use super::pooling::{mean, normalised};
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
        let Some(stack) = self.encoder() else {
            return match encoder {
                None => self.through(self.stack(), tokens, None, updates),
                Some(_) => Err(Error::WrongBatch { expected: self.kind().auto_class() }),
            };
        };
        let inputs = encoder.ok_or(Error::WrongBatch { expected: self.kind().auto_class() })?;
        let (of_encoder, of_stack) = match updates {
            Some(updates) => {
                let (encoder, stack) = updates.split_at(stack.blocks().len());
                (Some(encoder), Some(stack))
            }
            None => (None, None),
        };
        let last = self.through(stack, inputs, None, of_encoder)?;
        let d = stack.spec().hidden_size;
        let rows = stack.end().run(last.flatten_all()?.to_vec1()?);
        let depending = Tensor::from_vec(rows, (inputs.ids.len(), d), self.device())?;
        let memory = Memory { constant: Tensor::zeros((0, d), depending.dtype(), self.device())?, depending };
        let cross = tokens.rows().zip(inputs.rows()).map(|(rows, keys)| Span { rows, past: 0..0, keys });
        let cross = (memory, Sequences::new(cross.collect()));
        self.through(self.stack(), tokens, Some(&cross), of_stack)
    }

    /// A vector for each sequence, `[sequences, d]`: the mean of its last hidden rows, of length 1.
    ///
    /// # Errors
    /// As [`PretrainedModel::hidden`].
    pub fn sentence_embeddings(&self, tokens: TokenRows<'_>) -> Result<Tensor> {
        let last = self.stack().end().run(self.hidden(tokens, None, None)?.flatten_all()?.to_vec1()?);
        let d = last.len() / tokens.ids.len().max(1);
        let of = |rows: std::ops::Range<usize>| normalised(&mean(&last[rows.start * d..rows.end * d], d)).0;
        let vectors: Vec<f32> = tokens.rows().flat_map(of).map(|x| x as f32).collect();
        Ok(Tensor::from_vec(vectors, (tokens.rows().count(), d), self.device())?)
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
