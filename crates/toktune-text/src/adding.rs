//! Adding tokens: which ids they get, how they are matched, and what becomes of strings that the vocabulary has.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Model, NormalizedString, Normalizer, Tokenizer};

use crate::guard::guarded;
use crate::{AutoTokenizer, Result, TextError};

/// A token to add.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewToken {
    /// What it is in a text, or the vocabulary's spelling of that (`Ġ5` for ` 5`).
    pub content: String,
    /// Left out when decoding without special tokens.
    pub special: bool,
    /// Matched only where no letter, digit or underscore stands before or behind it.
    pub single_word: bool,
}

impl NewToken {
    /// An ordinary token.
    pub fn new(content: impl Into<String>) -> Self {
        NewToken { content: content.into(), ..NewToken::default() }
    }

    /// A special one.
    pub fn special(content: impl Into<String>) -> Self {
        NewToken { special: true, ..NewToken::new(content) }
    }
}

impl AutoTokenizer {
    /// Adds ordinary tokens: matched whole in the text before anything else, and shown when decoding.
    ///
    /// Gives the ids in order. A token that the vocabulary has keeps its id, and other text is cut as before, so that its
    /// row can be trained and the tokenizer stays the base's; transformers would match it whole from then on. A token
    /// that was added before stays as it is. A new one may be written as the vocabulary spells its pieces (`Ġ5`, `▁the`).
    ///
    /// # Errors
    /// An empty token; the tokenizer's own rules fail on one.
    pub fn add_tokens(&mut self, tokens: &[&str]) -> Result<Vec<u32>> {
        self.add_new_tokens(&tokens.iter().map(|token| NewToken::new(*token)).collect::<Vec<_>>())
    }

    /// Adds special tokens: like [`add_tokens`](Self::add_tokens), but left out when decoding without special
    /// tokens. A token that was added before as an ordinary one becomes special.
    ///
    /// # Errors
    /// As [`add_tokens`](Self::add_tokens).
    pub fn add_special_tokens(&mut self, tokens: &[&str]) -> Result<Vec<u32>> {
        self.add_new_tokens(&tokens.iter().map(|token| NewToken::special(*token)).collect::<Vec<_>>())
    }

    /// Adds tokens of both kinds; as [`add_tokens`](Self::add_tokens), which says what becomes of known ones.
    ///
    /// # Errors
    /// As [`add_tokens`](Self::add_tokens).
    pub fn add_new_tokens(&mut self, tokens: &[NewToken]) -> Result<Vec<u32>> {
        if let Some(index) = tokens.iter().position(|token| token.content.is_empty()) {
            return Err(TextError::EmptyToken { index: index + 1 });
        }
        let contents: Vec<String> = tokens.iter().map(|token| self.content_of(&token.content)).collect();
        let mut wanted = Vec::new();
        for (token, content) in tokens.iter().zip(&contents) {
            let added = self.inner.get_added_vocabulary();
            let old = added.get_vocab().get(content).and_then(|id| added.get_added_tokens_decoder().get(id));
            let needed = match (old, self.token_to_id(content)) {
                (Some(old), _) => token.special && !old.special,
                (None, Some(id)) => self.is_never_cut(content, id)?,
                (None, None) => true,
            };
            if needed {
                wanted.push(self.added_token(content, token.special).single_word(token.single_word));
            }
        }
        self.add_at_free_ids(wanted)?;
        contents
            .iter()
            .map(|token| {
                let missing =
                    || TextError::Tokenizer { action: "add tokens", reason: format!("`{token}` was lost") };
                self.inner.token_to_id(token).ok_or_else(missing)
            })
            .collect()
    }

    /// A token that was added, as it was; `None` of one that the vocabulary has itself.
    pub fn new_token(&self, id: u32) -> Option<NewToken> {
        let token = self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id)?;
        let (content, special, single_word) = (token.content.clone(), token.special, token.single_word);
        Some(NewToken { content, special, single_word })
    }

    /// What a token to add is called: itself where the vocabulary has it, else the text that it spells.
    pub(super) fn content_of(&self, written: &str) -> String {
        match self.token_to_id(written) {
            Some(_) => written.to_owned(),
            None => self.text_of_spelling(written).unwrap_or_else(|| written.to_owned()),
        }
    }

    /// Whether a token of the vocabulary looks like a control token and is not what its own text is cut into: only as a
    /// whole can it come up then.
    fn is_never_cut(&self, token: &str, id: u32) -> Result<bool> {
        let enclosed = [('<', '>'), ('[', ']'), ('{', '}')]
            .iter()
            .any(|(open, close)| token.len() > 2 && token.starts_with(*open) && token.ends_with(*close));
        Ok(enclosed && !self.encode(token, false)?.contains(&id))
    }

    /// Adds tokens to the crate's list, those that the vocabulary lacks at ids that are free.
    ///
    /// The crate numbers new tokens from the *count* of the vocabulary, which is an id in use when ids have holes. There,
    /// the holes are filled: they are rows that the model has, and a resize to `len(tokenizer)` keeps. The tokens are put
    /// into the model's own vocabulary, since the crate numbers its list anew whenever it reads one.
    pub(super) fn add_at_free_ids(&mut self, tokens: Vec<AddedToken>) -> Result<(), TextError> {
        let mut seen = HashSet::new();
        let unseen: Vec<String> = tokens
            .iter()
            .map(|token| &token.content)
            .filter(|token| self.inner.token_to_id(token).is_none() && seen.insert(token.as_str()))
            .cloned()
            .collect();
        let size = self.inner.get_model().get_vocab_size() as u32;
        let highest = self.inner.get_added_vocabulary().get_added_tokens_decoder().keys().max();
        let first = highest.map_or(size, |highest| size.max(highest.saturating_add(1)));
        let model = self.inner.get_model();
        if (first..).zip(&unseen).any(|(id, _)| model.id_to_token(id).is_some()) {
            let used: BTreeSet<u32> = self.inner.get_vocab(true).into_values().collect();
            let free = (0..=u32::MAX).filter(|id| !used.contains(id));
            let placed: HashMap<String, u32> = unseen.into_iter().zip(free).collect();
            self.change_json(|json| {
                if let Some(Value::Object(vocab)) =
                    json.get_mut("model").and_then(|model| model.get_mut("vocab"))
                {
                    vocab.extend(placed.into_iter().map(|(token, id)| (token, id.into())));
                }
            })?;
        }
        // One call for all of them: each call of the crate rebuilds the automaton over every added token.
        guarded("add tokens", || self.inner.add_tokens(tokens)).map(|_| ())
    }

    /// Changes the tokenizer as its file has it.
    pub(super) fn change_json(
        &mut self,
        change: impl FnOnce(&mut Map<String, Value>),
    ) -> Result<(), TextError> {
        let failed = |error: serde_json::Error| TextError::Tokenizer {
            action: "change the vocabulary",
            reason: error.to_string(),
        };
        let mut json = serde_json::to_value(&self.inner).map_err(failed)?;
        if let Value::Object(fields) = &mut json {
            change(fields);
        }
        self.inner = guarded("change the vocabulary", || Ok(serde_json::from_value::<Tokenizer>(json)?))?;
        Ok(())
    }

    /// A token with transformers' flags: ordinary ones are looked for in the normalised text.
    ///
    /// Except where the normaliser puts `▁` before every piece of text: there the pattern would become
    /// `▁<calc>`, which the middle of a text never contains, so the token would never be produced.
    pub(super) fn added_token(&self, content: &str, special: bool) -> AddedToken {
        let token = AddedToken::from(content, special);
        let Some(normalizer) = self.inner.get_normalizer().filter(|_| !special) else { return token };
        let normalised = |text: &str| -> Option<String> {
            let mut normalized = NormalizedString::from(text);
            guarded("normalise", || normalizer.normalize(&mut normalized)).ok()?;
            Some(normalized.get().to_owned())
        };
        // what a normaliser puts before every text, it puts before a letter
        let prefixed = normalised("a").is_some_and(|text| text.starts_with('\u{2581}'));
        token.normalized(!prefixed)
    }
}
