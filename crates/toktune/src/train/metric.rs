//! By what the best of a run's evaluations is found.

use super::evaluate::Evaluation;
use crate::data::Dataset;
use crate::emission::{Emission, Prompt, TokenEmission, prompts};
use crate::error::{Error, Result};
use crate::models::ModelKind;
use crate::peft::PeftModel;
use crate::text::AutoTokenizer;
use std::cmp::Ordering;
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;

/// What an evaluation is the best by, as transformers' `metric_for_best_model`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricForBestModel {
    /// The lowest held-out loss over all labels.
    #[default]
    Loss,
    /// The largest share of held-out rows where the model writes the trained tokens by itself ([`Evaluation::emission`]), and the
    /// lower loss of two that are alike. For decoders.
    Emission,
}

impl MetricForBestModel {
    /// Whether `one` is better than `other`.
    pub(super) fn is_better(self, one: &Evaluation, other: &Evaluation) -> bool {
        let by_loss = one.loss < other.loss;
        match self {
            MetricForBestModel::Loss => by_loss,
            // one that was not tried is less than any that was
            MetricForBestModel::Emission => match one.emission.partial_cmp(&other.emission) {
                Some(Ordering::Equal) => by_loss,
                order => order == Some(Ordering::Greater),
            },
        }
    }
}

impl fmt::Display for MetricForBestModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MetricForBestModel::Loss => "loss",
            MetricForBestModel::Emission => "emission",
        })
    }
}

impl FromStr for MetricForBestModel {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "loss" => Ok(MetricForBestModel::Loss),
            "emission" => Ok(MetricForBestModel::Emission),
            _ => Err("expected loss or emission".into()),
        }
    }
}

/// The held-out rows that the tokens of a run are tried on at its evaluations.
#[derive(Clone, Debug)]
pub(super) struct EmissionPrompts {
    prompts: Vec<Prompt>,
    tokens: Vec<u32>,
}

impl EmissionPrompts {
    /// At most `most` of `data`.
    ///
    /// # Errors
    /// Nothing can be tried: there are no held-out rows, the model is no decoder, or no row is to have a trained token written.
    pub(super) fn of(model: &PeftModel, data: Option<&Dataset>, most: usize) -> Result<Self> {
        let refuse = |reason: String| Err(Error::NoEmission { reason });
        let kind = model.base().kind();
        if kind != ModelKind::Causal {
            return refuse(format!("the model is {kind}, which writes no text that goes on"));
        }
        let Some(data) = data else { return refuse("there are no held-out rows".into()) };
        let tokens = model.token_indices();
        let prompts = prompts(data, most, &tokens)?;
        if !prompts.iter().any(|prompt| prompt.expected.iter().any(|id| tokens.contains(id))) {
            return refuse("no held-out row has a trained token behind its prompt".into());
        }
        Ok(Self { prompts, tokens })
    }

    /// The share of the rows that are to have a token where the model writes it, a mean over the tokens that a row is to have; nothing
    /// where `stop` ends it.
    pub(super) fn rate(
        &self,
        model: &PeftModel,
        tokenizer: Option<&AutoTokenizer>,
        stop: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<f64>> {
        let chosen = (&self.tokens[..], tokenizer);
        let tried = Emission::of(model.base(), model.active(), &self.prompts, chosen, &mut |_| stop())?;
        Ok(tried.map(|emission| {
            let rates: Vec<f64> = emission.tokens.iter().filter_map(TokenEmission::rate).collect();
            rates.iter().sum::<f64>() / rates.len().max(1) as f64
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(emission: Option<f64>, loss: f64) -> Evaluation {
        Evaluation {
            loss,
            perplexity: 1.0,
            labels: 1,
            nearest: None,
            preference: None,
            token_loss: None,
            leak: None,
            emission,
            tokens: vec![],
        }
    }

    #[test]
    fn ties_are_decided_by_the_loss() {
        let better = |metric: MetricForBestModel, one: (Option<f64>, f64), other: (Option<f64>, f64)| {
            metric.is_better(&evaluation(one.0, one.1), &evaluation(other.0, other.1))
        };
        let (loss, emission) = (MetricForBestModel::Loss, MetricForBestModel::Emission);
        assert!(better(loss, (Some(0.0), 1.0), (Some(1.0), 2.0)));
        assert!(!better(emission, (Some(0.0), 1.0), (Some(1.0), 2.0)));
        assert!(better(emission, (Some(1.0), 2.0), (Some(0.5), 1.0)));
        assert!(better(emission, (Some(0.5), 1.0), (Some(0.5), 2.0)));
        assert!(!better(emission, (Some(0.5), 1.0), (Some(0.5), 1.0)));
        // of a run that went by the loss until it was resumed
        assert!(better(emission, (Some(0.0), 2.0), (None, 1.0)));
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for metric in [MetricForBestModel::Loss, MetricForBestModel::Emission] {
            assert_eq!(metric.to_string().parse(), Ok(metric));
        }
        assert_eq!("rate".parse::<MetricForBestModel>(), Err("expected loss or emission".into()));
    }
}
