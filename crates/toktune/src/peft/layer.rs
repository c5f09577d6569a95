//! One wrapped module: a token matrix with trained rows over it.

use crate::models::TrainedRows;

/// The trained rows of one token matrix of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainableTokensLayer {
    name: String,
    tied: Vec<String>,
    rows: TrainedRows,
}

impl TrainableTokensLayer {
    /// The layer on module `name`, whose rows the modules `tied` follow because they share its matrix.
    pub(super) fn new(name: String, tied: Vec<String>, rows: TrainedRows) -> Self {
        Self { name, tied, rows }
    }

    /// The module, as transformers names it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The modules that share the matrix and so the rows.
    pub fn tied(&self) -> &[String] {
        &self.tied
    }

    /// The rows.
    pub fn rows(&self) -> &TrainedRows {
        &self.rows
    }

    /// The rows, to be changed by an optimizer.
    pub fn rows_mut(&mut self) -> &mut TrainedRows {
        &mut self.rows
    }

    /// Every module whose output the rows change.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.tied.iter().map(String::as_str))
    }
}
