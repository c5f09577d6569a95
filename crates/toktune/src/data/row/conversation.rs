//! Rows that are conversations: messages, ShareGPT's turns, and prompts and completions of messages.

use serde_json::{Map, Value, json};

use crate::data::chat::turn_off;

use super::{Conversation, DataError, Reader, Words, shortened};

const MESSAGES: &str = "a list of objects with `role`";
/// Who speaks in ShareGPT's rows, and the role of such a turn.
const SPEAKERS: [(&str, &str); 12] = [
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
    ("model", "assistant"),
    ("assistant", "assistant"),
    ("system", "system"),
    ("tool", "tool"),
    ("function_response", "tool"),
    ("observation", "tool"),
];

impl Reader<'_> {
    /// A prompt and a completion, both texts or both lists of messages.
    pub(super) fn prompt(&self, prompt: &str, completion: &str) -> Result<Words, DataError> {
        let is_list = |key: &str| matches!(self.fields.get(key), Some(Value::Array(_) | Value::Object(_)));
        if !is_list(prompt) && !is_list(completion) {
            return Ok(Words::Prompt { prompt: self.string(prompt)?, completion: self.string(completion)? });
        }
        let mut messages = self.messages(prompt)?;
        // what is there to be gone on from is not learnt, whoever says it
        messages.iter_mut().filter_map(Value::as_object_mut).for_each(turn_off);
        messages.extend(self.messages(completion)?);
        Ok(Words::Messages(self.conversation(messages)?))
    }

    /// The messages under a key.
    pub(super) fn messages(&self, key: &str) -> Result<Vec<Value>, DataError> {
        let messages = self.turns(key, MESSAGES)?;
        for (index, message) in messages.iter().enumerate() {
            let Value::Object(fields) = message else {
                return Err(self.wrong(format!("{key}[{index}]"), Some(message), "an object with `role`"));
            };
            if !matches!(fields.get("role"), Some(Value::String(_))) {
                return Err(self.wrong(format!("{key}[{index}].role"), fields.get("role"), "a string"));
            }
        }
        Ok(messages)
    }

    /// ShareGPT's turns: who speaks is `from`, what is said `value`.
    pub(super) fn share_gpt(&self) -> Result<Words, DataError> {
        let key = "conversations";
        let turns = self.turns(key, "a list of objects with `from` and `value`")?;
        // the key is used for messages of the usual form too
        if turns.iter().all(|turn| turn.get("role").is_some()) {
            return Ok(Words::Messages(self.conversation(self.messages(key)?)?));
        }
        let mut messages = Vec::with_capacity(turns.len() + 1);
        let system = self.optional("system")?;
        if !system.is_empty() {
            messages.push(json!({"role": "system", "content": system}));
        }
        for (index, turn) in turns.into_iter().enumerate() {
            messages.push(self.turn(turn, index)?);
        }
        Ok(Words::Messages(self.conversation(messages)?))
    }

    /// A turn of ShareGPT as a message; what else it has (a `weight`, say) stays.
    fn turn(&self, turn: Value, index: usize) -> Result<Value, DataError> {
        let at = |name: &str| format!("conversations[{index}]{name}");
        let Value::Object(mut fields) = turn else {
            return Err(self.wrong(at(""), Some(&turn), "an object with `from` and `value`"));
        };
        let speaker = match fields.shift_remove("from") {
            Some(Value::String(speaker)) => speaker,
            other => return Err(self.wrong(at(".from"), other.as_ref(), "a string")),
        };
        let Some(value) = fields.shift_remove("value") else {
            return Err(self.wrong(at(".value"), None, "a string"));
        };
        let lower = speaker.to_lowercase();
        let mut message = Map::new();
        match SPEAKERS.iter().find(|(name, _)| *name == lower) {
            Some((_, role)) => {
                message.insert("role".to_owned(), (*role).into());
                message.insert("content".to_owned(), value);
            }
            // the call stands as JSON in the turn's text
            None if lower == "function_call" || lower == "tool_call" => {
                let text = value.as_str().unwrap_or_default();
                let call: Value = serde_json::from_str(text).map_err(|_| {
                    self.wrong(at(".value"), Some(&value), "a call as JSON, with `name` and `arguments`")
                })?;
                message.insert("role".to_owned(), "assistant".into());
                message.insert("content".to_owned(), "".into());
                let calls = if call.is_array() { call } else { json!([call]) };
                let calls: Vec<Value> = calls
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|call| json!({"type": "function", "function": call}))
                    .collect();
                message.insert("tool_calls".to_owned(), calls.into());
            }
            None => {
                let expected: Vec<&str> = SPEAKERS.iter().map(|(name, _)| *name).collect();
                return Err(DataError::NotObeyed {
                    at: self.at(),
                    key: at(".from"),
                    problem: format!(
                        "`{}` is nobody who is known; expected one of {}, function_call",
                        shortened(&speaker),
                        expected.join(", ")
                    ),
                });
            }
        }
        message.extend(fields);
        Ok(Value::Object(message))
    }

    /// A list that is not empty. `datasets` keeps a list of objects as an object of lists, which is turned.
    fn turns(&self, key: &str, expected: &'static str) -> Result<Vec<Value>, DataError> {
        let turns = match self.fields.get(key) {
            Some(Value::Array(turns)) => turns.clone(),
            Some(Value::Object(columns)) => {
                turned(columns).ok_or_else(|| self.wrong(key, self.fields.get(key), expected))?
            }
            other => return Err(self.wrong(key, other, expected)),
        };
        match turns.is_empty() {
            true => Err(self.empty(key)),
            false => Ok(turns),
        }
    }

    /// A conversation with what its row has beside the messages.
    pub(super) fn conversation(&self, messages: Vec<Value>) -> Result<Conversation, DataError> {
        let list = |key: &str| match self.fields.get(key) {
            None => Ok(None),
            Some(value @ Value::Array(_)) => Ok(Some(value.clone()).filter(|_| value != &json!([]))),
            // a column of a table cannot hold every tool's own keys, so that they are kept as text
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(Value::String(text)) => match serde_json::from_str(text) {
                Ok(value @ Value::Array(_)) => Ok(Some(value).filter(|value| value != &json!([]))),
                _ => Err(self.wrong(key, self.fields.get(key), "a list, or one as JSON")),
            },
            Some(other) => Err(self.wrong(key, Some(other), "a list")),
        };
        let variables = match self.fields.get("chat_template_kwargs") {
            None => Map::new(),
            Some(Value::Object(variables)) => variables.clone(),
            Some(other) => return Err(self.wrong("chat_template_kwargs", Some(other), "an object")),
        };
        Ok(Conversation { messages, tools: list("tools")?, documents: list("documents")?, variables })
    }
}

/// An object of equal lists as a list of objects; `None` when it is none.
fn turned(columns: &Map<String, Value>) -> Option<Vec<Value>> {
    let length = columns.values().next()?.as_array()?.len();
    let mut turns = vec![Map::new(); length];
    for (name, column) in columns {
        let column = column.as_array().filter(|column| column.len() == length)?;
        for (turn, value) in turns.iter_mut().zip(column).filter(|(_, value)| !value.is_null()) {
            turn.insert(name.clone(), value.clone());
        }
    }
    Some(turns.into_iter().map(Value::Object).collect())
}
