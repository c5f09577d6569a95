//! Tokens as labels: each labelled row is to give its label the largest logit.

use super::{LastRows, Losses, Objective, Reads};

/// Each row predicts the token after it, as a decoder does; a batch for it holds labels that are shifted already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextTokens;

/// Masked rows predict the tokens that they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaskedTokens;

impl Objective for NextTokens {
    fn reads(&self) -> Reads {
        Reads::LabelledRows
    }

    fn losses(&self, rows: &mut dyn LastRows) -> Losses {
        Losses { losses: rows.vocabulary(), ..Losses::default() }
    }
}

impl Objective for MaskedTokens {
    fn reads(&self) -> Reads {
        Reads::LabelledRows
    }

    fn losses(&self, rows: &mut dyn LastRows) -> Losses {
        Losses { losses: rows.vocabulary(), ..Losses::default() }
    }
}
