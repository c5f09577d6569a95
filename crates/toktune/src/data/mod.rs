//! Rows of training data, and the ragged batches made of them.

mod batch;

pub use batch::RaggedBatch;
