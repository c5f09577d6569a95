//! What a frozen model gives for the labelled rows of a batch, for another to be brought near to.

use super::TokenRows;
use crate::backend::{Backend, Labels};
use crate::batch::RaggedBatch;
use crate::error::{EngineError, Result};
use crate::model::Model;
use crate::objective::TeacherRows;
use crate::spec::ModelKind;
use crate::stack::Run;
use crate::trained::Trained;

impl<B: Backend> Model<B> {
    /// As [`super::Runner::teach`].
    pub(super) fn teacher_rows(
        &self,
        batch: &RaggedBatch,
        trained: &Trained<'_>,
        divergence: bool,
    ) -> Result<TeacherRows> {
        if batch.kind != ModelKind::Causal || self.spec.kind != ModelKind::Causal {
            let (found, expected) = (self.spec.kind.auto_class(), ModelKind::Causal.auto_class());
            return Err(EngineError::WrongBatch { found, expected });
        }
        let (backend, placed) = (&self.decoding, self.place(trained)?);
        let [_, updates] = self.split_updates(&placed);
        let run = Run { updates, ..Run::new(backend) };
        let tokens = TokenRows { ids: &batch.ids, starts: &batch.starts };
        let hidden = self.whole_rows(&self.stack, (tokens, None), &placed, trained.input, &run)?;
        let labelled = |(row, target): (usize, &Option<u32>)| Some((row as u32, (*target)?));
        let (rows, targets): (Vec<u32>, Vec<u32>) =
            batch.targets.iter().enumerate().filter_map(labelled).unzip();
        let last = self.final_rows(backend.gather(&hidden, &rows, self.spec.stack.hidden_size));
        let mut of = TeacherRows { states: backend.read(&last), ..TeacherRows::default() };
        if divergence {
            if self.spec.head.soft_cap.is_some() {
                return Err(EngineError::SoftCappedDivergence);
            }
            let head = self.head(trained.output.map(|at| &placed.rows[at]));
            let mut gradients = backend.take(backend.len(&last));
            let labels = Labels { targets: &targets, weights: &[] };
            of.losses = backend.cross_entropy(&last, &head, labels, Some(&mut gradients), None);
            of.gradients = backend.read(&gradients);
        }
        self.backend.release();
        Ok(of)
    }
}
