//! The frozen model's states at the rows that a student is to match, run once and kept.

use super::Snippet;
use crate::data::RaggedBatch;
use crate::engine::objective::{Distillation, DistillationWeights, TeacherRows};
use crate::engine::trained::Trained;
use crate::error::Result;
use crate::models::{ModelKind, PretrainedModel};
use std::ops::ControlFlow;

/// Snippets that the teacher reads at a time.
const TOGETHER: usize = 16;

/// What a teacher gave for each example of a data set, in its order.
#[derive(Clone, Debug)]
pub struct Teacher {
    examples: Vec<TeacherRows>,
    weights: DistillationWeights,
}

impl Teacher {
    /// Runs the frozen `model`, before rows are added to it, over the snippets' texts in its own tokens. `stop` is asked before
    /// every few of them; nothing is given when it ends the run.
    ///
    /// # Errors
    /// The model is no decoder; a divergence is wanted of one whose logits are capped; a loss is not finite.
    pub fn read(
        model: &PretrainedModel,
        snippets: &[Snippet],
        weights: DistillationWeights,
        stop: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Self>> {
        let mut examples = Vec::with_capacity(snippets.len());
        for some in snippets.chunks(TOGETHER) {
            if stop(examples.len()).is_break() {
                return Ok(None);
            }
            let mut batch = RaggedBatch::new(ModelKind::Causal);
            for snippet in some {
                let mut targets = vec![None; snippet.teacher.len()];
                snippet.matches.iter().for_each(|of| targets[of.teacher] = Some(of.next));
                batch.push(snippet.teacher.iter().copied(), targets, &[]);
            }
            let divergence = weights.kl != 0.0;
            let rows = model.runner().teach(&batch, &Trained::default(), divergence)?;
            let d = rows.states.len() / batch.label_tokens().max(1);
            let mut first = 0;
            for snippet in some {
                let own = first..first + snippet.matches.len();
                first = own.end;
                let of = |x: &[f32], width: usize| {
                    x.get(own.start * width..own.end * width).map(<[f32]>::to_vec).unwrap_or_default()
                };
                examples.push(TeacherRows {
                    states: of(&rows.states, d),
                    losses: of(&rows.losses, 1),
                    gradients: of(&rows.gradients, d),
                });
            }
        }
        Ok(Some(Self { examples, weights }))
    }

    /// How many examples it has read.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether it has read none.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// What counts how much.
    pub fn weights(&self) -> DistillationWeights {
        self.weights
    }

    /// The objective of a batch of these examples.
    pub(crate) fn objective(&self, examples: &[usize], batch: &RaggedBatch) -> Distillation {
        let mut rows = TeacherRows::default();
        examples.iter().filter_map(|&at| self.examples.get(at)).for_each(|of| rows.extend(of));
        Distillation::new(&batch.starts, &batch.targets, rows, self.weights)
    }
}
