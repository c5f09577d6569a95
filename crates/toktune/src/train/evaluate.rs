//! Loss and perplexity on held-out rows, overall and at the trained tokens.

use crate::data::Dataset;
use crate::engine::objective::Losses;
use crate::engine::runner::{StepOptions, Wanted};
use crate::error::Result;
use crate::models::PretrainedModel;
use crate::peft::ActiveRows;
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
    /// How many labels that count anything; of sentence pairs, how many pairs.
    pub labels: usize,
    /// Of sentence pairs: the share of anchors whose own positive is the nearest of their batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<f64>,
    /// Over the labels that are chosen tokens; `None` when there is none.
    pub token_loss: Option<f64>,
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
}

/// Evaluates `model` with `rows` on all of `data`, and on the labels in `chosen` one by one.
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
    // nothing stops it, so that it is whole
    let whole = evaluate_until(model, rows, data, (batch_size, chosen), &mut || ControlFlow::Continue(()))?;
    Ok(whole.unwrap_or_else(|| Tally::new(chosen).finish()))
}

/// As [`evaluate`], with the batch size and the chosen tokens together; `None` when `stop`, which is asked before every
/// batch, ends it.
pub(super) fn evaluate_until(
    model: &PretrainedModel,
    rows: ActiveRows<'_>,
    data: &Dataset,
    (batch_size, chosen): (usize, &[u32]),
    stop: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Option<Evaluation>> {
    data.check_for(model)?;
    let trained = rows.trained();
    let mut tally = Tally::new(chosen);
    let indices: Vec<usize> = (0..data.len()).collect();
    for indices in indices.chunks(batch_size.max(1)) {
        if stop().is_break() {
            return Ok(None);
        }
        // always the tokens that the first epoch would mask, so that evaluations can be compared
        let batch = data.batch(indices, 0)?;
        tally.add(model.step(&batch, &trained, Wanted::Losses, StepOptions::default())?.losses);
    }
    Ok(Some(tally.finish()))
}

/// Losses added up.
struct Tally<'c> {
    chosen: &'c [u32],
    /// Where each chosen token is in the list.
    places: HashMap<u32, usize>,
    all: (f64, usize),
    of_tokens: Vec<(f64, usize)>,
    hits: Option<usize>,
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
            weight: 0.0,
        }
    }

    /// Adds the losses of a batch.
    fn add(&mut self, losses: Losses) {
        self.hits = losses.hits.map(|hits| hits + self.hits.unwrap_or(0));
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

    fn finish(self) -> Evaluation {
        let mean = |(sum, count): (f64, usize)| (count > 0).then(|| sum / count as f64);
        let (sum, labels) = self.all;
        let loss = if self.weight > 0.0 { sum / self.weight } else { 0.0 };
        let of = |(&id, &of): (&u32, &(f64, usize))| TokenEvaluation { id, labels: of.1, loss: mean(of) };
        let tokens = self.chosen.iter().zip(&self.of_tokens).map(of).collect();
        let at_tokens = self.of_tokens.iter().fold((0.0, 0), |all, of| (all.0 + of.0, all.1 + of.1));
        let nearest = self.hits.map(|hits| hits as f64 / labels.max(1) as f64);
        Evaluation { loss, perplexity: loss.exp(), labels, nearest, token_loss: mean(at_tokens), tokens }
    }
}
