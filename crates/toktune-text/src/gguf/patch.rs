//! The token lists of a GGUF file for a tokenizer that has more tokens, or other names for reserved ones.

use std::collections::BTreeMap;

use super::kind;
use crate::{AutoTokenizer, Result, TextError};
use toktune_weights::{Array, ArrayPatch, Entry, Gguf, GgufPatch, Value};

const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";

const EOT: &str = "tokenizer.ggml.eot_token_id";
const TEMPLATE: &str = "tokenizer.chat_template";

/// The score that llama.cpp's converter gives to added tokens of a SentencePiece vocabulary.
const ADDED_SCORE: f32 = -1000.0;

/// What became of a file's token lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PatchedTokens {
    /// Tokens behind the file's last.
    pub added: Vec<String>,
    /// Tokens of the file that are called otherwise, or are matched whole from now on.
    pub changed: Vec<String>,
    /// Those of both that llama.cpp matches in the middle of words too, where the tokenizer does not: it knows no such rule.
    pub single_word: Vec<String>,
    /// The token that ends a turn from now on (`tokenizer.ggml.eot_token_id`), where the file named no such or another.
    pub end_of_turn: Option<String>,
    /// Whether the file has another chat template, or its first one.
    pub chat_template: bool,
}

/// A token as llama.cpp lists it.
struct Listed {
    text: String,
    kind: i32,
}

/// Puts into `patch` what the file's lists need so that llama.cpp cuts texts as `tokenizer` does: the tokens that the file does
/// not have, as control tokens where they are special and user-defined ones where they are not, both of which it matches
/// whole; those with another name; and those of `trained` that only `tokenizer` matches whole. Lists become as long as `rows`,
/// with unused entries as llama.cpp's converter has them for rows without a token; `vocab_size` follows. A token that ends texts and of
/// which the file does not say so becomes its end of a turn, and the tokenizer's chat template becomes the file's.
///
/// # Errors
/// The file has no tokenizer that is read, or another one: a token that was not added differs.
pub fn patch_gguf_tokens(
    gguf: &Gguf,
    tokenizer: Option<&AutoTokenizer>,
    trained: &[u32],
    rows: usize,
    patch: &mut GgufPatch,
) -> Result<PatchedTokens> {
    let metadata = gguf.metadata();
    let count = metadata.require::<&[String]>(TOKENS)?.len();
    let mut patched = PatchedTokens::default();
    let mut listed = match tokenizer {
        Some(tokenizer) => {
            let listed = tokenizer.unlisted(gguf, trained, count, &mut patched)?;
            tokenizer.patch_conversations(gguf, patch, &mut patched)?;
            listed
        }
        None => BTreeMap::new(),
    };
    for id in (count..rows).map(|id| id as u32) {
        listed.entry(id).or_insert_with(|| Listed { text: format!("[PAD{id}]"), kind: kind::UNUSED });
    }
    if listed.is_empty() {
        return Ok(patched);
    }
    let array = |of: &dyn Fn(&Listed) -> Entry, with_changed: bool| {
        let mut array = ArrayPatch::default();
        for (id, token) in &listed {
            match *id as usize {
                at if at >= count => array.appended.push(of(token)),
                at if with_changed => drop(array.changed.insert(at, of(token))),
                _ => {}
            }
        }
        array
    };
    let kind_of = |token: &Listed| Entry::Integer(token.kind.into());
    patch.arrays.insert(TOKENS.into(), array(&|token| Entry::Text(token.text.clone()), true));
    if metadata.value(SCORES).is_some() {
        // a renamed token keeps its score
        patch.arrays.insert(SCORES.into(), array(&|_| Entry::Float(ADDED_SCORE), false));
    }
    match metadata.value(TYPES) {
        Some(_) => drop(patch.arrays.insert(TYPES.into(), array(&kind_of, true))),
        None => {
            // without the list every token is a piece of text
            let length = listed.keys().last().map_or(count, |id| count.max(*id as usize + 1));
            let of = |id: usize| listed.get(&(id as u32)).map_or(kind::NORMAL, |token| token.kind);
            patch.added.insert(TYPES.into(), Value::Array(Array::I32((0..length).map(of).collect())));
        }
    }
    if let Some(architecture) = metadata.get::<&str>("general.architecture")? {
        let key = format!("{architecture}.vocab_size");
        if metadata.value(&key).is_some() && rows > count {
            patch.integers.insert(key, rows as i64);
        }
    }
    Ok(patched)
}

impl AutoTokenizer {
    /// Puts the end of a turn and the chat template into `patch`, where the file has others.
    fn patch_conversations(
        &self,
        gguf: &Gguf,
        patch: &mut GgufPatch,
        patched: &mut PatchedTokens,
    ) -> Result<()> {
        let metadata = gguf.metadata();
        let keys = ["eos", "eot", "eom"].map(|name| format!("tokenizer.ggml.{name}_token_id"));
        let mut known = Vec::new();
        for key in &keys {
            known.extend(metadata.get::<u32>(key)?);
        }
        if let Some(end) = self.eos_token_ids().into_iter().find(|id| !known.contains(id)) {
            match metadata.value(EOT) {
                Some(_) => drop(patch.integers.insert(EOT.into(), end.into())),
                None => drop(patch.added.insert(EOT.into(), Value::U32(end))),
            }
            patched.end_of_turn = self.id_to_token(end);
        }
        let stored = metadata.get::<&str>(TEMPLATE)?;
        if let Some(template) = self.chat_template().filter(|template| stored != Some(*template)) {
            match stored {
                Some(_) => drop(patch.texts.insert(TEMPLATE.into(), template.to_owned())),
                None => drop(patch.added.insert(TEMPLATE.into(), Value::String(template.to_owned()))),
            }
            patched.chat_template = true;
        }
        Ok(())
    }

    /// The tokens that a file with `count` of them lacks, by their ids.
    fn unlisted(
        &self,
        gguf: &Gguf,
        trained: &[u32],
        count: usize,
        patched: &mut PatchedTokens,
    ) -> Result<BTreeMap<u32, Listed>> {
        let stored = Self::from_gguf(gguf)?;
        let whole = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let whole_in_file = stored.inner.get_added_vocabulary().get_added_tokens_decoder();
        let mut ids: Vec<u32> = Vec::new();
        for id in 0..count as u32 {
            let (ours, theirs) = (self.id_to_token(id), stored.id_to_token(id));
            let is_matched_anew = || match (whole.get(&id), whole_in_file.get(&id)) {
                (Some(ours), Some(theirs)) => ours.special != theirs.special,
                (ours, _) => ours.is_some(),
            };
            match ours {
                // a row without a token, as `[PAD5]` of the file
                None => {}
                Some(ours) if theirs.as_deref() == Some(ours.as_str()) => {
                    ids.extend((trained.contains(&id) && is_matched_anew()).then_some(id));
                }
                Some(_) if whole.contains_key(&id) => ids.push(id),
                Some(found) => {
                    return Err(TextError::OtherTokenizer {
                        id,
                        found,
                        expected: theirs.unwrap_or_default(),
                    });
                }
            }
        }
        ids.extend(whole.keys().filter(|id| **id as usize >= count));
        let mut listed = BTreeMap::new();
        for id in ids {
            let Some(token) = whole.get(&id) else { continue };
            let list = if (id as usize) < count { &mut patched.changed } else { &mut patched.added };
            list.push(token.content.clone());
            if token.single_word {
                patched.single_word.push(token.content.clone());
            }
            let kind = if token.special { kind::CONTROL } else { kind::USER_DEFINED };
            listed.insert(id, Listed { text: token.content.clone(), kind });
        }
        // what lies between the file's last token and the last added one has no name
        let end = listed.keys().last().map_or(count, |id| *id as usize);
        for id in (count..end).map(|id| id as u32) {
            listed.entry(id).or_insert_with(|| Listed {
                text: self.id_to_token(id).unwrap_or_else(|| format!("[PAD{id}]")),
                kind: kind::UNUSED,
            });
        }
        patched.added.sort_unstable_by_key(|token| self.token_to_id(token));
        Ok(listed)
    }
}
