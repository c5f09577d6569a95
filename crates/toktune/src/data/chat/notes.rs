//! What is to be known about conversations beside their tokens.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::text::{ChatOptions, ChatTemplate};

/// The fields of a message that are looked for in the text, with the names that one has besides.
const FIELDS: [(&str, &[&str]); 2] =
    [("tool_calls", &["tool_calls"]), ("reasoning_content", &["reasoning_content", "reasoning", "thinking"])];

/// Counts over conversations, for the header of a run and its warnings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChatNotes {
    /// Conversations.
    pub rows: usize,
    /// Conversations of which a turn is learnt in a sequence of its own, since the template renders it differently once
    /// later ones follow.
    pub split_rows: usize,
    /// Assistant's turns that are not learnt, since they were found in no rendering.
    pub lost_turns: usize,
    /// The use that the template makes of `tool_calls`, `reasoning_content`, `tools` and `documents`, where rows have
    /// them.
    pub fields: BTreeMap<String, FieldUse>,
}

/// The use of a field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FieldUse {
    /// Rows that have the field.
    pub rows: usize,
    /// Those of them whose text is the same without it.
    pub ignored: usize,
}

impl ChatNotes {
    /// Adds the counts of other conversations.
    pub fn add(&mut self, other: &ChatNotes) {
        self.rows += other.rows;
        self.split_rows += other.split_rows;
        self.lost_turns += other.lost_turns;
        for (name, found) in &other.fields {
            let field = self.fields.entry(name.clone()).or_default();
            field.rows += found.rows;
            field.ignored += found.ignored;
        }
    }

    /// Counts the fields of one conversation, of which `text` is the rendering.
    pub(super) fn count_fields(
        &mut self,
        template: &ChatTemplate,
        messages: &[Value],
        options: &ChatOptions,
        text: &str,
    ) {
        let given = |value: Option<&Value>| match value {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(_) => true,
        };
        // A template that fails without a field has looked at it.
        let same = |messages: &[Value], options: &ChatOptions| {
            template.render(messages, options).is_ok_and(|chat| chat.text == text)
        };
        for (field, names) in FIELDS {
            let has = |message: &Value| names.iter().any(|name| given(message.get(*name)));
            if !messages.iter().any(has) {
                continue;
            }
            let mut without = messages.to_vec();
            for message in without.iter_mut().filter_map(Value::as_object_mut) {
                names.iter().for_each(|name| _ = message.remove(*name));
            }
            self.count(field, same(&without, options));
        }
        let mut without = options.clone();
        if given(without.tools.take().as_ref()) {
            self.count("tools", same(messages, &without));
        }
        let mut without = options.clone();
        if given(without.documents.take().as_ref()) {
            self.count("documents", same(messages, &without));
        }
    }

    fn count(&mut self, field: &str, ignored: bool) {
        let found = self.fields.entry(field.to_owned()).or_default();
        found.rows += 1;
        found.ignored += usize::from(ignored);
    }
}
