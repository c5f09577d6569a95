//! What a model is for.

use std::fmt;

/// What a model computes from a sequence, and so what its rows of data mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ModelKind {
    /// The next token from those before it (`...ForCausalLM`).
    #[default]
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

impl ModelKind {
    /// What of a batch is not computed, or computed forward only, because it cannot depend on trained rows.
    pub fn shortcuts(self) -> &'static str {
        match self {
            Self::Causal => {
                "rows before the first trained token are constant; rows after the last label are not computed"
            }
            Self::MaskedLm | Self::SentencePairs => "sequences without a trained token are constant",
            Self::Seq2Seq => {
                "the encoder's rows are constant without a trained token in them; then the decoder's are, before its first"
            }
        }
    }

    /// The class of PEFT that opens an adapter with its base; `None` where there is none, and
    /// `PeftModel.from_pretrained` takes the base and the adapter.
    pub fn auto_peft_class(self) -> Option<&'static str> {
        match self {
            Self::Causal => Some("AutoPeftModelForCausalLM"),
            Self::MaskedLm => None,
            Self::Seq2Seq => Some("AutoPeftModelForSeq2SeqLM"),
            Self::SentencePairs => Some("AutoPeftModelForFeatureExtraction"),
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
