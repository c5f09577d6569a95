//! The forms that rows come in, by their keys.
//!
//! A row belongs to the form whose keys are all there. Further keys (an id, a source) are welcome. `text` beside another
//! form is that form's rendering, as in the sets of Alpaca, and gives way; two other forms in one row are an error, since
//! either could be meant.

use serde_json::{Map, Value};

use super::{DataError, RowKeys, Source};
use crate::weights::nearest;

/// The forms, for messages.
pub(super) const EXPECTED: &str = "`messages`, `prompt` with `completion`, `conversations`, `instruction` with `output`, `text`, \
     `input_ids` (and `labels`), `chosen` with `rejected` (and `prompt`), or `anchor` with `positive`";

/// What a row is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Ids,
    Messages,
    /// ShareGPT's.
    Conversations,
    Prompt,
    /// Alpaca's.
    Instruction,
    Pair,
    /// Two answers to one prompt.
    Preference,
    /// The same as ids.
    PreferenceIds,
    Text,
}

/// Each form with the keys that it needs, the first of them its name, and those it may have.
const FORMS: [(Form, &[&str], &[&str]); 9] = [
    (
        Form::Ids,
        &["input_ids"],
        &["labels", "completion_mask", "assistant_masks", "attention_mask", "loss_weights"],
    ),
    (Form::Messages, &["messages"], &["tools", "documents", "chat_template_kwargs"]),
    (Form::Conversations, &["conversations"], &["system", "tools"]),
    (Form::Prompt, &["prompt", "completion"], &["tools", "documents", "chat_template_kwargs"]),
    (Form::Instruction, &["instruction", "output"], &["input", "system", "history"]),
    (Form::Pair, &["anchor", "positive"], &[]),
    (Form::Preference, &SIDES, &["prompt", "tools", "documents", "chat_template_kwargs"]),
    (Form::PreferenceIds, &["chosen_ids", "rejected_ids", "prompt_ids"], &[]),
    (Form::Text, &["text"], &[]),
];

/// The keys of two answers to one prompt.
pub(super) const SIDES: [&str; 2] = ["chosen", "rejected"];

/// Keys that every row may have.
const ANYWHERE: [&str; 1] = ["loss_weight"];

/// Keys that mean nothing without another one.
const NEEDED: [(&str, &str); 13] = [
    ("labels", "input_ids"),
    ("loss_weights", "input_ids"),
    ("chosen", "rejected"),
    ("rejected", "chosen"),
    ("chosen_ids", "rejected_ids"),
    ("rejected_ids", "chosen_ids"),
    ("chosen_ids", "prompt_ids"),
    ("prompt", "completion"),
    ("completion", "prompt"),
    ("instruction", "output"),
    ("output", "instruction"),
    ("anchor", "positive"),
    ("positive", "anchor"),
];

impl Form {
    /// The key that messages call it by.
    pub fn key(self) -> &'static str {
        FORMS.iter().find(|(form, ..)| *form == self).map_or("", |(_, needed, _)| needed[0])
    }

    /// The form of a row.
    pub fn of(fields: &Map<String, Value>, keys: &RowKeys, at: &Source) -> Result<Form, DataError> {
        if let Some(form) = Form::chosen(fields, keys, at)? {
            return Ok(form);
        }
        let whole =
            |(_, needed, _): &&(Form, &[&str], &[&str])| needed.iter().all(|key| fields.contains_key(*key));
        let mut found: Vec<Form> = FORMS.iter().filter(whole).map(|(form, ..)| *form).collect();
        if found.len() > 1 {
            found.retain(|form| *form != Form::Text);
        }
        // the chosen conversation once more, as in UltraFeedback
        if found.contains(&Form::Preference) {
            found.retain(|form| *form != Form::Messages);
        }
        match found.as_slice() {
            [only] => Ok(*only),
            [first, second, ..] => {
                let (at, first, second) = (at.clone(), first.key(), second.key());
                Err(DataError::MixedKeys { at, first, second })
            }
            [] => Err(unknown(fields, at)),
        }
    }

    /// The form whose keys the user named. A row without them is an error: silence could read it in another way than the
    /// rest.
    fn chosen(fields: &Map<String, Value>, keys: &RowKeys, at: &Source) -> Result<Option<Form>, DataError> {
        let prompt = keys.prompt.is_some() || keys.completion.is_some();
        let (form, wanted) = match (&keys.text, prompt) {
            (Some(text), false) => (Form::Text, vec![text.as_str()]),
            // of answers nobody has named one
            (None, true) if keys.completion.is_none() && has_answers(fields) => {
                (Form::Preference, vec![keys.prompt()])
            }
            (None, true) => (Form::Prompt, vec![keys.prompt(), keys.completion()]),
            (None, false) => return Ok(None),
            // rows of both kinds: each is known by what it has
            (Some(text), true) if fields.contains_key(text) && !fields.contains_key(keys.completion()) => {
                (Form::Text, vec![text.as_str()])
            }
            (Some(_), true) => (Form::Prompt, vec![keys.prompt(), keys.completion()]),
        };
        match wanted.into_iter().find(|key| !fields.contains_key(*key)) {
            None => Ok(Some(form)),
            Some(missing) => {
                let (at, missing, found) = (at.clone(), missing.to_owned(), listed(fields));
                Err(DataError::NoSuchKey { at, missing, found })
            }
        }
    }
}

impl RowKeys {
    /// The key of the prompt.
    pub(super) fn prompt(&self) -> &str {
        self.prompt.as_deref().unwrap_or("prompt")
    }

    /// The key of the completion.
    pub(super) fn completion(&self) -> &str {
        self.completion.as_deref().unwrap_or("completion")
    }

    /// The key of the text.
    pub(super) fn text(&self) -> &str {
        self.text.as_deref().unwrap_or("text")
    }
}

/// Whether a key can stand in rows of any form, which are not known by it.
pub(super) fn is_key_of_any(key: &str) -> bool {
    ANYWHERE.contains(&key)
}

/// Whether rows can be known by a key, or have it read beside one that belongs to it.
pub(super) fn is_known_key(key: &str, keys: &RowKeys) -> bool {
    [&keys.prompt, &keys.completion, &keys.text].into_iter().flatten().any(|own| own == key)
        || FORMS.iter().any(|(_, needed, may)| needed.contains(&key) || may.contains(&key))
}

/// What prompts and completions are called in sets that call them otherwise.
const PROMPTS: [&str; 9] =
    ["question", "query", "problem", "instruction", "prompt", "input", "source", "user", "context"];
const COMPLETIONS: [&str; 9] =
    ["answer", "response", "solution", "output", "completion", "target", "reply", "assistant", "chosen"];

/// Whether a row has both answers.
fn has_answers(fields: &Map<String, Value>) -> bool {
    SIDES.iter().all(|key| fields.contains_key(*key))
}

/// A key of a row that has no `prompt`, and whose text is one by the look of its name.
pub(super) fn prompt_beside(fields: &Map<String, Value>) -> Option<&'static str> {
    let is_text = |name: &&str| fields.get(*name).is_some_and(Value::is_string);
    ["question", "query", "problem", "instruction", "input"].into_iter().find(is_text)
}

/// A row of no form.
fn unknown(fields: &Map<String, Value>, at: &Source) -> DataError {
    let text = |names: &[&'static str]| {
        names.iter().copied().find(|name| fields.get(*name).is_some_and(Value::is_string))
    };
    // one answer of two is no completion
    let is_half = SIDES.iter().any(|key| fields.contains_key(*key)) && fields.contains_key("prompt");
    if let Some(pair) = text(&PROMPTS).zip(text(&COMPLETIONS)).filter(|_| !is_half) {
        let (at, found) = (at.clone(), listed(fields));
        return DataError::UnknownKeys { at, found, nearest: None, pair: Some(pair) };
    }
    for (found, missing) in NEEDED {
        if fields.contains_key(found) && !fields.contains_key(missing) {
            return DataError::MissingKey { at: at.clone(), found, missing };
        }
    }
    let names = || FORMS.iter().flat_map(|(_, needed, _)| needed.iter().copied());
    let meant = fields.keys().find_map(|key| nearest(key, names()));
    let nearest = names().find(|key| meant == Some(key));
    DataError::UnknownKeys { at: at.clone(), found: listed(fields), nearest, pair: None }
}

/// The keys of a row for a message.
fn listed(fields: &Map<String, Value>) -> String {
    const MOST: usize = 12;
    let keys: Vec<String> = fields.keys().take(MOST).map(|key| format!("`{}`", shortened(key))).collect();
    match (keys.is_empty(), fields.len() > MOST) {
        (true, _) => "none".to_owned(),
        (false, false) => keys.join(", "),
        (false, true) => format!("{}, ... ({} in all)", keys.join(", "), fields.len()),
    }
}

/// A text of a file as a message can hold it: not too long, and nothing that a terminal would act on.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    let mut shown: String = text
        .chars()
        .take(MOST)
        .flat_map(|c| match c.is_control() {
            true => c.escape_default().collect::<Vec<_>>(),
            false => vec![c],
        })
        .collect();
    if text.chars().nth(MOST).is_some() {
        shown.push_str("...");
    }
    shown
}
