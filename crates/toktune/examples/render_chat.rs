//! Renders conversations by chat templates: a JSON object a line in, a JSON object a line out.
//!
//! In: `template`, `messages`, and what else `apply_chat_template` takes: `tools`, `documents`,
//! `add_generation_prompt`, `variables`, and `now` (seconds since 1970). Out: `text` with the places of its generation
//! blocks in bytes, or `error`. `tools/chat_templates/compare.py` compares it with transformers.

use std::collections::HashMap;
use std::io::{BufRead, Write};

use serde_json::{Map, Value, json};
use toktune::text::{ChatOptions, ChatTemplate};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    let mut compiled: HashMap<String, Result<ChatTemplate, String>> = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let row: Map<String, Value> = serde_json::from_str(&line?)?;
        let source = row.get("template").and_then(Value::as_str).unwrap_or_default();
        let template = compiled
            .entry(source.to_owned())
            .or_insert_with(|| ChatTemplate::new(source).map_err(|error| error.to_string()));
        let given = |name: &str| row.get(name).filter(|value| !value.is_null()).cloned();
        let options = ChatOptions {
            add_generation_prompt: given("add_generation_prompt").is_some_and(|flag| flag == true),
            tools: given("tools"),
            documents: given("documents"),
            variables: given("variables").and_then(|value| value.as_object().cloned()).unwrap_or_default(),
            now: given("now").and_then(|value| value.as_u64()),
        };
        let messages = given("messages").and_then(|value| value.as_array().cloned()).unwrap_or_default();
        let rendered = match template {
            Ok(template) => template.render(&messages, &options).map_err(|error| error.to_string()),
            Err(error) => Err(error.clone()),
        };
        let answer = match rendered {
            Ok(chat) => {
                let places: Vec<_> = chat.generations.iter().map(|place| [place.start, place.end]).collect();
                json!({"text": chat.text, "generations": places})
            }
            Err(error) => json!({"error": error}),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}
