//! Tokenizers of folders without a `tokenizer.json`: built from the vocabulary files of older classes, with the rules that
//! transformers 5 gives each class.

mod byte_level;
mod sentence_piece;
mod sentence_piece_file;
#[cfg(test)]
mod tests;
mod word_piece;

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use crate::class::{Class, Named};
use crate::guard::guarded;
use crate::{Result, TextError};

/// Vocabulary files, in the order in which they are looked for.
pub(super) const FILES: [&str; 6] =
    ["vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model"];
/// Files with SentencePiece models.
const MODELS: [&str; 4] = ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model"];

/// What the rules of a class look at: the class, and the fields of `tokenizer_config.json`.
#[derive(Clone, Copy)]
struct Rules<'r> {
    class: Class,
    config: &'r Map<String, Value>,
}

impl Rules<'_> {
    /// A switch of the configuration.
    fn switch(&self, name: &str) -> Option<bool> {
        self.config.get(name).and_then(Value::as_bool)
    }

    /// A named special token: the configuration's, or the class's own.
    fn special<'r>(&'r self, name: &str) -> Option<&'r str> {
        match self.config.get(name) {
            Some(Value::Null) => None,
            Some(value) => value.get("content").unwrap_or(value).as_str(),
            None => {
                self.class.special_tokens().iter().find(|(known, _)| *known == name).map(|(_, token)| *token)
            }
        }
    }
}

/// Builds the tokenizer of a folder, without special tokens and frame.
pub(super) fn build(dir: &Path, named: Named, config: &Map<String, Value>) -> Result<(Tokenizer, Class)> {
    let there = |name: &str| dir.join(name).is_file();
    let model = MODELS.into_iter().find(|name| there(name));
    // transformers has nothing of its own for byte-level files of a class that it takes as it is
    let class = match named.class {
        Class::Backend if there("vocab.json") || there("vocab.txt") => named.by_its_name(),
        class => class,
    };
    let rules = Rules { class, config };
    let tokenizer = match (class, model) {
        (Class::M2m100, Some(model)) if there("vocab.json") => {
            sentence_piece::with_vocabulary(&dir.join(model), &dir.join("vocab.json"))?
        }
        (
            Class::Gpt2 | Class::GptNeoX | Class::Qwen2 | Class::Cohere | Class::Roberta | Class::Deberta,
            _,
        ) if there("vocab.json") && there("merges.txt") => {
            byte_level::build(&dir.join("vocab.json"), &dir.join("merges.txt"), rules)?
        }
        (Class::Bert, _) if there("vocab.txt") => word_piece::build(&dir.join("vocab.txt"), rules)?,
        (
            Class::Albert
            | Class::Backend
            | Class::CodeLlama
            | Class::DebertaV2
            | Class::Gemma
            | Class::Llama
            | Class::MBart
            | Class::MBart50
            | Class::Nllb
            | Class::Pegasus
            | Class::T5
            | Class::XlmRoberta,
            Some(model),
        ) if !named.has_unknown_rules() => sentence_piece::build(&dir.join(model), rules)?,
        _ => {
            let found = FILES.into_iter().filter(|name| there(name)).collect();
            return Err(named.refused(dir, found));
        }
    };
    Ok((tokenizer, class))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(TextError::io(path))
}

fn wrong(path: &Path, reason: impl Into<String>) -> TextError {
    TextError::VocabularyFile { path: path.to_owned(), reason: reason.into() }
}

/// A tokenizer from the parts of a `tokenizer.json`.
fn assemble(path: &Path, parts: Value) -> Result<Tokenizer, TextError> {
    let mut json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
    });
    if let (Value::Object(json), Value::Object(parts)) = (&mut json, parts) {
        json.extend(parts);
    }
    guarded("build", || Ok(serde_json::from_value::<Tokenizer>(json)?)).map_err(|error| match error {
        TextError::Tokenizer { reason, .. } => wrong(path, reason),
        other => other,
    })
}
