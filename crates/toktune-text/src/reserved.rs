//! Tokens that a model's makers kept for later use: found by their names, and renamed.
//!
//! A reserved token has a row in every copy of the model, so that nothing is resized for its new name.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::{AutoTokenizer, NewToken, Result, TextError};

/// What reserved tokens are called, without brackets and number.
const NAMES: [&str; 12] = [
    "reserved_special_token",
    "reserved_token",
    "reserved",
    "unused",
    "unused_token",
    "extra_id",
    "extra",
    "dummy",
    "placeholder",
    "special",
    "special_token",
    "madeupword",
];

/// The name and the number of a reserved token.
fn parts(token: &str) -> Option<(String, u64)> {
    let open = token.trim_start_matches(['<', '[', '|', '_']);
    let inner = open.trim_end_matches(['>', ']', '|', '_']);
    let name = inner.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let number = inner[name.len()..].parse().ok()?;
    let name = name.trim_end_matches(['_', '-', ' ']).to_lowercase();
    // fairseq's have no brackets
    let enclosed = open.len() < token.len() && inner.len() < open.len();
    (NAMES.contains(&name.as_str()) && (enclosed || name == "madeupword")).then_some((name, number))
}

/// Whether a token is one that a model's makers kept for later use, by its name.
pub(super) fn is_reserved(token: &str) -> bool {
    parts(token).is_some()
}

impl AutoTokenizer {
    /// The reserved tokens with their ids, in the order in which they are taken: by number; sentinels of T5's kind from the
    /// last one, since the first are what the model was trained with.
    pub fn reserved_tokens(&self) -> Vec<(u32, String)> {
        let mut found: Vec<(String, u64, u32, String)> = Vec::new();
        for (token, id) in self.inner.get_vocab(true) {
            // one that a run already gave a use (padding, the end of a turn) is not free
            if self.special.iter().any(|(_, named)| named == token) || self.stop_ids.contains(&id) {
                continue;
            }
            if let Some((name, number)) = parts(&token) {
                let rank = if name == "extra_id" { u64::MAX - number } else { number };
                found.push((name, rank, id, token));
            }
        }
        found.sort();
        found.into_iter().map(|(_, _, id, token)| (id, token)).collect()
    }

    /// Gives reserved tokens the names of `tokens`, which are matched whole from now on; the ids in their order.
    ///
    /// A name that the tokenizer has keeps its id, as in [`add_tokens`](Self::add_tokens).
    ///
    /// # Errors
    /// Fewer reserved tokens than names; an empty name.
    pub fn use_reserved_tokens(&mut self, tokens: &[NewToken]) -> Result<Vec<u32>> {
        let mut seen = HashSet::new();
        let unknown: Vec<(String, &NewToken)> = tokens
            .iter()
            .map(|token| (self.content_of(&token.content), token))
            .filter(|(name, _)| {
                !name.is_empty() && self.token_to_id(name).is_none() && seen.insert(name.clone())
            })
            .collect();
        let reserved = self.reserved_tokens();
        if reserved.len() < unknown.len() {
            let (found, wanted) = (reserved.len(), unknown.len());
            return Err(TextError::TooFewReserved { found, wanted });
        }
        let names: HashMap<String, AddedToken> = reserved
            .into_iter()
            .zip(unknown)
            .map(|((_, old), (name, token))| {
                let new = self.added_token(&name, token.special).single_word(token.single_word);
                (old, new)
            })
            .collect();
        if !names.is_empty() {
            self.change_json(|json| rename_in_file(json, &names))?;
            self.rename_in_config(&names);
            self.add_at_free_ids(names.into_values().collect())?;
        }
        self.add_new_tokens(tokens)
    }

    /// Renames tokens wherever the configuration names them; its list of special ones keeps those that are special.
    fn rename_in_config(&mut self, names: &HashMap<String, AddedToken>) {
        for list in ["additional_special_tokens", "extra_special_tokens"] {
            if let Some(Value::Array(tokens)) = self.config.get_mut(list) {
                let content =
                    |token: &Value| token.get("content").unwrap_or(token).as_str().map(str::to_owned);
                tokens.retain(|token| {
                    content(token).and_then(|token| names.get(&token)).is_none_or(|new| new.special)
                });
            }
        }
        self.config = std::mem::take(&mut self.config)
            .into_iter()
            .map(|(key, value)| (key, renamed(value, names)))
            .collect();
    }
}

/// Renames tokens in a tokenizer's file: where they stand in the model's own vocabulary, and in the list of added ones,
/// whose order decides their ids.
fn rename_in_file(json: &mut Map<String, Value>, names: &HashMap<String, AddedToken>) {
    for entry in json.get_mut("added_tokens").and_then(Value::as_array_mut).into_iter().flatten() {
        let new = entry.get("content").and_then(Value::as_str).and_then(|old| names.get(old));
        if let (Some(Ok(Value::Object(new))), Value::Object(entry)) = (new.map(serde_json::to_value), entry) {
            entry.extend(new);
        }
    }
    match json.get_mut("model").and_then(|model| model.get_mut("vocab")) {
        Some(Value::Object(vocab)) => {
            let name = |token: String| names.get(&token).map_or(token, |new| new.content.clone());
            *vocab = std::mem::take(vocab).into_iter().map(|(token, id)| (name(token), id)).collect();
        }
        Some(Value::Array(pieces)) => {
            for piece in pieces.iter_mut().filter_map(|piece| piece.get_mut(0)) {
                if let Some(new) = piece.as_str().and_then(|old| names.get(old)) {
                    *piece = new.content.as_str().into();
                }
            }
        }
        _ => {}
    }
}

/// Every string that is a renamed token, wherever it stands.
fn renamed(value: Value, names: &HashMap<String, AddedToken>) -> Value {
    match value {
        Value::String(text) => match names.get(&text) {
            Some(new) => Value::String(new.content.clone()),
            None => Value::String(text),
        },
        Value::Array(items) => items.into_iter().map(|item| renamed(item, names)).collect(),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(key, value)| (key, renamed(value, names))).collect())
        }
        other => other,
    }
}
