//! What can be wrong with a chat template's tokens.

use crate::text::TextError;

/// Why there are no tokens of a chat template to train.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateTokensError {
    /// No conversation could be rendered.
    #[error("the chat template renders none of {tried} trial conversations: {source}")]
    NotRendered {
        /// How many were tried.
        tried: usize,
        /// What became of the first.
        source: TextError,
    },
    /// The template writes plain text alone.
    #[error(
        "the chat template writes no control token of the tokenizer: turns are marked by text ({text:?}), which the model reads as it does \
         any text"
    )]
    NoControlTokens {
        /// The beginning of a conversation as it is rendered.
        text: String,
    },
    /// There is nothing to be trained.
    #[error("the model has learnt every token that the chat template writes: {}", .told.join("; "))]
    AllLearnt {
        /// Each token with what was measured.
        told: Vec<String>,
    },
    /// The tokenizer is at fault, or it has no chat template.
    #[error(transparent)]
    Text(#[from] TextError),
}
