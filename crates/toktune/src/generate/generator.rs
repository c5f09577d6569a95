//! Running a model one token after the other.

use super::cache::KeyValueCache;
use super::config::GenerationConfig;
use super::sampler::Sampler;
use crate::error::{Error, Result};
use crate::models::{BlockUpdates, DecoderStart, Memory, ModelKind, PretrainedModel, TokenRows, wrong_kind};
use crate::ops::{Sequences, Span};
use crate::tuners::ActiveRows;

/// A model that continues prompts.
#[derive(Clone, Debug)]
pub struct Generator<'a> {
    model: &'a PretrainedModel,
    rows: ActiveRows<'a>,
    config: GenerationConfig,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The last token is one of [`GenerationConfig::eos_token_ids`].
    EndToken,
    /// There are [`GenerationConfig::max_new_tokens`] of them.
    MaxNewTokens,
    /// Prompt and text fill the positions that the model was made for.
    MaxPositions,
}

/// The tokens of one text, computed as they are asked for.
///
/// The first call runs the whole prompt, every later one a single token. The end token is given too, as
/// transformers does, and nothing after it; after an error there is nothing either.
#[derive(Debug)]
pub struct Tokens<'a> {
    model: &'a PretrainedModel,
    rows: ActiveRows<'a>,
    updates: Option<Vec<BlockUpdates>>,
    /// The encoder's rows of the prompt, with an encoder-decoder.
    memory: Option<Memory>,
    config: GenerationConfig,
    sampler: Sampler,
    cache: KeyValueCache,
    /// Tokens that have not been run yet: the prompt, then the last token.
    pending: Vec<u32>,
    logits: Vec<f32>,
    generated: usize,
    finished: Option<FinishReason>,
    failed: bool,
}

impl<'a> Generator<'a> {
    /// A generator over `model` with these trained rows; `ActiveRows::default()` for the model as it is.
    ///
    /// # Errors
    /// A value of `config` is out of range.
    pub fn new(model: &'a PretrainedModel, rows: ActiveRows<'a>, config: GenerationConfig) -> Result<Self> {
        config.check()?;
        Ok(Self { model, rows, config })
    }

    /// Continues `prompt`, which the tokenizer has given its beginning-of-text token if it wants one; an encoder-decoder
    /// reads the prompt with its encoder and begins a text of its own. Of a decoder nothing is computed before the first
    /// token is asked for.
    ///
    /// # Errors
    /// The model is no model of text that goes on; the prompt is empty, holds an id that has no row, or has more tokens than
    /// the model has positions.
    pub fn generate(&self, prompt: &[u32]) -> Result<Tokens<'a>> {
        let (model, rows) = (self.model, self.model.vocabulary());
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if let Some(&id) = prompt.iter().find(|&&id| id as usize >= rows) {
            return Err(Error::TokenOutOfRange { id: id as i64, rows });
        }
        if let Some(limit) = model.stack().spec().max_positions.filter(|&limit| prompt.len() > limit) {
            return Err(Error::PromptTooLong { found: prompt.len(), limit });
        }
        let updates = self.rows.updates(model)?;
        let (memory, first) = match (model.kind(), model.spec().decoder_inputs) {
            (ModelKind::Causal, _) => (None, prompt.to_vec()),
            (ModelKind::Seq2Seq, Some(inputs)) => {
                let trained = self.rows.encoder_rows();
                let tokens = TokenRows { ids: prompt, starts: &[0, prompt.len()], trained };
                let start = match (self.config.decoder_start_token_id, inputs.start) {
                    (Some(start), _) | (None, DecoderStart::Token(start)) => start,
                    _ => return Err(Error::NoDecoderStart { path: model.path().to_path_buf() }),
                };
                let beginning = [Some(start), self.config.forced_bos_token_id];
                if let Some(id) = beginning.into_iter().flatten().find(|&id| id as usize >= rows) {
                    return Err(Error::TokenOutOfRange { id: id as i64, rows });
                }
                (Some(model.encode(tokens, updates.as_deref())?), vec![start])
            }
            _ => return Err(wrong_kind(model, ModelKind::Causal)),
        };
        Ok(Tokens {
            model,
            updates,
            memory,
            rows: self.rows,
            sampler: Sampler::new(&self.config, prompt)?,
            config: self.config.clone(),
            cache: KeyValueCache::new(model.blocks().len()),
            pending: first,
            logits: Vec::new(),
            generated: 0,
            finished: None,
            failed: false,
        })
    }
}

impl Tokens<'_> {
    /// Why the text ended; `None` while it goes on, and after an error.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finished
    }

    /// The logits that the last token was chosen from, before any processing; empty before the first.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Runs the pending tokens; the logits of the last of them.
    fn advance(&mut self) -> Result<Vec<f32>> {
        let (model, new) = (self.model, self.pending.len());
        let mut rows = model.rows_of(vec![Span::new(0..new, 0..self.cache.len())]);
        rows.cross = self.memory.as_ref().map(|memory| {
            let keys = 0..memory.depending.dims().first().copied().unwrap_or(0);
            Sequences::new(vec![Span { rows: 0..new, past: 0..0, keys }])
        });
        let updates = model.stack_updates(self.updates.as_deref());
        let mut x = model.embed(&self.pending, &rows, self.rows.input_rows())?;
        for (layer, block) in model.blocks().iter().enumerate() {
            let (past, memory) = (self.cache.layer(layer), self.memory.as_ref());
            let updates = updates.map(|blocks| &blocks[layer]);
            let (next, key_values) = block.forward_with(&x, &rows, past, memory, updates)?;
            self.cache.append(layer, &key_values)?;
            x = next;
        }
        self.pending.clear();
        // only the last row meets the norm and the head
        let last = x.narrow(0, new - 1, 1)?.contiguous()?;
        let logits = model.logits(&model.before_head(&last)?, self.rows.output_rows())?;
        Ok(logits.flatten_all()?.to_vec1()?)
    }

    fn limit(&self) -> Option<FinishReason> {
        let positions = self.cache.len() + self.pending.len();
        if self.generated >= self.config.max_new_tokens {
            Some(FinishReason::MaxNewTokens)
        } else if self.model.stack().spec().max_positions.is_some_and(|limit| positions >= limit) {
            Some(FinishReason::MaxPositions)
        } else {
            None
        }
    }

    fn choose(&mut self) -> Result<u32> {
        let forced = self.config.forced_bos_token_id.filter(|_| self.generated == 0 && self.memory.is_some());
        let token = match forced {
            // it is run together with what begins the text
            Some(token) => token,
            None => {
                self.logits = self.advance()?;
                self.sampler.choose(&self.logits)?
            }
        };
        self.pending.push(token);
        self.generated += 1;
        Ok(token)
    }
}

impl Iterator for Tokens<'_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Result<u32>> {
        if self.finished.is_none() {
            self.finished = self.limit();
        }
        if self.finished.is_some() || self.failed {
            return None;
        }
        let token = self.choose();
        match token {
            Ok(token) if self.config.eos_token_ids.contains(&token) => {
                self.finished = Some(FinishReason::EndToken)
            }
            Ok(_) => self.finished = self.limit(),
            Err(_) => self.failed = true,
        }
        Some(token)
    }
}

impl std::iter::FusedIterator for Tokens<'_> {}
