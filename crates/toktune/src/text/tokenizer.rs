//! The tokenizer: ids to text and back, added tokens, named special tokens.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value, json};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Model, NormalizedString, Normalizer, Tokenizer};

use super::special::SpecialTokens;
use super::{DecodeStream, TextError};
use crate::Result;

/// A tokenizer with everything transformers keeps around it; named after transformers' `AutoTokenizer`.
///
/// Read it with [`AutoTokenizer::from_pretrained`] or build it from a GGUF file's metadata with
/// [`GgufTokenizer::build`](super::GgufTokenizer::build).
#[derive(Debug, Clone)]
pub struct AutoTokenizer {
    pub(crate) inner: Tokenizer,
    /// The fields of `tokenizer_config.json` as read, written back on saving.
    pub(crate) config: Map<String, Value>,
    pub(crate) special: SpecialTokens,
    /// Ids that end a text besides `eos_token` (generation_config.json, GGUF's end of turn).
    pub(crate) stop_ids: Vec<u32>,
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
            templates: BTreeMap::new(),
        })
    }

    /// The ids of a text. With `add_special_tokens` the tokenizer's own frame is put around it (often `bos`).
    ///
    /// # Errors
    /// When the tokenizer's model fails on the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding =
            self.inner.encode_fast(text, add_special_tokens).map_err(TextError::tokenizer("encode"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a text that is to be gone on from: what the tokenizer puts before a text (often `bos`), then the text,
    /// and nothing behind it.
    ///
    /// # Errors
    /// When the tokenizer's model fails on the text.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.frame_before()?;
        ids.extend(self.encode(text, false)?);
        Ok(ids)
    }

    /// What the tokenizer puts before a text.
    fn frame_before(&self) -> Result<Vec<u32>> {
        Ok(self.frame_around()?.0)
    }

    /// What the tokenizer puts before and behind a text: the frame is not stated anywhere, so it is read off an
    /// example.
    pub(crate) fn frame_around(&self) -> Result<(Vec<u32>, Vec<u32>)> {
        let (bare, mut framed) = (self.encode("a", false)?, self.encode("a", true)?);
        let Some(start) = framed.windows(bare.len().max(1)).position(|window| window == bare) else {
            return Ok((Vec::new(), Vec::new()));
        };
        let behind = framed.split_off(start + bare.len());
        framed.truncate(start);
        Ok((framed, behind))
    }

    /// The ids of a text, each with the end of its piece as a byte offset into the text.
    ///
    /// # Errors
    /// When the tokenizer's model fails on the text.
    pub(crate) fn encode_with_offsets(&self, text: &str) -> Result<Vec<(u32, (usize, usize))>> {
        let encoding = self.inner.encode(text, false).map_err(TextError::tokenizer("encode"))?;
        Ok(encoding.get_ids().iter().copied().zip(encoding.get_offsets().iter().copied()).collect())
    }

    /// The text of some ids. Ids that the tokenizer does not know leave nothing behind, as in transformers.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        Ok(self.inner.decode(ids, skip_special_tokens).map_err(TextError::tokenizer("decode"))?)
    }

    /// Starts decoding ids one at a time, in whole characters.
    pub fn decode_stream(&self, skip_special_tokens: bool) -> DecodeStream<'_> {
        DecodeStream::new(self, skip_special_tokens)
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

    /// Adds ordinary tokens: matched whole in the text before anything else, and shown when decoding.
    ///
    /// Gives the ids in order. A token that the vocabulary has keeps its id and from now on is matched whole,
    /// as in transformers; a token that was added before stays as it is.
    ///
    /// # Errors
    /// An empty token, or a vocabulary whose next free id is taken.
    pub fn add_tokens(&mut self, tokens: &[&str]) -> Result<Vec<u32>> {
        self.add(tokens, false)
    }

    /// Adds special tokens: like [`add_tokens`](Self::add_tokens), but left out when decoding without special
    /// tokens. A token that was added before as an ordinary one becomes special.
    ///
    /// # Errors
    /// An empty token, or a vocabulary whose next free id is taken.
    pub fn add_special_tokens(&mut self, tokens: &[&str]) -> Result<Vec<u32>> {
        self.add(tokens, true)
    }

    fn add(&mut self, tokens: &[&str], special: bool) -> Result<Vec<u32>> {
        if let Some(index) = tokens.iter().position(|token| token.is_empty()) {
            return Err(TextError::EmptyToken { index: index + 1 }.into());
        }
        self.check_free_ids(tokens)?;
        let known = self.inner.get_added_vocabulary();
        let wanted: Vec<AddedToken> = tokens
            .iter()
            .filter(|token| {
                let added = known.get_vocab().get(**token);
                let old = added.and_then(|id| known.get_added_tokens_decoder().get(id));
                old.is_none_or(|old| special && !old.special)
            })
            .map(|token| self.added_token(token, special))
            .collect();
        // One call for all of them: each call of the crate rebuilds the automaton over every added token.
        self.inner.add_tokens(wanted).map_err(TextError::tokenizer("add tokens"))?;
        tokens
            .iter()
            .map(|token| {
                let missing =
                    || TextError::Tokenizer { action: "add tokens", reason: format!("`{token}` was lost") };
                Ok(self.inner.token_to_id(token).ok_or_else(missing)?)
            })
            .collect()
    }

    /// The crate numbers new tokens from the *count* of the vocabulary, which is an id in use when ids have
    /// holes.
    fn check_free_ids(&self, tokens: &[&str]) -> Result<(), TextError> {
        let size = self.inner.get_model().get_vocab_size() as u32;
        let highest = self.inner.get_added_vocabulary().get_added_tokens_decoder().keys().max();
        let first = highest.map_or(size, |highest| size.max(highest.saturating_add(1)));
        let mut seen = HashSet::new();
        let unseen =
            tokens.iter().filter(|token| self.inner.token_to_id(token).is_none() && seen.insert(**token));
        for (id, token) in (first..).zip(unseen) {
            if let Some(taken) = self.inner.get_model().id_to_token(id) {
                return Err(TextError::TokenIdTaken { token: (*token).to_owned(), id, taken });
            }
        }
        Ok(())
    }

    /// A token with transformers' flags: ordinary ones are looked for in the normalised text.
    ///
    /// Except where the normaliser puts `▁` before every piece of text: there the pattern would become
    /// `▁<calc>`, which the middle of a text never contains, so the token would never be produced.
    fn added_token(&self, content: &str, special: bool) -> AddedToken {
        let token = AddedToken::from(content, special);
        let Some(normalizer) = self.inner.get_normalizer().filter(|_| !special) else { return token };
        let mut normalized = NormalizedString::from(content);
        let prefixed = normalizer.normalize(&mut normalized).is_ok()
            && normalized.get().starts_with('\u{2581}')
            && !content.starts_with([' ', '\u{2581}']);
        token.normalized(!prefixed)
    }

    /// Puts `bos` before and `eos` behind every text that is encoded with special tokens; the crate's name
    /// for this is a template.
    pub(crate) fn frame(&mut self, bos: Option<&str>, eos: Option<&str>) -> Result<(), TextError> {
        let known =
            |token: Option<&str>| token.and_then(|token| Some((token.to_owned(), self.token_to_id(token)?)));
        let (bos, eos) = (known(bos), known(eos));
        let piece = |token: &Option<(String, u32)>, kind: u32| {
            token.as_ref().map(|(token, _)| json!({"SpecialToken": {"id": token, "type_id": kind}}))
        };
        let framed = |sequence: &str, kind: u32| -> Vec<Value> {
            let middle = json!({"Sequence": {"id": sequence, "type_id": kind}});
            [piece(&bos, kind), Some(middle), piece(&eos, kind)].into_iter().flatten().collect()
        };
        let pair = [framed("A", 0), framed("B", 1)].concat();
        let tokens: Map<String, Value> = [&bos, &eos]
            .into_iter()
            .flatten()
            .map(|(token, id)| (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]})))
            .collect();
        // As JSON, because the crate's own builder cuts a token at `:` and takes `$` for a sequence.
        let processor: TemplateProcessing = serde_json::from_value(json!({
            "type": "TemplateProcessing",
            "single": framed("A", 0),
            "pair": pair,
            "special_tokens": tokens,
        }))
        .map_err(|reason| TextError::Tokenizer { action: "set bos and eos", reason: reason.to_string() })?;
        self.inner.with_post_processor(Some(processor));
        Ok(())
    }

    /// Gives the parts that decide which ids become of a text or a conversation, for a hash of them.
    ///
    /// # Errors
    /// When the tokenizer cannot be written down.
    pub(crate) fn fingerprint(&self, part: &mut dyn FnMut(&str)) -> Result<()> {
        part(&self.inner.to_string(false).map_err(TextError::tokenizer("write down"))?);
        for (name, token) in self.special.iter() {
            part(name);
            part(token);
        }
        for (name, template) in &self.templates {
            part(name);
            part(template);
        }
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

    /// Every id that ends a generated text: `eos_token`, then what generation_config.json or the GGUF file
    /// adds.
    pub fn eos_token_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = Vec::new();
        for id in self.eos_token_id().into_iter().chain(self.stop_ids.iter().copied()) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// The chat template's source: the one called `default`.
    pub fn chat_template(&self) -> Option<&str> {
        self.templates.get("default").map(String::as_str)
    }

    /// Every chat template by name.
    pub fn chat_templates(&self) -> &BTreeMap<String, String> {
        &self.templates
    }

    /// Sets the chat template called `default`.
    pub fn set_chat_template(&mut self, source: impl Into<String>) {
        self.templates.insert("default".to_owned(), source.into());
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
