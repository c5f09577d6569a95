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
    /// As an input that some loss depends on: of a decoder, one that a label comes after.
    pub acting: usize,
}

impl TokenUse {
    /// Whether the token stands nowhere.
    pub fn is_unseen(&self) -> bool {
        self.inputs == 0 && self.labels == 0
    }

    /// Whether training has nothing to learn of the token: it is no label, and no loss depends on what it is read as. A row of
    /// the head could only learn not to be said.
    pub fn is_never_learnt(&self) -> bool {
        self.labels == 0 && self.acting == 0
    }
}
