//! What stands between the last hidden rows of a sentence encoder and its vector.

use super::pooling::PoolingMode;

/// What stands between the last hidden rows of a sentence encoder and its vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentenceSpec {
    /// How rows become a vector; those of several are joined.
    pub pooling: Vec<PoolingMode>,
    /// Whether the vector has length 1.
    pub normalise: bool,
    /// Tokens of a sequence that are read; `None` where the files do not say.
    pub max_seq_length: Option<usize>,
}

impl Default for SentenceSpec {
    /// What sentence-transformers makes of an encoder without its files, which is the mean, and its length taken out.
    fn default() -> Self {
        Self { pooling: vec![PoolingMode::Mean], normalise: true, max_seq_length: None }
    }
}
