//! `vocab.txt`: word pieces, as BERT and its relatives have them.

use std::path::Path;

use serde_json::{Map, json};
use tokenizers::Tokenizer;

use super::{Rules, assemble, read, wrong};
use crate::Result;

/// Builds the tokenizer.
pub(super) fn build(path: &Path, rules: Rules<'_>) -> Result<Tokenizer> {
    let text = String::from_utf8(read(path)?).map_err(|_| wrong(path, "not UTF-8"))?;
    let mut ids = Map::new();
    for (id, line) in text.strip_suffix('\n').unwrap_or(&text).split('\n').enumerate() {
        ids.insert(line.trim_end().to_owned(), id.into());
    }
    let unk = rules.special("unk_token").unwrap_or("[UNK]");
    if !ids.contains_key(unk) {
        return Err(wrong(
            path,
            format!("the vocabulary has no `{unk}`, which stands for what it cannot spell"),
        ));
    }
    let parts = json!({
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": rules.switch("tokenize_chinese_chars").unwrap_or(true),
            "strip_accents": rules.switch("strip_accents"),
            "lowercase": rules.switch("do_lower_case").unwrap_or(true),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": unk, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": ids,
        },
    });
    assemble(path, parts)
}
