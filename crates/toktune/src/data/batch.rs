//! Ragged batches.

/// A batch.
#[derive(Clone, Debug, Default)]
pub struct RaggedBatch {
    /// Token ids of all sequences, one after the other.
    pub ids: Vec<u32>,
    /// Where each sequence starts, and the number of rows at the end.
    pub starts: Vec<usize>,
    /// What each row is to predict.
    pub targets: Vec<Option<u32>>,
}
