//! What the encoding of rows has to say that is no error.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ChatNotes;

/// Facts about rows that were encoded, for the user to see; they are kept with the encoded rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EncodingNotes {
    /// Rows by the key that their form is known by.
    pub forms: BTreeMap<String, usize>,
    /// Sequences that are longer than those the model was made for.
    pub long: usize,
    /// What is to be known about conversations.
    pub chat: ChatNotes,
}

impl EncodingNotes {
    /// Adds the notes of other rows.
    pub(super) fn add(&mut self, other: &EncodingNotes) {
        for (form, rows) in &other.forms {
            *self.forms.entry(form.clone()).or_default() += rows;
        }
        self.long += other.long;
        self.chat.add(&other.chat);
    }
}
