//! Who can open the adapter of a run, and what is said where that is not everybody.

use super::prepared::Prepared;
use crate::report;
use toktune::models::PretrainedModel;

/// How an adapter is opened in Python.
#[derive(Clone, Copy)]
pub(super) enum Opened {
    /// By a class of PEFT's that finds the base itself.
    Alone(&'static str),
    /// By `PeftModel`, over a base of this class.
    OverBase(&'static str),
    /// Not at all.
    ByToktune,
}

impl Opened {
    /// Of the model that is trained, with warnings where Python finds another model than was trained.
    pub(super) fn tell(Prepared { model, chosen, .. }: &Prepared) -> Self {
        let base = model.base();
        if base.is_untied_by_its_file() {
            report::warning(&format!(
                "config.json says that {} is {}, and the model's files have another matrix for it, which is used: PEFT would \
                 put the trained rows into both; set `tie_word_embeddings` to false in the model's config.json before PEFT \
                 opens this adapter",
                base.head_name(),
                base.embedding_name()
            ));
        }
        let resized = chosen.changed_tokenizer || base.embedding().rows() > base.embedding().frozen().rows();
        let lost = model.layers_lost_by_resize().join(", ");
        if !resized || lost.is_empty() {
            return Self::of(base);
        }
        report::warning(&format!(
            "{lost} is one module with {} in a model that was resized for added tokens: PEFT cannot open this adapter, \
             and a merged model has one matrix for both; toktune alone can use it (--target-modules {0} for rows that \
             both sides share)",
            base.embedding_name()
        ));
        Self::ByToktune
    }

    fn of(base: &PretrainedModel) -> Self {
        base.auto_peft_class().map_or(Self::OverBase(base.auto_class()), Self::Alone)
    }
}
