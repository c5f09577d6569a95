//! The best rows of a run, by the held-out loss or by what the model writes, and when to stop waiting for better ones.

use super::evaluate::Evaluation;
use super::metric::MetricForBestModel;
use crate::peft::PeftModel;
use serde::{Deserialize, Serialize};

/// The best evaluation so far, by [`metric_for_best_model`](super::TrainingArguments::metric_for_best_model).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BestStep {
    /// After how many steps it was.
    pub step: u64,
    /// What came of it.
    pub evaluation: Evaluation,
}

/// What a run remembers of its evaluations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct BestSoFar {
    /// The best evaluation.
    pub(super) best: Option<BestStep>,
    /// Evaluations since then.
    pub(super) without_better: u64,
    /// After how many steps the last one was.
    evaluated: u64,
    /// Every parameter as it was then, by its name, where they are to be kept.
    #[serde(skip)]
    pub(super) values: Vec<(String, Vec<f32>)>,
}

impl BestSoFar {
    /// Takes an evaluation after `step` steps, the model's values with it if they are to be kept. A loss counts over all labels:
    /// it is what is trained, and a row that is said too often shows in the loss of all others.
    pub(super) fn take(
        &mut self,
        step: u64,
        evaluation: &Evaluation,
        model: &PeftModel,
        (metric, keep): (MetricForBestModel, bool),
    ) {
        // the same evaluation once more, after a run was resumed
        if step <= self.evaluated {
            return;
        }
        self.evaluated = step;
        if self.best.as_ref().is_some_and(|best| !metric.is_better(evaluation, &best.evaluation)) {
            self.without_better += 1;
            return;
        }
        self.best = Some(BestStep { step, evaluation: evaluation.clone() });
        self.without_better = 0;
        if keep {
            self.values = model.parameters().into_iter().map(|p| (p.name, p.values.to_vec())).collect();
        }
    }

    /// Whether so many evaluations in a row were no better.
    pub(super) fn is_out_of_patience(&self, patience: Option<u64>) -> bool {
        patience.is_some_and(|patience| self.without_better >= patience)
    }

    /// Puts the best values into the model, if they are kept and not those of `step`; the evaluation that they had.
    pub(super) fn restore(&self, step: u64, model: &mut PeftModel) -> Option<Evaluation> {
        let best = self.best.as_ref().filter(|best| best.step != step && !self.values.is_empty())?;
        for (name, values) in model.parameters_mut() {
            if let Some((_, kept)) = self.values.iter().find(|(of, _)| *of == name) {
                values.copy_from_slice(kept);
            }
        }
        Some(best.evaluation.clone())
    }
}
