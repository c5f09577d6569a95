//! The rows of data that each kind of model takes.

use crate::models::ModelKind;

/// The rows that such a model takes, for messages.
pub(super) fn rows(kind: ModelKind) -> &'static str {
    match kind {
        ModelKind::Causal => {
            "`input_ids` (and `labels`), `text`, `prompt` with `completion`, `messages`, or `chosen` with `rejected`"
        }
        ModelKind::MaskedLm => "`input_ids` (and `labels`) or `text`",
        ModelKind::Seq2Seq => "`input_ids` with `labels`, or `prompt` with `completion`",
        ModelKind::SentencePairs => "`anchor` with `positive`",
    }
}
