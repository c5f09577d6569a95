//! The frozen model's states at the rows that a student is to match, run once and kept.

use super::Snippet;
use super::kept::Kept;
use crate::data::RaggedBatch;
use crate::engine::constants::CacheLocation;
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
    kept: Kept,
    weights: DistillationWeights,
}

impl Teacher {
    /// Bytes that what the teacher gives for these snippets will take.
    pub fn bytes(model: &PretrainedModel, snippets: &[Snippet], weights: DistillationWeights) -> u64 {
        let rows: u64 = snippets.iter().map(|snippet| snippet.matches.len() as u64).sum();
        let floats = TeacherRows::floats(1, model.hidden_size(), divergence(weights)) as u64;
        rows.saturating_mul(floats).saturating_mul(size_of::<f32>() as u64)
    }

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
        Self::read_to(&CacheLocation::Memory, model, snippets, weights, stop)
    }

    /// The same with what it gives kept in a certain place: in memory, or in a file without a name in a folder, which is gone with
    /// the teacher.
    ///
    /// # Errors
    /// As [`read`](Self::read); the file cannot be made or written.
    pub fn read_to(
        location: &CacheLocation,
        model: &PretrainedModel,
        snippets: &[Snippet],
        weights: DistillationWeights,
        stop: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Self>> {
        let mut kept = Kept::new(location, model.hidden_size(), divergence(weights))?;
        for some in snippets.chunks(TOGETHER) {
            if stop(kept.len()).is_break() {
                return Ok(None);
            }
            let mut batch = RaggedBatch::new(ModelKind::Causal);
            for snippet in some {
                let mut targets = vec![None; snippet.teacher.len()];
                snippet.matches.iter().for_each(|of| targets[of.teacher] = Some(of.next));
                batch.push(snippet.teacher.iter().copied(), targets, &[]);
            }
            let rows = model.runner().teach(&batch, &Trained::default(), divergence(weights))?;
            let mut first = 0;
            for snippet in some {
                let own = first..first + snippet.matches.len();
                first = own.end;
                let of = |x: &[f32], width: usize| {
                    x.get(own.start * width..own.end * width).map(<[f32]>::to_vec).unwrap_or_default()
                };
                kept.push(TeacherRows {
                    states: of(&rows.states, model.hidden_size()),
                    losses: of(&rows.losses, 1),
                    gradients: of(&rows.gradients, model.hidden_size()),
                })?;
            }
        }
        Ok(Some(Self { kept, weights }))
    }

    /// How many examples it has read.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether it has read none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What counts how much.
    pub fn weights(&self) -> DistillationWeights {
        self.weights
    }

    /// The objective of a batch of these examples.
    pub(crate) fn objective(&self, examples: &[usize], batch: &RaggedBatch) -> Result<Distillation> {
        let mut rows = TeacherRows::default();
        for &at in examples {
            self.kept.add_to(&mut rows, at)?;
        }
        Ok(Distillation::new(&batch.starts, &batch.targets, rows, self.weights))
    }
}

/// Whether a loss needs the teacher's gradients.
fn divergence(weights: DistillationWeights) -> bool {
    weights.kl != 0.0
}
