//! `vocab.json` and `merges.txt`: byte-level pairs, as GPT-2, RoBERTa, BART, OPT and others have them.

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::{Rules, assemble, read, wrong};
use crate::Result;
use crate::class::Class;
use crate::gguf::QWEN2;
use crate::guard::check_ids;

/// Builds the tokenizer.
pub(super) fn build(vocab: &Path, merges: &Path, rules: Rules<'_>) -> Result<Tokenizer> {
    let ids = vocabulary(vocab)?;
    let merges = pairs(merges, &ids)?;
    let prefix = rules.switch("add_prefix_space").unwrap_or(false);
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex});
    let splitter = match rules.class {
        Class::Qwen2 => json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": false},
            bytes(false),
        ]}),
        Class::Cohere => json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            bytes(true),
        ]}),
        _ => bytes(true),
    };
    let normalizer = match rules.class {
        Class::Qwen2 | Class::Cohere | Class::GptNeoX => json!({"type": "NFC"}),
        _ => Value::Null,
    };
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
        "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        "vocab": ids, "merges": merges,
    });
    let decoder =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let parts =
        json!({"normalizer": normalizer, "pre_tokenizer": splitter, "decoder": decoder, "model": model});
    assemble(vocab, parts)
}

/// The ids of a `vocab.json`.
pub(super) fn vocabulary(path: &Path) -> Result<Map<String, Value>> {
    let bytes = read(path)?;
    let value: Value =
        serde_json::from_slice(&bytes).map_err(|error| wrong(path, format!("not JSON: {error}")))?;
    let Value::Object(ids) = value else {
        return Err(wrong(path, "expected an object with the id of each token"));
    };
    let mut highest = None;
    for (token, id) in &ids {
        let id = id.as_u64().ok_or_else(|| wrong(path, format!("token `{token}` has no id, but {id}")))?;
        highest = highest.max(Some(id));
    }
    check_ids(path, ids.len() as u64, highest)?;
    Ok(ids)
}

/// The merges of a `merges.txt`, best first.
fn pairs(path: &Path, ids: &Map<String, Value>) -> Result<Vec<[String; 2]>> {
    let text = String::from_utf8(read(path)?).map_err(|_| wrong(path, "not UTF-8"))?;
    let mut merges = Vec::new();
    for (number, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.starts_with("#version") || line.is_empty() {
            continue;
        }
        let at = |reason: &str| wrong(path, format!("line {}: {reason}", number + 1));
        let (left, right) = line
            .split_once(' ')
            .filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '))
            .ok_or_else(|| at("expected two pieces with one space between"))?;
        for piece in [left.to_owned(), right.to_owned(), format!("{left}{right}")] {
            if !ids.contains_key(&piece) {
                return Err(at(&format!("`{piece}` is not in the vocabulary")));
            }
        }
        merges.push([left.to_owned(), right.to_owned()]);
    }
    Ok(merges)
}
