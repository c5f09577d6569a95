//! One row of a data file: its values checked, and brought from the form that it came in to what is tokenised.

mod alpaca;
mod conversation;
mod preference;
#[cfg(test)]
mod tests;
mod weights;

use serde_json::{Map, Value};

use super::form::{Form, shortened};
pub(super) use super::form::{is_key_of_any, is_known_key};
use super::records::Content;
use super::weights::LossWeights;
use super::{DataError, RowKeys, Source};
pub(super) use preference::{Preference, messages};

/// The label of a position that is not learnt, as in torch.
const IGNORED: i64 = -100;

/// A row that is understood and not tokenised yet.
#[derive(Debug, PartialEq)]
pub(super) struct Row {
    /// The key that its form is known by, for messages.
    pub key: &'static str,
    pub words: Words,
    /// What its labels count.
    pub weights: LossWeights,
}

/// What a row says.
#[derive(Debug, PartialEq)]
pub(super) enum Words {
    /// Ids without their padding. `None` in `labels` is not learnt; whether they must be as many as the ids is the model's.
    Ids { input_ids: Vec<u32>, labels: Option<Vec<Option<u32>>>, padding: Padding },
    /// A text to learn as a whole.
    Text(String),
    /// A text to go on from, and how it goes on.
    Prompt { prompt: String, completion: String },
    /// A conversation, with what else the chat template may look at.
    Messages(Conversation),
    /// Two sequences that belong together.
    Pair { anchor: Sequence, positive: Sequence },
    /// Two answers to one prompt.
    Preference(Preference),
}

/// How much padding a row had before and behind its ids; what stands in the places of the ids still has it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Padding {
    pub before: usize,
    pub behind: usize,
}

/// A conversation.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Conversation {
    /// Objects with `role`.
    pub messages: Vec<Value>,
    pub tools: Option<Value>,
    pub documents: Option<Value>,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
}

/// A sequence of a pair.
#[derive(Debug, PartialEq)]
pub(super) enum Sequence {
    Text(String),
    Ids(Vec<u32>),
}

impl Row {
    /// Reads a record; ids must lie below `vocab_size`.
    pub(super) fn read(
        content: Content,
        keys: &RowKeys,
        at: &Source,
        vocab_size: usize,
    ) -> Result<Row, DataError> {
        let mut fields = match content {
            Content::Text(bytes) | Content::Part(bytes, _) => {
                let text = String::from_utf8(bytes).map_err(|_| DataError::NotText { at: at.clone() })?;
                let (key, weights) = (Form::Text.key(), LossWeights::Once);
                return Ok(Row { key, words: Words::Text(text), weights });
            }
            Content::Json(bytes) => {
                let text = std::str::from_utf8(&bytes).map_err(|_| DataError::NotText { at: at.clone() })?;
                let value = serde_json::from_str(text)
                    .map_err(|error| DataError::NotJson { at: at.clone(), reason: error.to_string() })?;
                let Value::Object(fields) = value else {
                    return Err(DataError::NotObject { at: at.clone(), found: type_name(&value) });
                };
                fields
            }
            Content::Fields(fields) => fields,
        };
        // A null is how tables with columns of several kinds say "not here".
        fields.retain(|_, value| !value.is_null());
        let form = Form::of(&fields, keys, at)?;
        let reader = Reader { at, fields: &fields };
        let words = match form {
            Form::Ids => reader.ids(vocab_size)?,
            Form::Text => Words::Text(reader.string(keys.text())?),
            Form::Prompt => reader.prompt(keys.prompt(), keys.completion())?,
            Form::Messages => Words::Messages(reader.conversation(reader.messages("messages")?)?),
            Form::Conversations => reader.share_gpt()?,
            Form::Instruction => reader.instruction()?,
            Form::Preference => reader.preference(keys)?,
            Form::PreferenceIds => reader.preference_of_ids(vocab_size)?,
            Form::Pair => Words::Pair {
                anchor: reader.sequence("anchor", vocab_size)?,
                positive: reader.sequence("positive", vocab_size)?,
            },
        };
        Ok(Row { key: form.key(), words, weights: reader.weights(form)? })
    }
}

/// The fields of one row with the place they come from.
struct Reader<'r> {
    at: &'r Source,
    fields: &'r Map<String, Value>,
}

impl Reader<'_> {
    fn at(&self) -> Source {
        self.at.clone()
    }

    fn wrong(&self, key: impl Into<String>, value: Option<&Value>, expected: &'static str) -> DataError {
        let found = value.map_or("missing".to_owned(), |value| match value {
            Value::Number(number) => number.to_string(),
            other => type_name(other).to_owned(),
        });
        DataError::WrongType { at: self.at(), key: shortened(&key.into()), found, expected }
    }

    fn string(&self, key: &str) -> Result<String, DataError> {
        match self.fields.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            other => Err(self.wrong(key, other, "a string")),
        }
    }

    /// A string, or nothing where there is none.
    fn optional(&self, key: &str) -> Result<String, DataError> {
        if self.fields.contains_key(key) { self.string(key) } else { Ok(String::new()) }
    }

    fn integers(&self, key: &'static str) -> Result<Vec<i64>, DataError> {
        let Some(Value::Array(items)) = self.fields.get(key) else {
            return Err(self.wrong(key, self.fields.get(key), "a list of integers"));
        };
        items
            .iter()
            .enumerate()
            .map(|(index, item)| {
                item.as_i64().ok_or_else(|| self.wrong(format!("{key}[{index}]"), Some(item), "an integer"))
            })
            .collect()
    }

    /// An id of the vocabulary.
    fn id(&self, key: &str, index: usize, id: i64, vocab_size: usize) -> Result<u32, DataError> {
        u32::try_from(id).ok().filter(|id| (*id as usize) < vocab_size).ok_or_else(|| DataError::TokenId {
            at: self.at(),
            key: format!("{key}[{index}]"),
            id,
            vocab_size,
        })
    }

    /// A list of ids that is not empty.
    fn some_ids(&self, key: &'static str, vocab_size: usize) -> Result<Vec<u32>, DataError> {
        let given = self.integers(key)?;
        if given.is_empty() {
            return Err(self.empty(key));
        }
        given.iter().enumerate().map(|(index, id)| self.id(key, index, *id, vocab_size)).collect()
    }

    fn empty(&self, key: &str) -> DataError {
        DataError::EmptyRow { at: self.at(), key: key.to_owned() }
    }

    fn ids(&self, vocab_size: usize) -> Result<Words, DataError> {
        let mut input_ids = self.some_ids("input_ids", vocab_size)?;
        let mut labels = match self.fields.contains_key("labels") {
            true => {
                let labels = self.integers("labels")?;
                let check = |(index, label): (usize, &i64)| match *label {
                    IGNORED => Ok(None),
                    label => self.id("labels", index, label, vocab_size).map(Some),
                };
                Some(labels.iter().enumerate().map(check).collect::<Result<Vec<_>, _>>()?)
            }
            false => None,
        };
        for key in ["completion_mask", "assistant_masks"] {
            let Some(mask) = self.mask(key, input_ids.len())? else { continue };
            let labels = labels.get_or_insert_with(|| input_ids.iter().copied().map(Some).collect());
            let hidden = labels.iter_mut().zip(mask).filter(|(_, learnt)| !learnt);
            hidden.for_each(|(label, _)| *label = None);
        }
        let mut padding = Padding::default();
        if let Some(mask) = self.mask("attention_mask", input_ids.len())? {
            let first = mask.iter().position(|seen| *seen).unwrap_or(0);
            let end = mask.iter().rposition(|seen| *seen).map_or(0, |last| last + 1);
            if first == end || mask[first..end].contains(&false) {
                let value = self.fields.get("attention_mask");
                return Err(self.wrong(
                    "attention_mask",
                    value,
                    "1 for what is read and 0 at its ends alone",
                ));
            }
            padding = Padding { before: first, behind: mask.len() - end };
            input_ids.truncate(end);
            input_ids.drain(..first);
        }
        Ok(Words::Ids { input_ids, labels, padding })
    }

    /// A list of 0 and 1, one for each id.
    fn mask(&self, key: &'static str, count: usize) -> Result<Option<Vec<bool>>, DataError> {
        let value = self.fields.get(key).filter(|value| !value.is_null());
        if value.is_none() {
            return Ok(None);
        }
        let mask = self.integers(key)?;
        match mask.len() == count && mask.iter().all(|item| matches!(item, 0 | 1)) {
            true => Ok(Some(mask.into_iter().map(|item| item == 1).collect())),
            false => Err(self.wrong(key, value, "as many of 0 and 1 as `input_ids` has ids")),
        }
    }

    /// A text, or a list of ids.
    fn sequence(&self, key: &'static str, vocab_size: usize) -> Result<Sequence, DataError> {
        match self.fields.get(key) {
            Some(Value::String(text)) if text.is_empty() => Err(self.empty(key)),
            Some(Value::String(text)) => Ok(Sequence::Text(text.clone())),
            Some(Value::Array(_)) => self.some_ids(key, vocab_size).map(Sequence::Ids),
            other => Err(self.wrong(key, other, "a string or a list of ids")),
        }
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
