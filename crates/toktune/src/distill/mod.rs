//! Token distillation: a new token is brought to act as the pieces that its word had.
//!
//! The frozen model reads a text as it always did, the word in pieces: it is the teacher. The same text with the word as one
//! token is the student's, and every row from that token on is to have the state that the teacher's row in the same place of
//! the text had ([`crate::engine::objective::Distillation`]). Only the rows of the tokens move. This is Token
//! Distillation (Dobler et al., arXiv 2505.20133) for chosen rows.
//!
//! [`Snippets::find`] collects the texts, [`Teacher`] runs the frozen model once over them, a
//! [`Trainer`](crate::train::Trainer) with it trains, and [`measure`] says on texts that were not trained on how near the
//! token has come. Nothing here prints.

mod corpus;
mod kept;
mod measure;
mod places;
mod reservoir;
mod share;
mod snippets;
mod standing;
mod teacher;

pub use corpus::generated_texts;
pub use measure::{Likeness, measure, measure_each};
pub use snippets::{FoundWord, SnippetFinder, SnippetOptions, Snippets};
pub use teacher::Teacher;

use serde_json::{Map, Value};

/// A word that becomes one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DistilledWord {
    /// The new token.
    pub id: u32,
    /// Its text, with the space before it where it has one.
    pub text: String,
}

/// A text around a word, as the student and as the teacher read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    /// Which of the words it was chosen for.
    pub word: usize,
    /// With the new tokens.
    pub student: Vec<u32>,
    /// In the tokens that the model knew before.
    pub teacher: Vec<u32>,
    /// Rows that say the same, from the first new token on.
    pub matches: Vec<Match>,
}

impl Snippet {
    /// The student's text as a row of data: `input_ids`, and `labels` at the tokens that the teacher predicted too.
    pub fn row(&self) -> Map<String, Value> {
        let mut labels = vec![-100i64; self.student.len()];
        self.matches.iter().for_each(|of| labels[of.student + 1] = of.next.into());
        Map::from_iter([
            ("input_ids".to_owned(), Value::from(self.student.clone())),
            ("labels".to_owned(), Value::from(labels)),
        ])
    }
}

/// A row of the student's and the teacher's row at the same place of the text, where the same known token follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// The student's row.
    pub student: usize,
    /// The teacher's.
    pub teacher: usize,
    /// The token that follows both.
    pub next: u32,
}
