//! What training will see of the tokens to train.

/// How often one token occurs in the data; [`Dataset::uses`](super::Dataset::uses) counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenUse {
    /// The token.
    pub id: u32,
    /// As an input, of the encoder or the decoder.
    pub inputs: usize,
    /// As a label that the model learns from; where tokens are masked anew in every epoch, how often it can be one.
    pub labels: usize,
    /// Behind the end of rows that `max_length` cut.
    pub cut: usize,
}

impl TokenUse {
    /// Whether training never meets the token: neither its input row nor its output row would have a reason
    /// to move.
    pub fn is_unseen(&self) -> bool {
        self.inputs == 0 && self.labels == 0
    }
}
