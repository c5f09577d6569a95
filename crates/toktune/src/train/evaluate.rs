//! Loss and perplexity on held-out rows, overall and at the trained tokens.

use super::preference::{PreferenceMetrics, Reference, check_dpo};
use super::prior::{Elsewhere, Prior};
use crate::data::Dataset;
use crate::engine::objective::{DpoConfig, Losses, PreferenceSums};
use crate::engine::prefixes::Prefixes;
use crate::engine::runner::{StepOptions, Wanted};
use crate::error::Result;
use crate::models::PretrainedModel;
use crate::peft::{ActiveRows, HeldRows};
use crate::workers::{Reader, Team, WorkersError, Writer, read_preference, write_preference};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::ControlFlow;

/// The result of an evaluation. Losses are means over labels, in nats.
///
/// The loss over all of them is weighted as training weighs it, so that the two can be compared; how well a single token is
/// predicted is a plain mean, whatever its rows count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Evaluation {
    /// Over all labels, each by its weight.
    pub loss: f64,
    /// `e^loss`.
    pub perplexity: f64,
    /// How many labels that count anything; of sentence pairs and of two answers to one prompt, how many pairs.
    pub labels: usize,
    /// Of sentence pairs: the share of anchors whose own positive is the nearest of their batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<f64>,
    /// Of two answers to one prompt: how they compare; the loss is then the pairs' mean.
    #[serde(flatten)]
    pub preference: Option<PreferenceMetrics>,
    /// Over the labels that are chosen tokens; `None` when there is none.
    pub token_loss: Option<f64>,
    /// The probability that the chosen tokens take together in places where another token is the label, a mean over some 64 of
    /// them; `None` where there is no such place or no vocabulary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leak: Option<f64>,
    /// The share of the rows with a trained token where the model writes it by itself, a mean over the tokens; `None` where that was
    /// not tried. [`MetricForBestModel::Emission`](super::MetricForBestModel::Emission) has a run try it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emission: Option<f64>,
    /// For each chosen token.
    pub tokens: Vec<TokenEvaluation>,
}

/// How well one token is predicted where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TokenEvaluation {
    /// The token.
    pub id: u32,
    /// How often it is the label.
    pub labels: usize,
    /// The mean loss there; `None` when it never is.
    pub loss: Option<f64>,
    /// Its part of [`Evaluation::leak`]: its mean probability where another token is the label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<f64>,
}

/// Evaluates `model` with `rows` on all of `data`, and on the labels in `chosen` one by one. Two answers to one prompt are compared as
/// [`evaluate_preferences`] does by default.
///
/// # Errors
/// The data are for another kind of model; as [`crate::engine::runner::Runner::step`].
pub fn evaluate(
    model: &PretrainedModel,
    rows: ActiveRows<'_>,
    data: &Dataset,
    batch_size: usize,
    chosen: &[u32],
) -> Result<Evaluation> {
    Evaluated { model, data, batch_size, chosen, reference: None }.whole(rows)
}

/// As [`evaluate`]; `None` when `stop`, which is asked before every batch, ends it.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_until(
    model: &PretrainedModel,
    rows: ActiveRows<'_>,
    data: &Dataset,
    batch_size: usize,
    chosen: &[u32],
    stop: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Option<Evaluation>> {
    Evaluated { model, data, batch_size, chosen, reference: None }.until(rows, &mut Team::default(), stop)
}

/// Evaluates `model` with `rows` on two answers to one prompt a row. They are compared with what the model gives them without rows and
/// updates.
///
/// # Errors
/// A setting is outside its range; otherwise as [`evaluate`].
pub fn evaluate_preferences(
    model: &PretrainedModel,
    rows: ActiveRows<'_>,
    data: &Dataset,
    batch_size: usize,
    config: DpoConfig,
) -> Result<Evaluation> {
    check_dpo(&config)?;
    let reference = Reference::new(HeldRows::default(), config);
    Evaluated { model, data, batch_size, chosen: &[], reference: Some(&reference) }.whole(rows)
}

/// What is evaluated.
pub(super) struct Evaluated<'e> {
    pub(super) model: &'e PretrainedModel,
    pub(super) data: &'e Dataset,
    pub(super) batch_size: usize,
    pub(super) chosen: &'e [u32],
    /// What two answers to one prompt are compared with; the model alone where nothing is said.
    pub(super) reference: Option<&'e Reference>,
}

/// In place of a tally: that there is none, since the evaluation was ended.
const STOPPED: usize = usize::MAX;

impl Evaluated<'_> {
    /// The losses of a batch.
    fn losses(
        &self,
        indices: &[usize],
        rows: ActiveRows<'_>,
        compared: Option<(&Reference, &Prefixes)>,
    ) -> Result<Losses> {
        let Self { model, data, .. } = *self;
        // always the tokens that the first epoch would mask, so that evaluations can be compared
        let mut batch = data.batch(indices, 0)?;
        let mut wanted = Wanted::Losses;
        if let Some((reference, prefixes)) = compared {
            batch.segments = data.sequences(indices).into_iter().map(|at| prefixes.of_sequence(at)).collect();
            batch.preference = Some(reference.objective((model, data), (indices, &batch), None)?);
            // what is not trained yet has rewards of 0, to the last bit
            wanted = Wanted::LossesAsTrained;
        }
        Ok(model.step(&batch, &rows.trained(), wanted, StepOptions::default())?.losses)
    }

    /// Evaluates all of it.
    fn whole(&self, rows: ActiveRows<'_>) -> Result<Evaluation> {
        // nothing stops it, so that it is whole
        let whole = self.until(rows, &mut Team::default(), &mut || ControlFlow::Continue(()))?;
        Ok(whole.unwrap_or_else(|| Tally::new(self.chosen).finish()))
    }

    /// As [`evaluate`], the batches divided among workers; `None` when the `stop` of any, which is asked before every batch, ends it.
    pub(super) fn until(
        &self,
        rows: ActiveRows<'_>,
        team: &mut Team,
        stop: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<Evaluation>> {
        let Self { model, data, batch_size, chosen, reference } = *self;
        data.check_for(model)?;
        let batches: Vec<Vec<usize>> =
            (0..data.len()).collect::<Vec<_>>().chunks(batch_size.max(1)).map(<[usize]>::to_vec).collect();
        let base = Reference::new(HeldRows::default(), DpoConfig::default());
        let reference = data.is_preference().then(|| reference.unwrap_or(&base));
        // both answers begin with their prompt
        let prefixes = reference.map(|_| data.prefixes(model));
        let mut own = Writer::default();
        for indices in &batches[team.share(batches.len())] {
            if stop().is_break() {
                // nothing at all, which the others know by
                own = Writer::default();
                own.number(STOPPED);
                break;
            }
            let mut tally = Tally::new(chosen);
            tally.add(self.losses(indices, rows, reference.zip(prefixes.as_ref()))?);
            tally.write(&mut own);
        }
        // every batch's sums are added in the order of the batches, whoever computed them
        let mut tally = Tally::new(chosen);
        for (worker, said) in team.gathered(own.finish())?.into_iter().enumerate() {
            let mut message = Reader::new(worker, &said);
            while !message.is_empty() {
                let Some(of_batch) = Tally::read(chosen, &mut message)? else { return Ok(None) };
                tally.merge(&of_batch);
            }
        }
        let mut evaluation = tally.finish();
        let trained = chosen.iter().copied().collect();
        let elsewhere = Elsewhere { model, data, tokens: chosen, trained }.measure(rows)?;
        if let Some(Prior { probabilities, .. }) = elsewhere {
            evaluation.leak = Some(probabilities.iter().sum());
            let tokens = evaluation.tokens.iter_mut().zip(probabilities);
            tokens.for_each(|(token, probability)| token.elsewhere = Some(probability));
        }
        Ok(Some(evaluation))
    }
}

/// Losses added up.
struct Tally<'c> {
    chosen: &'c [u32],
    /// Where each chosen token is in the list.
    places: HashMap<u32, usize>,
    all: (f64, usize),
    of_tokens: Vec<(f64, usize)>,
    hits: Option<usize>,
    preference: Option<PreferenceSums>,
    /// The sum of the weights of all losses.
    weight: f64,
}

impl<'c> Tally<'c> {
    fn new(chosen: &'c [u32]) -> Self {
        let places = chosen.iter().enumerate().map(|(at, &id)| (id, at)).collect();
        Tally {
            chosen,
            places,
            all: (0.0, 0),
            of_tokens: vec![(0.0, 0); chosen.len()],
            hits: None,
            preference: None,
            weight: 0.0,
        }
    }

    /// Adds the losses of a batch.
    fn add(&mut self, losses: Losses) {
        self.hits = losses.hits.map(|hits| hits + self.hits.unwrap_or(0));
        if let Some(of) = &losses.preference {
            self.preference.get_or_insert_default().add(of);
        }
        for loss in losses.losses {
            let place = loss.target.and_then(|target| self.places.get(&target));
            let of_token = place.map(|&at| &mut self.of_tokens[at]);
            self.all.0 += f64::from(loss.value) * f64::from(loss.weight);
            self.all.1 += 1;
            self.weight += f64::from(loss.weight);
            if let Some((sum, count)) = of_token {
                *sum += f64::from(loss.value);
                *count += 1;
            }
        }
    }

    /// Adds another one.
    fn merge(&mut self, other: &Self) {
        self.all = (self.all.0 + other.all.0, self.all.1 + other.all.1);
        self.of_tokens.iter_mut().zip(&other.of_tokens).for_each(|(sum, of)| {
            *sum = (sum.0 + of.0, sum.1 + of.1);
        });
        self.hits = other.hits.map(|hits| hits + self.hits.unwrap_or(0));
        self.weight += other.weight;
        if let Some(of) = &other.preference {
            self.preference.get_or_insert_default().add(of);
        }
    }

    /// Writes it down, bit for bit.
    fn write(&self, message: &mut Writer) {
        message.number(self.all.1);
        message.double(self.all.0);
        message.double(self.weight);
        // one more, so that 0 says that nothing is known
        message.number(self.hits.map_or(0, |hits| hits + 1));
        for (sum, count) in &self.of_tokens {
            message.double(*sum);
            message.number(*count);
        }
        write_preference(self.preference.as_ref(), message);
    }

    /// What [`Tally::write`] wrote; nothing where the evaluation was ended instead.
    ///
    /// # Errors
    /// It is something else.
    fn read(chosen: &'c [u32], message: &mut Reader<'_>) -> Result<Option<Self>, WorkersError> {
        let count = message.number()?;
        if count == STOPPED {
            return Ok(None);
        }
        let mut tally = Self::new(chosen);
        (tally.all, tally.weight) = ((message.double()?, count), message.double()?);
        tally.hits = message.number()?.checked_sub(1);
        for of in &mut tally.of_tokens {
            *of = (message.double()?, message.number()?);
        }
        tally.preference = read_preference(message)?;
        Ok(Some(tally))
    }

    fn finish(self) -> Evaluation {
        let mean = |(sum, count): (f64, usize)| (count > 0).then(|| sum / count as f64);
        let (sum, labels) = self.all;
        let loss = if self.weight > 0.0 { sum / self.weight } else { 0.0 };
        let of = |(&id, &of): (&u32, &(f64, usize))| TokenEvaluation {
            id,
            labels: of.1,
            loss: mean(of),
            elsewhere: None,
        };
        let tokens = self.chosen.iter().zip(&self.of_tokens).map(of).collect();
        let at_tokens = self.of_tokens.iter().fold((0.0, 0), |all, of| (all.0 + of.0, all.1 + of.1));
        let nearest = self.hits.map(|hits| hits as f64 / labels.max(1) as f64);
        let preference = self.preference.as_ref().map(PreferenceMetrics::of);
        Evaluation {
            loss,
            perplexity: loss.exp(),
            labels,
            nearest,
            preference,
            token_loss: mean(at_tokens),
            leak: None,
            emission: None,
            tokens,
        }
    }
}
