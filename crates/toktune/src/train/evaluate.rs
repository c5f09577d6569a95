//! Loss and perplexity on held-out rows, overall and at the trained tokens.

use super::step::{StepOptions, Wanted, run};
use crate::data::Dataset;
use crate::error::Result;
use crate::models::PretrainedModel;
use crate::tuners::ActiveRows;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The result of an evaluation. Losses are means over labels, in nats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Over all labels.
    pub loss: f64,
    /// `e^loss`.
    pub perplexity: f64,
    /// How many labels; of sentence pairs, how many pairs.
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
/// As [`run`].
pub fn evaluate(
    model: &PretrainedModel,
    rows: ActiveRows<'_>,
    data: &Dataset,
    batch_size: usize,
    chosen: &[u32],
) -> Result<Evaluation> {
    let (mut sum, mut labels, mut nearest) = (0f64, 0usize, None);
    let mut of_tokens = vec![(0f64, 0usize); chosen.len()];
    let places: HashMap<u32, usize> = chosen.iter().enumerate().map(|(at, &id)| (id, at)).collect();
    let indices: Vec<usize> = (0..data.len()).collect();
    for indices in indices.chunks(batch_size.max(1)) {
        // always the tokens that the first epoch would mask, so that evaluations can be compared
        let batch = data.batch(indices, 0)?;
        let output = run(model, rows, &batch, Wanted::Losses, StepOptions::default())?;
        nearest = output.nearest.map(|hits| hits + nearest.unwrap_or(0));
        for (label, loss) in output.losses {
            sum += loss as f64;
            labels += 1;
            if let Some(&at) = places.get(&label) {
                of_tokens[at].0 += loss as f64;
                of_tokens[at].1 += 1;
            }
        }
    }
    let mean = |(sum, count): (f64, usize)| (count > 0).then(|| sum / count as f64);
    let loss = mean((sum, labels)).unwrap_or(0.0);
    let tokens = chosen
        .iter()
        .zip(&of_tokens)
        .map(|(&id, &of)| TokenEvaluation { id, labels: of.1, loss: mean(of) })
        .collect();
    let all = of_tokens.iter().fold((0.0, 0), |all, of| (all.0 + of.0, all.1 + of.1));
    let nearest = nearest.map(|hits| hits as f64 / labels.max(1) as f64);
    Ok(Evaluation { loss, perplexity: loss.exp(), labels, nearest, token_loss: mean(all), tokens })
}
