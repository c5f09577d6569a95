//! What is to be said about conversations before they are learnt.

use toktune::data::ChatNotes;

use super::format::plural;
use super::{note, warning};

/// Says how turns were found where that is not as usual, and which fields of messages the chat template ignores.
pub fn chats(notes: &ChatNotes) {
    if notes.split_rows > 0 {
        note(&format!(
            "{} of {} became several: the chat template renders their earlier turns differently once later ones follow, \
             so that each such turn is learnt in the rendering that ends with it",
            plural(notes.split_rows, "conversation"),
            notes.rows
        ));
    }
    if notes.lost_turns > 0 {
        warning(&format!(
            "{} not learnt: the chat template writes them in no way that can be told from the rest",
            plural(notes.lost_turns, "assistant's turn")
        ));
    }
    for (field, found) in notes.fields.iter().filter(|(_, found)| found.ignored > 0) {
        warning(&format!(
            "the chat template ignores `{field}` in {} of {} that {} it",
            found.ignored,
            plural(found.rows, "row"),
            if found.rows == 1 { "has" } else { "have" }
        ));
    }
}
