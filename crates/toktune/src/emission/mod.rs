//! Whether trained tokens work: are they likely where they belong, unlikely elsewhere, and written when the model goes on by itself?
//!
//! A low loss at a token says what the model would write after everything before it is given. In use the model has to come there
//! by itself, and one token too unlikely among ten leaves none of the text as it was learnt. So held-out rows are gone on with
//! greedily ([`Emission::of`]), and what is written is compared with what was to be. [`Cause`] says why a token is probably missing.
//!
//! Nothing here prints; for decoders alone.

mod cause;
mod pairs;
mod prompts;

pub use cause::{Cause, Circumstances};
pub use pairs::{PairEmission, pairs};
pub use prompts::{Prompt, prompts};

use crate::data::RaggedBatch;
use crate::error::Result;
use crate::generate::{GenerationConfig, Generator};
use crate::models::{ModelKind, PretrainedModel};
use crate::peft::ActiveRows;
use crate::text::AutoTokenizer;
use serde::Serialize;
use std::ops::ControlFlow;

/// Prompts that are gone on with together.
const TOGETHER: usize = 8;

/// How a token is predicted and written.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TokenEmission {
    /// The token.
    pub id: u32,
    /// Labels of the prompts' rows that are this token.
    pub labels: usize,
    /// Its mean probability there.
    pub probability: Option<f64>,
    /// Its median rank there, from 1.
    pub rank: Option<usize>,
    /// The share of them where it is the likeliest.
    pub top1: Option<f64>,
    /// Its mean probability at the labels that are another token.
    pub elsewhere: f64,
    /// Rows that were to have it written.
    pub expected: usize,
    /// Those of them where it was.
    pub written: usize,
    /// Rows that were not to have it, and had it.
    pub unexpected: usize,
}

impl TokenEmission {
    /// The share of rows with it where it was written.
    pub fn rate(&self) -> Option<f64> {
        (self.expected > 0).then(|| self.written as f64 / self.expected as f64)
    }
}

/// What came of some held-out rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Emission {
    /// Rows that were gone on with.
    pub prompts: usize,
    /// Each of the chosen tokens.
    pub tokens: Vec<TokenEmission>,
    /// Openings and closings among them.
    pub pairs: Vec<PairEmission>,
    /// The tokens that end a text: the model's, and those of the tokenizer.
    pub ends: Vec<u32>,
    /// Rows that were to end with one of them.
    pub to_end: usize,
    /// Those of them of which the model ended the text itself, before it had twice the room that the row takes.
    pub ended: usize,
    /// What was written for each prompt.
    pub texts: Vec<Vec<u32>>,
}

impl Emission {
    /// Tries the tokens `chosen` of `model` with `rows` on `prompts`. `stop` is asked before every few of them and before
    /// each token that is written, with how many are done; nothing is given when it ends it.
    ///
    /// # Errors
    /// As [`Generator::generate_batch`] and [`crate::engine::runner::Runner::each_logits`].
    pub fn of(
        model: &PretrainedModel,
        rows: ActiveRows<'_>,
        prompts: &[Prompt],
        (chosen, tokenizer): (&[u32], Option<&AutoTokenizer>),
        stop: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Self>> {
        let mut config = GenerationConfig::of_model(model)?;
        (config.do_sample, config.repetition_penalty) = (false, 1.0);
        if let Some(tokenizer) = tokenizer {
            config = config.with_ends_of(tokenizer);
        }
        let mut tally = Tally::new(chosen);
        let mut texts = Vec::with_capacity(prompts.len());
        for some in prompts.chunks(TOGETHER) {
            if stop(texts.len()).is_break() {
                return Ok(None);
            }
            tally.predicted(model, &rows, some)?;
            let done = texts.len();
            let Some(written) = written((model, &rows), some, &config, &mut || stop(done))? else {
                return Ok(None);
            };
            some.iter().zip(&written).for_each(|(prompt, text)| tally.written(prompt, text));
            texts.extend(written);
        }
        let names: Vec<(u32, String)> =
            chosen.iter().filter_map(|id| Some((*id, tokenizer?.id_to_token(*id)?))).collect();
        let pairs = pairs(&names, &texts);
        let ends = config.eos_token_ids;
        let is_ended = |text: &Vec<u32>| text.last().is_some_and(|last| ends.contains(last));
        let to_end: Vec<usize> = (0..prompts.len()).filter(|at| is_ended(&prompts[*at].expected)).collect();
        let ended = to_end.iter().filter(|at| is_ended(&texts[**at])).count();
        let to_end = to_end.len();
        Ok(Some(Self { prompts: prompts.len(), tokens: tally.finish(), pairs, ends, to_end, ended, texts }))
    }

    /// Whether one of the tokens that were tried ends texts.
    pub fn has_end(&self) -> bool {
        self.tokens.iter().any(|token| self.ends.contains(&token.id))
    }

    /// The smallest share in which a token that was to be written was; `None` where none was to be.
    pub fn least_rate(&self) -> Option<f64> {
        self.tokens.iter().filter_map(TokenEmission::rate).min_by(f64::total_cmp)
    }
}

/// Goes on with prompts greedily, each as far as what was to be written would go twice over; `None` when `stop` ends it.
fn written(
    (model, rows): (&PretrainedModel, &ActiveRows<'_>),
    prompts: &[Prompt],
    config: &GenerationConfig,
    stop: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Option<Vec<Vec<u32>>>> {
    let max_new_tokens = prompts.iter().map(Prompt::room).max().unwrap_or(0);
    let config = GenerationConfig { max_new_tokens, ..config.clone() };
    let of: Vec<&[u32]> = prompts.iter().map(|prompt| &prompt.ids[..]).collect();
    let mut going = Generator::new(model, *rows, config)?.generate_batch(&of)?;
    let mut texts = vec![Vec::new(); prompts.len()];
    loop {
        if stop().is_break() {
            return Ok(None);
        }
        let next = going.advance()?;
        if next.is_empty() {
            break;
        }
        next.into_iter().for_each(|(at, token): (usize, u32)| texts[at].push(token));
    }
    texts.iter_mut().zip(prompts).for_each(|(text, prompt): (&mut Vec<u32>, _)| text.truncate(prompt.room()));
    Ok(Some(texts))
}

/// What is counted of a token.
#[derive(Clone, Debug, Default)]
struct Count {
    probability: f64,
    ranks: Vec<usize>,
    elsewhere: (f64, usize),
    expected: usize,
    written: usize,
    unexpected: usize,
}

struct Tally<'c> {
    chosen: &'c [u32],
    counts: Vec<Count>,
}

impl<'c> Tally<'c> {
    fn new(chosen: &'c [u32]) -> Self {
        Self { chosen, counts: vec![Count::default(); chosen.len()] }
    }

    /// Counts what the rows of prompts predict where everything before is given.
    fn predicted(
        &mut self,
        model: &PretrainedModel,
        rows: &ActiveRows<'_>,
        prompts: &[Prompt],
    ) -> Result<()> {
        let mut batch = RaggedBatch::new(ModelKind::Causal);
        for prompt in prompts {
            batch.push(prompt.row.iter().copied(), prompt.targets.iter().copied(), &[]);
        }
        let targets: Vec<u32> = batch.targets.iter().flatten().copied().collect();
        model.runner().each_logits(&batch, &rows.trained(), &mut |label, logits| {
            let largest = logits.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x));
            let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
            for (id, count) in self.chosen.iter().zip(&mut self.counts) {
                let Some(logit) = logits.get(*id as usize) else { continue };
                let probability = f64::from(logit - largest).exp() / sum;
                if targets[label] == *id {
                    count.probability += probability;
                    count.ranks.push(1 + logits.iter().filter(|x| *x > logit).count());
                } else {
                    count.elsewhere.0 += probability;
                    count.elsewhere.1 += 1;
                }
            }
        })?;
        Ok(())
    }

    /// Counts what was written of a prompt.
    fn written(&mut self, prompt: &Prompt, text: &[u32]) {
        for (id, count) in self.chosen.iter().zip(&mut self.counts) {
            let is_written = text.contains(id);
            match prompt.expected.contains(id) {
                true => {
                    count.expected += 1;
                    count.written += usize::from(is_written);
                }
                false => count.unexpected += usize::from(is_written),
            }
        }
    }

    fn finish(self) -> Vec<TokenEmission> {
        let of = |(id, mut count): (&u32, Count)| {
            count.ranks.sort_unstable();
            let labels = count.ranks.len();
            let share = |sum: f64| (labels > 0).then(|| sum / labels as f64);
            TokenEmission {
                id: *id,
                labels,
                probability: share(count.probability),
                rank: count.ranks.get(labels / 2).copied(),
                top1: share(count.ranks.iter().filter(|rank| **rank == 1).count() as f64),
                elsewhere: count.elsewhere.0 / count.elsewhere.1.max(1) as f64,
                expected: count.expected,
                written: count.written,
                unexpected: count.unexpected,
            }
        };
        self.chosen.iter().zip(self.counts).map(of).collect()
    }
}
