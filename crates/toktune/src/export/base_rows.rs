//! The token rows that the base's files hold: what another program has before it loads an adapter.

use super::error::{ExportError, Result};
use crate::models::{PretrainedModel, TokenMatrix, TrainedRows};
use crate::peft::PeftModel;
use crate::weights::{FrozenMatrix, RowOrder};
use std::ops::Range;
use std::sync::OnceLock;

/// Rows that are compared at a time.
const PANEL: usize = 256;

/// A token matrix as the base's files have it.
pub(super) struct BaseRows {
    matrix: FrozenMatrix,
    /// What a resize gives to a row that the files do not have.
    mean: OnceLock<Vec<f32>>,
}

impl BaseRows {
    /// Those of the files that `base` was loaded from, whatever an adapter has put in the place of `matrix`.
    pub(super) fn of(base: &PretrainedModel, matrix: &TokenMatrix) -> Result<Self> {
        let (checkpoint, frozen) = (base.checkpoint(), matrix.frozen());
        let matrix = match matrix.is_replaced() {
            false => frozen.clone(),
            true => {
                let rows = checkpoint.shape(frozen.name()).map_or(0, |shape| shape[0]);
                checkpoint.matrix(frozen.name(), rows, frozen.cols(), RowOrder::Plain)?
            }
        };
        Ok(Self { matrix, mean: OnceLock::new() })
    }

    /// The stored matrix.
    pub(super) fn matrix(&self) -> &FrozenMatrix {
        &self.matrix
    }

    /// The row of a token; of one that is added, the mean of the stored ones.
    pub(super) fn row(&self, token: u32) -> Vec<f32> {
        let row = token as usize;
        if row < self.matrix.rows() {
            return self.matrix.decode_rows(row..row + 1);
        }
        self.mean.get_or_init(|| TokenMatrix::new("", self.matrix.clone()).statistics().0).clone()
    }

    /// Those of `rows` whose values in `other` are not the stored ones.
    fn unlike(&self, other: &FrozenMatrix, rows: Range<usize>) -> Vec<usize> {
        let stored = rows.start..rows.end.min(self.matrix.rows());
        let (ours, theirs) = (self.matrix.decode_rows(stored), other.decode_rows(rows.clone()));
        let width = other.cols().max(1);
        let is_unlike = |row: &usize| {
            let at = (row - rows.start) * width..(row - rows.start + 1) * width;
            ours.get(at.clone()) != theirs.get(at)
        };
        rows.clone().filter(is_unlike).collect()
    }
}

/// Makes sure that the base's files and the trained rows are all there is to the token matrices.
///
/// # Errors
/// An adapter has put a matrix in the place of a stored one that differs in a row which is not trained.
pub(super) fn check_other_rows(model: &PeftModel) -> Result<()> {
    let (base, active) = (model.base(), model.active());
    check_matrix(base, base.embedding(), active.input_rows())?;
    match base.has_head() && !base.is_tied() {
        true => check_matrix(base, base.head(), active.output_rows()),
        false => Ok(()),
    }
}

fn check_matrix(base: &PretrainedModel, matrix: &TokenMatrix, trained: Option<&TrainedRows>) -> Result<()> {
    if !matrix.is_replaced() {
        return Ok(());
    }
    let (stored, frozen) = (BaseRows::of(base, matrix)?, matrix.frozen());
    let is_trained = |row: &usize| trained.is_some_and(|rows| rows.position(*row as u32).is_some());
    let panels = (0..frozen.rows()).step_by(PANEL).map(|row| row..(row + PANEL).min(frozen.rows()));
    let others: Vec<usize> =
        panels.flat_map(|rows| stored.unlike(frozen, rows)).filter(|row| !is_trained(row)).collect();
    match others.first() {
        None => Ok(()),
        Some(&row) => {
            Err(ExportError::OtherRows { tensor: frozen.name().into(), row, more: others.len() - 1 })
        }
    }
}
