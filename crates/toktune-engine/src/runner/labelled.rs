//! What a model gives for the labelled rows of a batch: their states, for another to be brought near to, and their logits.

use super::TokenRows;
use crate::backend::{Backend, Labels};
use crate::batch::RaggedBatch;
use crate::error::{EngineError, Result};
use crate::model::{Model, Placed};
use crate::objective::TeacherRows;
use crate::spec::ModelKind;
use crate::stack::Run;
use crate::trained::Trained;

/// Rows whose logits are computed at a time.
const TOGETHER: usize = 64;

/// Labelled rows after the last block, with what acts on the head.
struct Labelled<'t, B: Backend> {
    placed: Placed<'t, B>,
    /// All rows.
    hidden: B::Buffer,
    /// Which of them have labels, and these.
    rows: Vec<u32>,
    targets: Vec<u32>,
}

impl<B: Backend> Model<B> {
    fn labelled<'t>(&self, batch: &RaggedBatch, trained: &Trained<'t>) -> Result<Labelled<'t, B>> {
        if batch.kind != ModelKind::Causal || self.spec.kind != ModelKind::Causal {
            let (found, expected) = (self.spec.kind.auto_class(), ModelKind::Causal.auto_class());
            return Err(EngineError::WrongBatch { found, expected });
        }
        let placed = self.place(trained)?;
        let [_, updates] = self.split_updates(&placed);
        let run = Run { updates, ..Run::new(&self.decoding) };
        let tokens = TokenRows { ids: &batch.ids, starts: &batch.starts };
        let hidden = self.whole_rows(&self.stack, (tokens, None), &placed, trained.input, &run)?;
        let labelled = |(row, target): (usize, &Option<u32>)| Some((row as u32, (*target)?));
        let (rows, targets) = batch.targets.iter().enumerate().filter_map(labelled).unzip();
        Ok(Labelled { placed, hidden, rows, targets })
    }

    /// As [`super::Runner::teach`].
    pub(super) fn teacher_rows(
        &self,
        batch: &RaggedBatch,
        trained: &Trained<'_>,
        divergence: bool,
    ) -> Result<TeacherRows> {
        let backend = &self.decoding;
        let Labelled { placed, hidden, rows, targets } = self.labelled(batch, trained)?;
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

    /// As [`super::Runner::each_logits`].
    pub(super) fn label_logits(
        &self,
        batch: &RaggedBatch,
        trained: &Trained<'_>,
        take: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let backend = &self.decoding;
        let Labelled { placed, hidden, rows, .. } = self.labelled(batch, trained)?;
        let head = self.head(trained.output.map(|at| &placed.rows[at]));
        for (first, some) in rows.chunks(TOGETHER).enumerate() {
            let last = self.final_rows(backend.gather(&hidden, some, self.spec.stack.hidden_size));
            let logits = backend.read(&backend.logits(&last, &head));
            let vocabulary = logits.len() / some.len();
            for (at, logits) in logits.chunks_exact(vocabulary.max(1)).enumerate() {
                take(first * TOGETHER + at, logits);
            }
        }
        self.backend.release();
        Ok(())
    }
}
