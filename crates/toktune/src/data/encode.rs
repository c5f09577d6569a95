//! Rows to examples: tokenising, labels, lengths.
//!
//! For a causal language model:
//! - `text`: the tokenizer's own frame (`bos` where it adds one), then `eos` unless the text ends with it.
//! - `prompt` and `completion`: tokenised apart and put together, as TRL and PEFT's examples do, so that the
//!   prompt's
//!   tokens are those of generation; `bos` before, `eos` after.
//! - `messages`: rendered by the chat template, tokenised as one text without further special tokens.
//!
//! Two answers to one prompt are in [`preference`], other kinds of models in [`framed`].

mod framed;
mod preference;

use super::chat::{ChatEncoder, LabelledIds};
use super::row::{Conversation, Padding, Row, Words};
use super::weights::LossWeights;
use super::{Collator, DataCache, DataError, EncodingNotes, Example, ModelKind, RowKeys, SampleBy, Source};
use crate::data::error::Result;
use crate::models::PretrainedModel;
use crate::text::{AutoTokenizer, ChatOptions};

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
#[non_exhaustive]
pub struct DataOptions {
    /// Which tokens are learnt; when absent, the completion of rows that have one and everything of the
    /// others. Rows with `labels` are learnt as these say. For causal language models.
    pub loss_on: Option<LossOn>,
    /// Longer rows are cut at the end.
    pub max_length: Option<usize>,
    /// The number of positions that the model has rows for: a longer row is an error.
    pub max_positions: Option<usize>,
    /// The number of positions that the model was made for: longer rows are counted.
    pub usual_positions: Option<usize>,
    /// The model's number of rows: ids must lie below.
    pub vocab_size: usize,
    /// The kind of model, with what its batches need.
    pub collator: Collator,
    /// Keys of rows that are called otherwise than usual.
    pub keys: RowKeys,
    /// What a row of a plain text file is.
    pub sample_by: SampleBy,
    /// Where encoded rows are kept for the next run; absent, they are encoded in every one.
    pub cache: Option<DataCache>,
}

/// Of masks, where nobody names another: the seed of a run's default.
const MASK_SEED: u64 = 42;

impl DataOptions {
    /// What `model` takes: batches of its kind, and rows no longer than it has positions. A masked language model's masks are those
    /// of `tokenizer`, drawn by the seed of [`TrainingArguments`](crate::TrainingArguments::new).
    pub fn for_model(model: &PretrainedModel, tokenizer: Option<&AutoTokenizer>) -> Self {
        DataOptions {
            collator: Collator::of(model, tokenizer, MASK_SEED),
            // sentence-transformers cuts there too
            max_length: model.sentence().max_seq_length,
            max_positions: model.position_limit(),
            usual_positions: model.max_positions(),
            ..DataOptions::new(model.vocabulary())
        }
    }

    /// Options for a causal language model with this many rows, without limits on the length.
    pub fn new(vocab_size: usize) -> Self {
        DataOptions {
            loss_on: None,
            max_length: None,
            max_positions: None,
            usual_positions: None,
            vocab_size,
            collator: Collator::Causal,
            keys: RowKeys::default(),
            sample_by: SampleBy::default(),
            cache: None,
        }
    }

    /// What decides which tokens of the rows are learnt, by its names.
    pub(super) fn told(&self) -> Vec<(&'static str, String)> {
        let loss_on = match self.loss_on {
            None => "completion where there is one",
            Some(LossOn::All) => "all",
            Some(LossOn::Completion) => "completion",
        };
        let max_length = self.max_length.map_or("none".to_owned(), |most| most.to_string());
        vec![("loss_on", loss_on.to_owned()), ("max_length", max_length)]
    }
}

/// What tokenising rows needs, prepared once. Several threads may encode at once.
pub(super) struct Encoder<'e> {
    options: &'e DataOptions,
    tokenizer: Option<&'e AutoTokenizer>,
    /// What the tokenizer puts before a text.
    before: Vec<u32>,
    /// How many tokens it puts behind one.
    behind: usize,
    chat: Option<ChatEncoder<'e>>,
}

impl<'e> Encoder<'e> {
    pub(super) fn new(tokenizer: Option<&'e AutoTokenizer>, options: &'e DataOptions) -> Result<Self> {
        if options.max_length == Some(0) {
            return Err(DataError::MaxLength { found: 0 });
        }
        options.collator.check(options.vocab_size)?;
        let (before, behind) = tokenizer.map_or(Ok(Default::default()), AutoTokenizer::frame_around)?;
        let chat = tokenizer.map(ChatEncoder::new);
        Ok(Encoder { options, tokenizer, before, behind: behind.len(), chat })
    }

    pub(super) fn options(&self) -> &'e DataOptions {
        self.options
    }

    /// The tokenizer, if there is one.
    pub(super) fn tokenizer_of_rows(&self) -> Option<&'e AutoTokenizer> {
        self.tokenizer
    }

    /// Adds the examples of a row to `out`.
    pub(super) fn encode(
        &self,
        mut row: Row,
        at: Source,
        out: &mut Vec<Example>,
        notes: &mut EncodingNotes,
    ) -> Result<()> {
        let (key, first) = (row.key, out.len());
        *notes.forms.entry(key.to_owned()).or_default() += 1;
        let weights = std::mem::take(&mut row.weights);
        if weights != LossWeights::Once {
            self.options.collator.check_weighted(&at)?;
        }
        match self.options.collator.kind() {
            ModelKind::Causal => out.extend(self.causal(row, at, notes)?),
            ModelKind::MaskedLm => out.push(self.masked(row, at)?),
            ModelKind::Seq2Seq => out.push(self.seq2seq(row, at)?),
            ModelKind::SentencePairs => out.push(self.pair(row, at)?),
        }
        for example in &mut out[first..] {
            // of what was cut at the end nothing is left
            example.weights = weights.of(example.places());
            self.check(example, key)?;
            notes.long +=
                usize::from(self.options.usual_positions.is_some_and(|most| example.longest() > most));
        }
        Ok(())
    }

    /// Checks that a model can take an example.
    fn check(&self, example: &Example, key: &'static str) -> Result<(), DataError> {
        let at = || example.source.clone();
        if example.input_ids.is_empty() {
            return Err(DataError::EmptyRow { at: at(), key: key.to_owned() });
        }
        let vocab_size = self.options.vocab_size;
        let labels = example.labels.iter().flatten();
        let mut ids = example.input_ids.iter().chain(&example.second).chain(&example.cut).chain(labels);
        if let Some(&id) = ids.find(|id| **id as usize >= vocab_size) {
            let token = self.tokenizer.and_then(|tokenizer| tokenizer.id_to_token(id)).unwrap_or_default();
            return Err(DataError::TokenBeyondModel { at: at(), token, id, vocab_size });
        }
        let tokens = example.longest();
        match self.options.max_positions.filter(|most| tokens > *most) {
            Some(max_positions) => Err(DataError::TooLong { at: at(), tokens, max_positions }),
            None => Ok(()),
        }
    }

    /// A row for a causal language model.
    fn causal(&self, row: Row, at: Source, notes: &mut EncodingNotes) -> Result<Vec<Example>> {
        let key = row.key;
        let sequences = match row.words {
            Words::Messages(conversation) => self.conversation(conversation, key, &at, notes)?,
            Words::Preference(of) => return Ok(vec![self.preference(of, key, at, notes)?]),
            words => vec![self.tokens((key, words), &at)?],
        };
        let example = |(mut input_ids, mut labels): LabelledIds| {
            let cut = self.cut(&mut input_ids, 0);
            labels.truncate(input_ids.len());
            Example { input_ids, second: Vec::new(), labels, weights: Vec::new(), cut, source: at.clone() }
        };
        Ok(sequences.into_iter().map(example).collect())
    }

    /// A conversation's sequences with their labels.
    fn conversation(
        &self,
        conversation: Conversation,
        key: &'static str,
        at: &Source,
        notes: &mut EncodingNotes,
    ) -> Result<Vec<LabelledIds>> {
        let chat = self.chat.as_ref().ok_or_else(|| DataError::NoTokenizer { at: at.clone(), key })?;
        let Conversation { messages, tools, documents, variables } = conversation;
        let mut options = ChatOptions::default();
        (options.tools, options.documents, options.variables) = (tools, documents, variables);
        let all = self.options.loss_on == Some(LossOn::All);
        let encoded = chat.encode(&messages, &options, all, at)?;
        notes.chat.add(&encoded.notes);
        Ok(encoded.sequences)
    }

    /// Cuts a sequence that is too long, but for its last `kept` tokens; what was cut.
    fn cut(&self, ids: &mut Vec<u32>, kept: usize) -> Vec<u32> {
        let most = self.options.max_length.unwrap_or(usize::MAX);
        if ids.len() <= most {
            return Vec::new();
        }
        let kept = if kept < most { kept } else { 0 };
        ids.drain(most - kept..ids.len() - kept).collect()
    }

    /// The row's tokens and their labels.
    fn tokens(&self, (key, words): (&'static str, Words), at: &Source) -> Result<LabelledIds> {
        let (ids, labels) = match words {
            Words::Ids { input_ids, labels: Some(labels), padding } => {
                let labels = in_place(labels, input_ids.len(), padding, at)?;
                (input_ids, labels)
            }
            Words::Ids { input_ids, labels: None, .. } => {
                self.refuse_completion(key, at)?;
                let labels = learn(&input_ids);
                (input_ids, labels)
            }
            Words::Pair { .. } | Words::Messages(_) | Words::Preference(_) => {
                return Err(self.wrong_kind(key, at));
            }
            Words::Prompt { prompt, completion } => {
                if prompt.is_empty() && completion.is_empty() {
                    return Err(DataError::EmptyRow { at: at.clone(), key: key.to_owned() });
                }
                let tokenizer = self.tokenizer(key, at)?;
                let mut ids = self.before.clone();
                ids.extend(tokenizer.encode(&prompt, false)?);
                let mut labels = match self.options.loss_on {
                    Some(LossOn::All) => learn(&ids),
                    _ => vec![None; ids.len()],
                };
                ids.extend(tokenizer.encode(&completion, false)?);
                end(&mut ids, tokenizer);
                labels.extend(learn(&ids[labels.len()..]));
                (ids, labels)
            }
            Words::Text(text) => {
                self.refuse_completion(key, at)?;
                if text.is_empty() {
                    return Err(DataError::EmptyRow { at: at.clone(), key: key.to_owned() });
                }
                let tokenizer = self.tokenizer(key, at)?;
                let mut ids = tokenizer.encode(&text, true)?;
                end(&mut ids, tokenizer);
                let labels = learn(&ids);
                (ids, labels)
            }
        };
        Ok((ids, labels))
    }

    fn tokenizer(&self, key: &'static str, at: &Source) -> Result<&'e AutoTokenizer, DataError> {
        self.tokenizer.ok_or_else(|| DataError::NoTokenizer { at: at.clone(), key })
    }

    fn wrong_kind(&self, key: &'static str, at: &Source) -> DataError {
        DataError::WrongKind { at: at.clone(), key, kind: self.options.collator.kind() }
    }

    fn refuse_completion(&self, key: &'static str, at: &Source) -> Result<(), DataError> {
        match self.options.loss_on {
            Some(LossOn::Completion) => Err(DataError::NoCompletion { at: at.clone(), key }),
            _ => Ok(()),
        }
    }
}

/// The labels in the places of `inputs` ids, as many as these; of labels that have the row's padding still, those without it.
///
/// # Errors
/// They are neither; padding is labelled.
fn in_place(
    mut labels: Vec<Option<u32>>,
    inputs: usize,
    padding: Padding,
    at: &Source,
) -> Result<Vec<Option<u32>>> {
    let Padding { before, behind } = padding;
    if labels.len() == inputs {
        return Ok(labels);
    }
    if labels.len() != before + inputs + behind {
        return Err(DataError::LabelLength { at: at.clone(), labels: labels.len(), inputs });
    }
    let is_padding = |index: &usize| *index < before || *index >= before + inputs;
    let labelled = (0..labels.len()).filter(is_padding).find_map(|index| Some((index, labels[index]?)));
    if let Some((index, found)) = labelled {
        return Err(DataError::PaddingLabel { at: at.clone(), index, found });
    }
    labels.truncate(before + inputs);
    labels.drain(..before);
    Ok(labels)
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
