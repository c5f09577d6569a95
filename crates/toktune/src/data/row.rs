//! One row of a data file: which kind it is, and its values checked.

use serde_json::{Map, Value};

use super::{DataError, Source};
use crate::Result;
use crate::error::nearest;

/// The kinds of rows, for messages.
const EXPECTED: &str =
    "`input_ids` (and `labels`), `text`, `prompt` with `completion`, `messages`, or `anchor` with `positive`";
/// The keys that tell a row's kind, with the kind's number.
const KEYS: [(&str, usize); 8] = [
    ("input_ids", 0),
    ("labels", 0),
    ("text", 1),
    ("prompt", 2),
    ("completion", 2),
    ("messages", 3),
    ("anchor", 4),
    ("positive", 4),
];
/// Keys that need another one.
const NEEDED: [(&str, &str); 5] = [
    ("labels", "input_ids"),
    ("prompt", "completion"),
    ("completion", "prompt"),
    ("anchor", "positive"),
    ("positive", "anchor"),
];
/// The label of a position that is not learnt, as in torch.
const IGNORED: i64 = -100;

/// A row as the file has it; nothing is tokenised yet.
#[derive(Debug, PartialEq)]
pub(super) enum Row {
    /// Ids as they stand. `None` in `labels` is not learnt; whether they must be as many as the ids is the model's.
    Ids { input_ids: Vec<u32>, labels: Option<Vec<Option<u32>>> },
    /// A text to learn as a whole.
    Text(String),
    /// A text to go on from, and how it goes on.
    Prompt { prompt: String, completion: String },
    /// A conversation, with what else the chat template may look at.
    Messages {
        messages: Vec<Value>,
        tools: Option<Value>,
        documents: Option<Value>,
        variables: Map<String, Value>,
    },
    /// Two sequences that belong together.
    Pair { anchor: Sequence, positive: Sequence },
}

/// A sequence of a pair.
#[derive(Debug, PartialEq)]
pub(super) enum Sequence {
    Text(String),
    Ids(Vec<u32>),
}

impl Row {
    /// Reads a line of JSON.
    pub(super) fn parse(line: &str, at: &Source, vocab_size: usize) -> Result<Row, DataError> {
        let value = serde_json::from_str(line)
            .map_err(|error| DataError::NotJson { at: at.clone(), reason: error.to_string() })?;
        let Value::Object(mut fields) = value else {
            return Err(DataError::NotObject { at: at.clone(), found: type_name(&value) });
        };
        // A null is how tables with columns of several kinds say "not here".
        fields.retain(|_, value| !value.is_null());
        let reader = Reader { at, fields: &fields };
        match reader.kind()? {
            0 => reader.ids(vocab_size),
            1 => Ok(Row::Text(reader.string("text")?)),
            2 => {
                Ok(Row::Prompt { prompt: reader.string("prompt")?, completion: reader.string("completion")? })
            }
            3 => reader.messages(),
            _ => Ok(Row::Pair {
                anchor: reader.sequence("anchor", vocab_size)?,
                positive: reader.sequence("positive", vocab_size)?,
            }),
        }
    }

    /// The key that a row of this kind is known by.
    pub(super) fn key(&self) -> &'static str {
        match self {
            Row::Ids { .. } => "input_ids",
            Row::Text(_) => "text",
            Row::Prompt { .. } => "prompt",
            Row::Messages { .. } => "messages",
            Row::Pair { .. } => "anchor",
        }
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

    /// The row's kind. Further keys (an id, a source) are welcome; keys of a second kind are not.
    fn kind(&self) -> Result<usize, DataError> {
        let known: Vec<(&'static str, usize)> =
            KEYS.into_iter().filter(|(key, _)| self.fields.contains_key(*key)).collect();
        let Some(&(first, kind)) = known.first() else {
            let names = || KEYS.into_iter().map(|(key, _)| key);
            let meant = self.fields.keys().find_map(|key| nearest(key, names()));
            let nearest = KEYS.into_iter().map(|(key, _)| key).find(|key| meant == Some(key));
            let keys: Vec<String> = self.fields.keys().map(|key| format!("`{key}`")).collect();
            let found = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
            return Err(DataError::UnknownKeys { at: self.at(), found, expected: EXPECTED, nearest });
        };
        if let Some(&(second, _)) = known.iter().find(|(_, other)| *other != kind) {
            return Err(DataError::MixedKeys { at: self.at(), first, second, expected: EXPECTED });
        }
        for (found, missing) in NEEDED {
            if self.fields.contains_key(found) && !self.fields.contains_key(missing) {
                return Err(DataError::MissingKey { at: self.at(), found, missing });
            }
        }
        Ok(kind)
    }

    fn wrong(&self, key: impl Into<String>, value: Option<&Value>, expected: &'static str) -> DataError {
        let found = value.map_or("missing".to_owned(), |value| match value {
            Value::Number(number) => number.to_string(),
            other => type_name(other).to_owned(),
        });
        DataError::WrongType { at: self.at(), key: key.into(), found, expected }
    }

    fn string(&self, key: &str) -> Result<String, DataError> {
        match self.fields.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            other => Err(self.wrong(key, other, "a string")),
        }
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
            return Err(DataError::EmptyRow { at: self.at(), key });
        }
        given.iter().enumerate().map(|(index, id)| self.id(key, index, *id, vocab_size)).collect()
    }

    fn ids(&self, vocab_size: usize) -> Result<Row, DataError> {
        let input_ids = self.some_ids("input_ids", vocab_size)?;
        if !self.fields.contains_key("labels") {
            return Ok(Row::Ids { input_ids, labels: None });
        }
        let labels = self.integers("labels")?;
        let check = |(index, label): (usize, &i64)| match *label {
            IGNORED => Ok(None),
            label => self.id("labels", index, label, vocab_size).map(Some),
        };
        let labels = labels.iter().enumerate().map(check).collect::<Result<_, _>>()?;
        Ok(Row::Ids { input_ids, labels: Some(labels) })
    }

    /// A text, or a list of ids.
    fn sequence(&self, key: &'static str, vocab_size: usize) -> Result<Sequence, DataError> {
        match self.fields.get(key) {
            Some(Value::String(text)) if text.is_empty() => Err(DataError::EmptyRow { at: self.at(), key }),
            Some(Value::String(text)) => Ok(Sequence::Text(text.clone())),
            Some(Value::Array(_)) => self.some_ids(key, vocab_size).map(Sequence::Ids),
            other => Err(self.wrong(key, other, "a string or a list of ids")),
        }
    }

    fn messages(&self) -> Result<Row, DataError> {
        let Some(Value::Array(messages)) = self.fields.get("messages") else {
            return Err(self.wrong("messages", self.fields.get("messages"), "a list of objects with `role`"));
        };
        if messages.is_empty() {
            return Err(DataError::EmptyRow { at: self.at(), key: "messages" });
        }
        for (index, message) in messages.iter().enumerate() {
            let Value::Object(fields) = message else {
                return Err(self.wrong(format!("messages[{index}]"), Some(message), "an object with `role`"));
            };
            if !matches!(fields.get("role"), Some(Value::String(_))) {
                return Err(self.wrong(format!("messages[{index}].role"), fields.get("role"), "a string"));
            }
        }
        let list = |key: &str| match self.fields.get(key) {
            None => Ok(None),
            Some(value @ Value::Array(_)) => Ok(Some(value.clone())),
            Some(other) => Err(self.wrong(key, Some(other), "a list")),
        };
        let variables = match self.fields.get("chat_template_kwargs") {
            None => Map::new(),
            Some(Value::Object(variables)) => variables.clone(),
            Some(other) => return Err(self.wrong("chat_template_kwargs", Some(other), "an object")),
        };
        Ok(Row::Messages {
            messages: messages.clone(),
            tools: list("tools")?,
            documents: list("documents")?,
            variables,
        })
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
