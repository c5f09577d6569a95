//! Renders conversations by chat templates, and tells which tokens are learnt: a JSON object a line in, one out.
//!
//! In: `template`, `messages`, and what else `apply_chat_template` takes: `tools`, `documents`,
//! `add_generation_prompt`, `variables`, and `now` (seconds since 1970). Out: `text` with the places of its generation
//! blocks in bytes; with a tokenizer's folder as the argument also `sequences`, each a list of ids and a list of labels
//! (null where nothing is learnt). What fails is `error`, or `sequences_error`.
//! `tools/chat_templates/compare.py` compares it with transformers.

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;

use serde_json::{Map, Value, json};
use toktune::text::{AutoTokenizer, ChatOptions, ChatTemplate};
use toktune::{DataOptions, Dataset};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1);
    let mut tokenizer = folder.map(AutoTokenizer::from_pretrained).transpose()?;
    let rows = tempfile::NamedTempFile::new()?;
    let mut out = std::io::stdout().lock();
    let mut compiled: HashMap<String, Result<ChatTemplate, String>> = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let row: Map<String, Value> = serde_json::from_str(&line?)?;
        let source = row.get("template").and_then(Value::as_str).unwrap_or_default();
        let template = compiled
            .entry(source.to_owned())
            .or_insert_with(|| ChatTemplate::new(source).map_err(|error| error.to_string()));
        let mut answer = render(template, &row);
        if let Some(tokenizer) = &mut tokenizer {
            tokenizer.set_chat_template(source);
            match sequences(tokenizer, &row, rows.path()) {
                Ok(sequences) => answer["sequences"] = sequences,
                Err(error) => answer["sequences_error"] = error.to_string().into(),
            }
        }
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

fn given(row: &Map<String, Value>, name: &str) -> Option<Value> {
    row.get(name).filter(|value| !value.is_null()).cloned()
}

fn render(template: &Result<ChatTemplate, String>, row: &Map<String, Value>) -> Value {
    let mut options = ChatOptions::default();
    options.add_generation_prompt = given(row, "add_generation_prompt").is_some_and(|flag| flag == true);
    (options.tools, options.documents) = (given(row, "tools"), given(row, "documents"));
    options.variables =
        given(row, "variables").and_then(|value| value.as_object().cloned()).unwrap_or_default();
    options.now = given(row, "now").and_then(|value| value.as_u64());
    let messages = given(row, "messages").and_then(|value| value.as_array().cloned()).unwrap_or_default();
    let rendered = match template {
        Ok(template) => template.render(&messages, &options).map_err(|error| error.to_string()),
        Err(error) => Err(error.clone()),
    };
    match rendered {
        Ok(chat) => {
            let places: Vec<_> = chat.generations.iter().map(|place| [place.start, place.end]).collect();
            json!({"text": chat.text, "generations": places})
        }
        Err(error) => json!({"error": error}),
    }
}

/// What a data file with this conversation alone becomes.
fn sequences(
    tokenizer: &AutoTokenizer,
    row: &Map<String, Value>,
    path: &Path,
) -> Result<Value, Box<dyn Error>> {
    let mut line = Map::new();
    for (name, key) in [("messages", "messages"), ("tools", "tools"), ("variables", "chat_template_kwargs")] {
        line.extend(given(row, name).map(|value| (key.to_owned(), value)));
    }
    // A row that leaves nothing to learn is no error beside one that does.
    std::fs::write(path, format!("{}\n{{\"text\": \"a\"}}\n", Value::Object(line)))?;
    let data = Dataset::read(&[path], Some(tokenizer), &DataOptions::new(tokenizer.vocab_size()))?;
    let examples = data.examples().take(data.len() - 1);
    Ok(examples
        .map(|example| example.map(|example| json!([example.input_ids, example.labels])))
        .collect::<Result<_, _>>()?)
}
