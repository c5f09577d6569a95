//! The evaluations of a run, one after the other.

use super::evaluate::Evaluation;
use serde::{Deserialize, Serialize};

/// What an evaluation came to, and after how many steps it was. Losses are means over labels, in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EvaluatedStep {
    /// Steps taken before it.
    pub step: u64,
    /// Over all labels.
    pub loss: f64,
    /// Over the labels that are chosen tokens; `None` when there is none.
    pub token_loss: Option<f64>,
}

impl EvaluatedStep {
    /// Losses after so many steps.
    pub fn new(step: u64, loss: f64, token_loss: Option<f64>) -> Self {
        Self { step, loss, token_loss }
    }
}

/// Takes an evaluation in; the same step evaluated once more, as a resumed run does, counts as the newer one says.
pub(super) fn remember(history: &mut Vec<EvaluatedStep>, step: u64, evaluation: &Evaluation) {
    history.retain(|of| of.step < step);
    history.push(EvaluatedStep { step, loss: evaluation.loss, token_loss: evaluation.token_loss });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_stands_once() {
        let of = |loss| Evaluation {
            loss,
            perplexity: 1.0,
            labels: 1,
            nearest: None,
            preference: None,
            token_loss: Some(loss),
            leak: None,
            emission: None,
            tokens: vec![],
        };
        let mut history = Vec::new();
        for (step, loss) in [(0, 3.0), (4, 2.0), (4, 1.5), (8, 1.0), (6, 1.2)] {
            remember(&mut history, step, &of(loss));
        }
        let found: Vec<(u64, f64)> = history.iter().map(|of| (of.step, of.loss)).collect();
        assert_eq!(found, [(0, 3.0), (4, 1.5), (6, 1.2)]);
    }
}
