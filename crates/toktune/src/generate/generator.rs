//! A model that continues prompts.

use super::config::GenerationConfig;
use super::texts::{Group, Stop, Texts, Tokens};
use crate::engine::runner::TokenRows;
use crate::error::{Error, Result};
use crate::models::{DecoderStart, ModelKind, PretrainedModel, wrong_kind};
use crate::peft::{ActiveRows, PeftModel};
use crate::text::AutoTokenizer;
use toktune_engine::EngineError;

/// A model that continues prompts.
#[derive(Clone, Debug)]
pub struct Generator<'a> {
    model: &'a PretrainedModel,
    rows: ActiveRows<'a>,
    config: GenerationConfig,
    /// Where texts end that hold one of the configuration's strings.
    tokenizer: Option<&'a AutoTokenizer>,
}

impl<'a> Generator<'a> {
    /// A generator over `model` with these trained rows; `ActiveRows::default()` for the model as it is.
    ///
    /// # Errors
    /// A value of `config` is out of range.
    pub fn new(model: &'a PretrainedModel, rows: ActiveRows<'a>, config: GenerationConfig) -> Result<Self> {
        config.check()?;
        Ok(Self { model, rows, config, tokenizer: None })
    }

    /// The same with a tokenizer, which [`GenerationConfig::stop_strings`] need.
    pub fn with_tokenizer(self, tokenizer: &'a AutoTokenizer) -> Self {
        Self { tokenizer: Some(tokenizer), ..self }
    }

    /// Continues `prompt`, which the tokenizer has given its beginning-of-text token if it wants one; an encoder-decoder
    /// reads the prompt with its encoder and begins a text of its own. Of a decoder nothing is computed before the first
    /// token is asked for.
    ///
    /// # Errors
    /// The model is no model of text that goes on; the prompt is empty, holds an id that has no row, or has more tokens than
    /// the model has positions; there are strings to stop at, and no tokenizer.
    pub fn generate(&self, prompt: &[u32]) -> Result<Tokens<'a>> {
        Ok(Tokens::of(self.generate_batch(&[prompt])?))
    }

    /// Continues several prompts together, each as it would be alone; where tokens are drawn, prompt `i` draws by the seed plus
    /// `i`.
    ///
    /// # Errors
    /// As [`Generator::generate`], for one of them.
    pub fn generate_batch(&self, prompts: &[&[u32]]) -> Result<Texts<'a>> {
        let all = (0..prompts.len()).collect();
        Texts::new(vec![self.group(prompts, all)?], prompts, &self.config, self.stop()?)
    }

    fn stop(&self) -> Result<Option<Stop<'a>>> {
        match (self.config.stop_strings.is_empty(), self.tokenizer) {
            (true, _) => Ok(None),
            (false, Some(tokenizer)) => {
                Ok(Some(Stop { tokenizer, strings: self.config.stop_strings.clone() }))
            }
            (false, None) => Err(Error::NoTokenizer { option: "stop_strings" }),
        }
    }

    /// The prompts `members` of some, opened with this generator's rows.
    fn group(&self, prompts: &[&[u32]], members: Vec<usize>) -> Result<Group<'a>> {
        let (model, trained) = (self.model, self.rows.trained());
        members.iter().try_for_each(|&at| self.check(prompts[at]))?;
        let first = match (model.kind(), model.decoder_inputs()) {
            (ModelKind::Causal, _) => None,
            (ModelKind::Seq2Seq, Some(inputs)) => {
                let start = match (self.config.decoder_start_token_id, inputs.start) {
                    (Some(start), _) | (None, DecoderStart::Token(start)) => start,
                    _ => return Err(Error::NoDecoderStart { path: model.path().to_path_buf() }),
                };
                let beginning = [Some(start), self.config.forced_bos_token_id];
                let rows = model.vocabulary();
                if let Some(id) = beginning.into_iter().flatten().find(|&id| id as usize >= rows) {
                    return Err(EngineError::TokenOutOfRange { id: id as i64, rows }.into());
                }
                Some(start)
            }
            _ => return Err(wrong_kind(model, ModelKind::Causal).into()),
        };
        let read: Vec<&[u32]> = members.iter().map(|&at| prompts[at]).collect();
        let (ids, mut starts) = (read.concat(), vec![0]);
        for prompt in &read {
            starts.push(starts[starts.len() - 1] + prompt.len());
        }
        let inputs = first.map(|_| TokenRows { ids: &ids, starts: &starts });
        let session = model.runner().session(members.len(), inputs, &trained)?;
        Ok(Group { session, members, first, most: model.max_positions() })
    }

    fn check(&self, prompt: &[u32]) -> Result<()> {
        let rows = self.model.vocabulary();
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt.into());
        }
        if let Some(&id) = prompt.iter().find(|&&id| id as usize >= rows) {
            return Err(EngineError::TokenOutOfRange { id: id as i64, rows }.into());
        }
        match self.model.max_positions().filter(|&limit| prompt.len() > limit) {
            Some(limit) => Err(Error::PromptTooLong { found: prompt.len(), limit }),
            None => Ok(()),
        }
    }
}

impl PeftModel {
    /// Continues several prompts together, each with an adapter of its own by name
    /// ([`BASE_ADAPTER`](crate::peft::BASE_ADAPTER) for none); without names the active ones act on all.
    ///
    /// # Errors
    /// As [`Generator::generate`]; there is another number of names than of prompts, or no such adapter, or some are merged.
    pub fn generate<'a>(
        &'a self,
        prompts: &[&[u32]],
        adapter_names: Option<&[&str]>,
        config: &GenerationConfig,
        tokenizer: Option<&'a AutoTokenizer>,
    ) -> Result<Texts<'a>> {
        let generator = |rows| {
            let generator = Generator::new(self.base(), rows, config.clone())?;
            Ok::<_, Error>(Generator { tokenizer, ..generator })
        };
        let Some(names) = adapter_names else {
            return generator(self.active())?.generate_batch(prompts);
        };
        let mut groups = Vec::new();
        for (name, members) in self.groups(names, prompts.len())? {
            let rows = match name.filter(|_| self.is_adapter_enabled()) {
                Some(name) => self.rows_of_adapter(&name)?,
                None => ActiveRows::default(),
            };
            groups.push(generator(rows)?.group(prompts, members)?);
        }
        let stop = generator(ActiveRows::default())?.stop()?;
        Texts::new(groups, prompts, config, stop)
    }
}
