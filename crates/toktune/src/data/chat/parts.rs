//! Content that is a list of parts.

use serde_json::Value;

use crate::data::{DataError, Source};
use crate::text::{ChatOptions, ChatTemplate, printed};

/// The messages as the template can take them: with parts where it writes their text, else with each list of parts as
/// one text.
///
/// # Errors
/// A part that is no text.
pub(super) fn fitting(
    template: &ChatTemplate,
    messages: Vec<Value>,
    options: &ChatOptions,
    at: &Source,
) -> Result<Vec<Value>, DataError> {
    let mut lists = Vec::new();
    let mut texts = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let Some(parts @ Value::Array(items)) = message.get("content") else { continue };
        lists.push(parts);
        for (place, item) in items.iter().enumerate() {
            let text = text_of(item).ok_or_else(|| DataError::ContentPart {
                at: at.clone(),
                key: format!("messages[{index}].content[{place}]"),
                found: kind_of(item),
            })?;
            texts.push(text);
        }
    }
    if lists.is_empty() {
        return Ok(messages);
    }
    let takes = |text: &str| {
        texts.iter().all(|part| text.contains(part.trim()))
            && !lists.iter().any(|list| printed(list).is_some_and(|printed| text.contains(&printed)))
            && !lists.iter().any(|list| text.contains(&list.to_string()))
    };
    if template.render(&messages, options).is_ok_and(|chat| takes(&chat.text)) {
        return Ok(messages);
    }
    let flat = messages.into_iter().map(|mut message| {
        let text = match message.get("content") {
            Some(Value::Array(items)) => items.iter().filter_map(text_of).collect::<String>(),
            _ => return message,
        };
        message["content"] = Value::String(text);
        message
    });
    Ok(flat.collect())
}

/// A part's text.
fn text_of(part: &Value) -> Option<&str> {
    match part {
        Value::String(text) => Some(text),
        Value::Object(fields) => match fields.get("type").and_then(Value::as_str) {
            None | Some("text") => fields.get("text").and_then(Value::as_str),
            Some(_) => None,
        },
        _ => None,
    }
}

/// What a part is instead of text.
fn kind_of(part: &Value) -> String {
    let kind = part.get("type").and_then(Value::as_str);
    kind.map_or_else(
        || "no text".to_owned(),
        |kind| format!("`{}`", kind.chars().take(40).collect::<String>()),
    )
}
