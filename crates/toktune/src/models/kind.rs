//! What a model is for.

/// What a model computes from a sequence, and so what its rows of data mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModelKind {
    /// The next token from those before it (`...ForCausalLM`).
    Causal,
    /// Tokens that are hidden, from all others (`...ForMaskedLM`).
    MaskedLm,
    /// A text from another (`...ForSeq2SeqLM`).
    Seq2Seq,
    /// Hidden states alone: an encoder without a head, trained on pairs of sentences (`...Model`).
    SentencePairs,
}

impl ModelKind {
    /// The class of transformers that loads such models.
    pub fn auto_class(self) -> &'static str {
        match self {
            Self::Causal => "AutoModelForCausalLM",
            Self::MaskedLm => "AutoModelForMaskedLM",
            Self::Seq2Seq => "AutoModelForSeq2SeqLM",
            Self::SentencePairs => "AutoModel",
        }
    }
}
