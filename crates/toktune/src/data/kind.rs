//! What kinds of models there are, as far as their data are concerned.

use std::fmt;

/// How a model reads a row, and what it learns from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModelKind {
    /// A decoder: each token is to be told from those before it.
    #[default]
    Causal,
    /// An encoder: some tokens are hidden, and are to be told from all others.
    MaskedLm,
    /// An encoder and a decoder: the decoder goes on from what the encoder read.
    Seq2Seq,
    /// An encoder of whole sequences: the two of a pair are to be alike.
    SentencePairs,
}

impl ModelKind {
    /// The rows that such a model takes, for messages.
    pub(super) fn rows(self) -> &'static str {
        match self {
            ModelKind::Causal => {
                "`input_ids` (and `labels`), `text`, `prompt` with `completion`, or `messages`"
            }
            ModelKind::MaskedLm => "`input_ids` (and `labels`) or `text`",
            ModelKind::Seq2Seq => "`input_ids` with `labels`, or `prompt` with `completion`",
            ModelKind::SentencePairs => "`anchor` with `positive`",
        }
    }
}

impl fmt::Display for ModelKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            ModelKind::Causal => "a causal language model",
            ModelKind::MaskedLm => "a masked language model",
            ModelKind::Seq2Seq => "an encoder-decoder model",
            ModelKind::SentencePairs => "a model of sentence pairs",
        })
    }
}
