//! The control tokens of a chat template, and which of them a model has never learnt.
//!
//! Base models have the tokens of their chat template in the vocabulary and no training behind them: Qwen 2.5's `<|im_end|>`, Llama 3's
//! header ids. A model that cannot say the end of a turn never stops, and one whose rows are zeros may not learn at all. This room
//! finds such tokens ([`TemplateTokens::of`]), so that just their rows are trained, and the tokens that end a turn of the
//! assistant, so that generation stops there.
//!
//! Nothing here prints.

mod error;
mod probe;
mod rows;
#[cfg(test)]
mod tests;

pub use error::TemplateTokensError;
pub use rows::{RowState, TemplateRow, UnusedRows};

use crate::models::PretrainedModel;
use crate::text::AutoTokenizer;
use rows::Measured;
use std::collections::HashSet;
use std::fmt::Write;

/// A control token that the template writes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TemplateToken {
    /// Its id.
    pub id: u32,
    /// Its spelling.
    pub token: String,
    /// Its row in the embedding, and where the head is a matrix of its own the one there.
    pub rows: Vec<TemplateRow>,
}

impl TemplateToken {
    /// Whether one of its rows knows nothing of it: it is not read, or cannot be said.
    pub fn is_unlearnt(&self) -> bool {
        self.rows.iter().any(|row| row.state.is_unlearnt())
    }
}

/// The control tokens of a tokenizer's chat template, as a model has them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TemplateTokens {
    /// In the order in which conversations have them.
    pub tokens: Vec<TemplateToken>,
    /// What ends a turn of the assistant, to be given to [`AutoTokenizer::add_stop_ids`]; nothing where the template ends it by text
    /// alone.
    pub turn_ends: Vec<u32>,
    /// For each token matrix what its unused rows are like; `None` where there are none to measure by.
    pub unused: Vec<Option<UnusedRows>>,
}

impl TemplateTokens {
    /// Renders the chat template of `tokenizer` on conversations of every kind (system, user and assistant, several turns, calls of
    /// tools, reasoning) and looks at the rows that `model` has of the control tokens in them. `added` are tokens that the
    /// tokenizer was just given: whatever their rows hold means nothing of them.
    ///
    /// # Errors
    /// There is no chat template, or it cannot be rendered, or writes no control token.
    pub fn of(
        model: &PretrainedModel,
        tokenizer: &AutoTokenizer,
        added: &[u32],
    ) -> Result<Self, TemplateTokensError> {
        let found = probe::probe(tokenizer)?;
        let tested: HashSet<u32> = found.ids.iter().chain(added).copied().collect();
        let matrices = Measured::of_model(model, tokenizer, &tested);
        let token = |id: &u32| TemplateToken {
            id: *id,
            token: tokenizer.id_to_token(*id).unwrap_or_default(),
            rows: matrices.iter().map(|matrix| matrix.row(*id, added.contains(id))).collect(),
        };
        Ok(Self {
            tokens: found.ids.iter().map(token).collect(),
            turn_ends: found.ends,
            unused: matrices.iter().map(|matrix| matrix.unused).collect(),
        })
    }

    /// The ids of all of them.
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }

    /// The ids of those that the model has never learnt.
    ///
    /// # Errors
    /// It has learnt all of them; the error has what was measured of each.
    pub fn unlearnt(&self) -> Result<Vec<u32>, TemplateTokensError> {
        let ids: Vec<u32> =
            self.tokens.iter().filter(|token| token.is_unlearnt()).map(|token| token.id).collect();
        match ids.is_empty() {
            true => Err(TemplateTokensError::AllLearnt { told: self.told() }),
            false => Ok(ids),
        }
    }

    /// Each token with the verdict on it and what was measured, for people.
    pub fn told(&self) -> Vec<String> {
        self.tokens.iter().map(|token| self.told_of(token)).collect()
    }

    fn told_of(&self, token: &TemplateToken) -> String {
        let mut told = format!("'{}' (id {})", token.token, token.id);
        let several = token.rows.len() > 1;
        for (at, row) in token.rows.iter().enumerate() {
            let place = if several { format!(" in {}", row.module) } else { String::new() };
            let verdict = match row.state {
                RowState::Learnt => "learnt".to_owned(),
                RowState::Zero => "a row of zeros".to_owned(),
                RowState::Duplicate { of } => format!("the same row as id {of}"),
                RowState::NearUnused => "near the unused rows".to_owned(),
                RowState::New => "new".to_owned(),
            };
            let _ = write!(told, "{}{verdict}{place}", if at == 0 { ": " } else { ", " });
            if let (Some(distance), Some(unused)) = (row.distance, self.unused[at]) {
                let _ = write!(
                    told,
                    " (distance {distance:.3} from the mean unused row; unused rows {:.3}, ordinary tokens {:.3})",
                    unused.own, unused.usual
                );
            }
        }
        told
    }
}
