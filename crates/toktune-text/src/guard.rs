//! The tokenizers crate behind a guard: a `tokenizer.json` from outside is looked through before the crate allocates by what
//! it says, and a panic of the crate is an error.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::Once;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use tokenizers::Tokenizer;

use crate::TextError;

/// Ids may have this many holes, and as many more as there are tokens: what is allocated by id stays in proportion to the
/// file.
const MOST_HOLES: u64 = 1 << 16;

thread_local! {
    /// Whether a panic of this thread is caught and told as an error.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a call of the crate; what fails and what panics are both errors.
pub(super) fn guarded<T>(
    action: &'static str,
    call: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T, TextError> {
    silence();
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(outer);
    let panicked = |payload: Box<dyn std::any::Any + Send>| {
        let said = payload.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        let reason = format!("the tokenizer's rules do not fit together ({})", shortened(said));
        TextError::Tokenizer { action, reason }
    };
    result.map_err(panicked)?.map_err(TextError::tokenizer(action))
}

/// A panic is printed by a hook before it can be caught, and a library does not print.
fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                usual(info);
            }
        }));
    });
}

/// Reads a `tokenizer.json`.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Tokenizer, TextError> {
    let wrong =
        |reason: String| TextError::TokenizerFile { path: path.to_owned(), reason: shortened(&reason) };
    let outline: Outline = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    let vocabulary = outline.model.map(|model| model.vocab).unwrap_or_default();
    let added = outline.added_tokens.unwrap_or_default();
    let highest = added.iter().map(|token| token.id).max().max(vocabulary.highest);
    check_ids(path, vocabulary.count + added.len() as u64, highest)?;
    let tokenizer = guarded("read", || Tokenizer::from_bytes(bytes)).map_err(|error| match error {
        TextError::Tokenizer { reason, .. } => wrong(reason),
        other => other,
    })?;
    // the crate numbers added tokens itself, and takes the id of another token where the vocabulary has holes
    for added in added {
        use tokenizers::Model as _;
        let Some(found) = tokenizer.token_to_id(&added.content) else { continue };
        let taken = tokenizer.get_model().id_to_token(found).is_some_and(|token| token != added.content);
        if u64::from(found) != added.id && taken {
            let (path, token, expected) = (path.to_owned(), added.content, added.id);
            return Err(TextError::AddedTokenId { path, token, found, expected });
        }
    }
    Ok(tokenizer)
}

/// Checks that a vocabulary's ids are no excuse for an allocation.
pub(super) fn check_ids(path: &Path, count: u64, highest: Option<u64>) -> Result<(), TextError> {
    let most = count.saturating_mul(2).saturating_add(MOST_HOLES).min(u64::from(u32::MAX >> 1));
    match highest.filter(|highest| *highest > most) {
        Some(id) => Err(TextError::IdTooHigh { path: path.to_owned(), id, tokens: count, most }),
        None => Ok(()),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(300) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// What is looked at before the crate reads.
#[derive(Deserialize)]
struct Outline {
    model: Option<ModelOutline>,
    added_tokens: Option<Vec<AddedOutline>>,
}

#[derive(Deserialize)]
struct ModelOutline {
    #[serde(default)]
    vocab: Vocabulary,
}

#[derive(Deserialize)]
struct AddedOutline {
    id: u64,
    content: String,
}

/// A vocabulary's number of tokens and highest id.
#[derive(Default)]
struct Vocabulary {
    count: u64,
    highest: Option<u64>,
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counter;
        impl<'de> Visitor<'de> for Counter {
            type Value = Vocabulary;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a vocabulary: an object of ids, or a list of pieces with scores")
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Vocabulary, E> {
                Err(E::custom("the model's `vocab` is null"))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut found = Vocabulary::default();
                while map.next_key::<IgnoredAny>()?.is_some() {
                    let id: u64 = map.next_value().map_err(|_| A::Error::custom("a token's id is no id"))?;
                    found.count += 1;
                    found.highest = found.highest.max(Some(id));
                }
                Ok(found)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pieces: A) -> Result<Vocabulary, A::Error> {
                let mut found = Vocabulary::default();
                while pieces.next_element::<IgnoredAny>()?.is_some() {
                    found.highest = Some(found.count);
                    found.count += 1;
                }
                Ok(found)
            }
        }
        deserializer.deserialize_any(Counter)
    }
}
