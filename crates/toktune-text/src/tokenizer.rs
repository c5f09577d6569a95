//! The tokenizer: ids to text and back, added tokens, named special tokens.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use crate::class::Class;
use crate::guard::guarded;
use crate::special::SpecialTokens;
use crate::{Result, TextError};

/// Tokens before and behind a text.
pub(crate) type Frame = (Vec<u32>, Vec<u32>);

/// A tokenizer with everything transformers keeps around it; named after transformers' `AutoTokenizer`.
///
/// Read it with [`AutoTokenizer::from_pretrained`] or build it from a GGUF file's metadata with
/// [`GgufTokenizer::build`](crate::GgufTokenizer::build).
#[derive(Debug, Clone)]
pub struct AutoTokenizer {
    pub(crate) inner: Tokenizer,
    /// The fields of `tokenizer_config.json` as read, written back on saving.
    pub(crate) config: Map<String, Value>,
    pub(crate) special: SpecialTokens,
    /// Ids that end a text besides `eos_token` (generation_config.json, GGUF's end of turn).
    pub(crate) stop_ids: Vec<u32>,
    /// transformers' class, as far as it matters.
    pub(crate) class: Class,
    /// Of a translation model: the tokens around a target, and that of its language where one is set.
    pub(crate) target_frame: Option<Frame>,
    pub(crate) target_language: Option<u32>,
    /// What tokens mean, in words, where somebody said so.
    pub(crate) descriptions: BTreeMap<u32, String>,
    /// Chat templates by name; the usual one is called `default`.
    pub(crate) templates: BTreeMap<String, String>,
}

impl AutoTokenizer {
    /// A bare tokenizer, with truncation and padding off: a file may carry either, and transformers too turns
    /// both off unless a call asks for them.
    pub(crate) fn from_inner(mut inner: Tokenizer) -> Result<Self, TextError> {
        inner.with_truncation(None).map_err(TextError::tokenizer("turn truncation off"))?;
        inner.with_padding(None);
        Ok(AutoTokenizer {
            inner,
            config: Map::new(),
            special: SpecialTokens::default(),
            stop_ids: Vec::new(),
            class: Class::Backend,
            target_frame: None,
            target_language: None,
            descriptions: BTreeMap::new(),
            templates: BTreeMap::new(),
        })
    }

    /// The ids of a text. With `add_special_tokens` the tokenizer's own frame is put around it (often `bos`).
    ///
    /// # Errors
    /// When the tokenizer's model fails on the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = guarded("encode", || self.inner.encode_fast(text, add_special_tokens))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a text, each with the end of its piece as a byte offset into the text.
    ///
    /// # Errors
    /// When the tokenizer's model fails on the text.
    pub fn encode_with_offsets(&self, text: &str) -> Result<Vec<(u32, (usize, usize))>> {
        let encoding = guarded("encode", || self.inner.encode(text, false))?;
        Ok(encoding.get_ids().iter().copied().zip(encoding.get_offsets().iter().copied()).collect())
    }

    /// The text of some ids. Ids that the tokenizer does not know leave nothing behind, as in transformers.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        guarded("decode", || self.inner.decode(ids, skip_special_tokens))
    }

    /// The id of a token, spelled as the vocabulary spells it (`Ġthe`, not ` the`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The vocabulary's spelling of an id.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        // The crate would give an added token's normalised spelling, which the user never typed.
        match self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id) {
            Some(token) => Some(token.content.clone()),
            None => self.inner.id_to_token(id),
        }
    }

    /// The number of tokens, added ones included: Python's `len(tokenizer)`. A model may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The rows that a model needs for this tokenizer: one more than the highest id, which is more than the number of tokens
    /// where ids have holes.
    pub fn required_rows(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |highest| highest as usize + 1)
    }

    /// Whether an id is left out by `skip_special_tokens`.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        added.get(&id).is_some_and(|token| token.special)
    }

    /// The ids of all special tokens: the named ones, and those that are left out by `skip_special_tokens`.
    pub fn special_ids(&self) -> Vec<u32> {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let mut ids: Vec<u32> = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        ids.extend(self.special.iter().filter_map(|(_, token)| self.token_to_id(token)));
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Gives the parts that decide which ids become of a text or a conversation, for a hash of them.
    ///
    /// # Errors
    /// When the tokenizer cannot be written down.
    pub fn fingerprint(&self, part: &mut dyn FnMut(&str)) -> Result<()> {
        part(&guarded("write down", || self.inner.to_string(false))?);
        for (name, token) in self.special.iter() {
            part(name);
            part(token);
        }
        for (name, template) in &self.templates {
            part(name);
            part(template);
        }
        part(&format!("{:?}", self.target_frame));
        Ok(())
    }

    /// The token that begins a text.
    pub fn bos_token(&self) -> Option<&str> {
        self.special.get("bos_token")
    }

    /// The token that ends a text.
    pub fn eos_token(&self) -> Option<&str> {
        self.special.get("eos_token")
    }

    /// The token that fills short rows of a padded batch.
    pub fn pad_token(&self) -> Option<&str> {
        self.special.get("pad_token")
    }

    /// The token that stands for what the vocabulary cannot spell.
    pub fn unk_token(&self) -> Option<&str> {
        self.special.get("unk_token")
    }

    /// The token that stands for a hidden one in a masked language model.
    pub fn mask_token(&self) -> Option<&str> {
        self.special.get("mask_token")
    }

    /// The token that carries one of transformers' names: `bos_token`, `eos_token`, `unk_token`, `sep_token`, `pad_token`, `cls_token`
    /// or `mask_token`.
    pub fn named_token(&self, name: &str) -> Option<&str> {
        self.special.get(name)
    }

    /// The names that tokens carry, with the tokens.
    pub fn named_tokens(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.special.iter()
    }

    /// Names the token that fills short rows of a padded batch, and is saved as such.
    ///
    /// # Errors
    /// The vocabulary has no such token.
    pub fn set_pad_token(&mut self, token: &str) -> Result<()> {
        if self.token_to_id(token).is_none() {
            let nearest = self.nearest_tokens(token, 1).into_iter().next();
            return Err(TextError::NoToken { token: token.to_owned(), nearest });
        }
        self.special.set("pad_token", token);
        Ok(())
    }

    /// A field of `tokenizer_config.json`, as it was read or [set](Self::set_field).
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.config.get(name)
    }

    /// Sets a field of `tokenizer_config.json` that decides nothing here and is saved for who reads the folder (`padding_side`).
    pub fn set_field(&mut self, name: &str, value: Value) {
        self.config.insert(name.to_owned(), value);
    }

    /// Every token of the vocabulary with its id, added ones included, in the order of the ids.
    pub fn vocabulary(&self) -> Vec<(String, u32)> {
        let mut all: Vec<(String, u32)> = self.inner.get_vocab(true).into_iter().collect();
        all.sort_unstable_by_key(|(_, id)| *id);
        all
    }

    /// The id of [`bos_token`](Self::bos_token).
    pub fn bos_token_id(&self) -> Option<u32> {
        self.token_to_id(self.bos_token()?)
    }

    /// The id of [`eos_token`](Self::eos_token).
    pub fn eos_token_id(&self) -> Option<u32> {
        self.token_to_id(self.eos_token()?)
    }

    /// The id of [`pad_token`](Self::pad_token).
    pub fn pad_token_id(&self) -> Option<u32> {
        self.token_to_id(self.pad_token()?)
    }

    /// The id of [`unk_token`](Self::unk_token).
    pub fn unk_token_id(&self) -> Option<u32> {
        self.token_to_id(self.unk_token()?)
    }

    /// The id of [`mask_token`](Self::mask_token).
    pub fn mask_token_id(&self) -> Option<u32> {
        self.token_to_id(self.mask_token()?)
    }

    /// Says what a token means, in words.
    pub fn describe(&mut self, id: u32, description: impl Into<String>) {
        self.descriptions.insert(id, description.into());
    }

    /// What a token means, where [`describe`](Self::describe) said so. Descriptions are kept for a run and its model card,
    /// and are no part of a tokenizer's files.
    pub fn description(&self, id: u32) -> Option<&str> {
        self.descriptions.get(&id).map(String::as_str)
    }

    /// The chat template's source: the one called `default`.
    pub fn chat_template(&self) -> Option<&str> {
        self.templates.get("default").map(String::as_str)
    }

    /// Every chat template by name.
    pub fn chat_templates(&self) -> &BTreeMap<String, String> {
        &self.templates
    }

    /// Sets the chat template, in place of all that there are, as transformers' `tokenizer.chat_template = source` does.
    pub fn set_chat_template(&mut self, source: impl Into<String>) {
        self.templates = BTreeMap::from([("default".to_owned(), source.into())]);
    }

    /// The `n` tokens whose spelling is nearest to `wanted`, nearest first: for messages about an unknown
    /// token. A leading space mark (`Ġ`, `▁`) is not counted as a difference.
    pub fn nearest_tokens(&self, wanted: &str, n: usize) -> Vec<String> {
        let limit = wanted.chars().count().div_ceil(3).max(1);
        let counts = byte_counts(wanted);
        let mut found: Vec<(usize, String)> = Vec::new();
        for token in self.inner.get_vocab(true).into_keys() {
            let bare = token.trim_start_matches(['\u{0120}', '\u{2581}']);
            // A cheap bound that is never above the distance in bytes spares most of the exact computations.
            if bag_distance(&counts, wanted.len(), bare) > 4 * limit {
                continue;
            }
            let distance = strsim::damerau_levenshtein(wanted, bare);
            if distance <= limit {
                found.push((distance, token));
            }
        }
        found.sort();
        found.into_iter().take(n).map(|(_, token)| token).collect()
    }
}

/// How often each byte occurs.
fn byte_counts(text: &str) -> [i32; 256] {
    let mut counts = [0; 256];
    for byte in text.bytes() {
        counts[usize::from(byte)] += 1;
    }
    counts
}

/// How many bytes of the longer text have no partner in the other: a lower bound of the edit distance in
/// bytes (a changed character changes at most four bytes).
fn bag_distance(counts: &[i32; 256], length: usize, other: &str) -> usize {
    let mut left = *counts;
    let mut shared = 0;
    for byte in other.bytes() {
        let count = &mut left[usize::from(byte)];
        if *count > 0 {
            *count -= 1;
            shared += 1;
        }
    }
    length.max(other.len()) - shared
}
