//! Rows to examples: tokenising, labels, lengths.
//!
//! - `text`: the tokenizer's own frame (`bos` where it adds one), then `eos` unless the text ends with it.
//! - `prompt` and `completion`: tokenised apart and put together, as TRL and PEFT's examples do, so that the
//!   prompt's
//!   tokens are those of generation; `bos` before, `eos` after.
//! - `messages`: rendered by the chat template, tokenised as one text without further special tokens.

use super::chat::ChatEncoder;
use super::row::Row;
use super::{DataError, Example, Source};
use crate::Result;
use crate::text::AutoTokenizer;

/// Which tokens are learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossOn {
    /// Every token.
    All,
    /// The completion after a prompt, or the assistant's turns.
    Completion,
}

/// How rows become examples.
#[derive(Debug, Clone)]
pub struct DataOptions {
    /// Which tokens are learnt; when absent, the completion of rows that have one and everything of the
    /// others. Rows with `labels` are learnt as these say.
    pub loss_on: Option<LossOn>,
    /// Longer rows are cut at the end.
    pub max_length: Option<usize>,
    /// The model's number of positions: a longer row is an error.
    pub max_positions: Option<usize>,
    /// The model's number of rows: ids must lie below.
    pub vocab_size: usize,
}

impl DataOptions {
    /// Options for a model with this many rows, without limits on the length.
    pub fn new(vocab_size: usize) -> Self {
        DataOptions { loss_on: None, max_length: None, max_positions: None, vocab_size }
    }
}

/// What tokenising rows needs, prepared once.
pub(super) struct Encoder<'e> {
    options: &'e DataOptions,
    tokenizer: Option<&'e AutoTokenizer>,
    /// What the tokenizer puts before a text.
    before: Vec<u32>,
    chat: Option<ChatEncoder<'e>>,
}

impl<'e> Encoder<'e> {
    pub(super) fn new(tokenizer: Option<&'e AutoTokenizer>, options: &'e DataOptions) -> Result<Self> {
        if options.max_length == Some(0) {
            return Err(DataError::MaxLength { found: 0 }.into());
        }
        let before = tokenizer.map_or(Ok(Vec::new()), AutoTokenizer::frame_before)?;
        Ok(Encoder { options, tokenizer, before, chat: None })
    }

    pub(super) fn encode(&mut self, row: Row, at: Source) -> Result<Example> {
        let key = row.key();
        let (input_ids, labels) = self.tokens(row, &at)?;
        if input_ids.is_empty() {
            return Err(DataError::EmptyRow { at, key }.into());
        }
        if let Some(&id) = input_ids.iter().find(|id| **id as usize >= self.options.vocab_size) {
            let token = self.tokenizer.and_then(|tokenizer| tokenizer.id_to_token(id)).unwrap_or_default();
            let vocab_size = self.options.vocab_size;
            return Err(DataError::TokenBeyondModel { at, token, id, vocab_size }.into());
        }
        let mut example = Example { input_ids, labels, cut: Vec::new(), source: at };
        let length = self.options.max_length.unwrap_or(usize::MAX);
        if example.input_ids.len() > length {
            example.cut = example.input_ids.split_off(length);
            example.labels.truncate(length);
        }
        let tokens = example.input_ids.len();
        if let Some(max_positions) = self.options.max_positions.filter(|most| tokens > *most) {
            return Err(DataError::TooLong { at: example.source, tokens, max_positions }.into());
        }
        Ok(example)
    }

    /// The row's tokens and their labels.
    fn tokens(&mut self, row: Row, at: &Source) -> Result<(Vec<u32>, Vec<Option<u32>>)> {
        let key = row.key();
        let row = match row {
            Row::Ids { input_ids, labels: Some(labels) } => return Ok((input_ids, labels)),
            Row::Ids { input_ids, labels: None } => {
                self.refuse_completion(key, at)?;
                let labels = learn(&input_ids);
                return Ok((input_ids, labels));
            }
            other => other,
        };
        let Some(tokenizer) = self.tokenizer else {
            return Err(DataError::NoTokenizer { at: at.clone(), key }.into());
        };
        match row {
            Row::Messages { messages, tools, documents, variables } => {
                let chat = match self.chat.take() {
                    Some(chat) => self.chat.insert(chat),
                    None => self.chat.insert(ChatEncoder::new(tokenizer)),
                };
                let all = self.options.loss_on == Some(LossOn::All);
                chat.encode(&messages, tools, documents, variables, all, at)
            }
            Row::Prompt { prompt, completion } => {
                if prompt.is_empty() && completion.is_empty() {
                    return Err(DataError::EmptyRow { at: at.clone(), key }.into());
                }
                let mut ids = self.before.clone();
                ids.extend(tokenizer.encode(&prompt, false)?);
                let mut labels = match self.options.loss_on {
                    Some(LossOn::All) => learn(&ids),
                    _ => vec![None; ids.len()],
                };
                ids.extend(tokenizer.encode(&completion, false)?);
                end(&mut ids, tokenizer);
                labels.extend(learn(&ids[labels.len()..]));
                Ok((ids, labels))
            }
            Row::Text(text) => {
                self.refuse_completion(key, at)?;
                if text.is_empty() {
                    return Err(DataError::EmptyRow { at: at.clone(), key }.into());
                }
                let mut ids = tokenizer.encode(&text, true)?;
                end(&mut ids, tokenizer);
                let labels = learn(&ids);
                Ok((ids, labels))
            }
            // Handled above; without a tokenizer these rows are as complete as with one.
            Row::Ids { input_ids, .. } => Ok((input_ids.clone(), learn(&input_ids))),
        }
    }

    fn refuse_completion(&self, key: &'static str, at: &Source) -> Result<(), DataError> {
        match self.options.loss_on {
            Some(LossOn::Completion) => Err(DataError::NoCompletion { at: at.clone(), key }),
            _ => Ok(()),
        }
    }
}

/// Every token as its own label.
fn learn(ids: &[u32]) -> Vec<Option<u32>> {
    ids.iter().copied().map(Some).collect()
}

/// Appends `eos`, unless the text brought it.
fn end(ids: &mut Vec<u32>, tokenizer: &AutoTokenizer) {
    if let Some(eos) = tokenizer.eos_token_id().filter(|eos| ids.last() != Some(eos)) {
        ids.push(eos);
    }
}
