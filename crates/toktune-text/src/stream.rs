//! Decoding a growing list of ids without ever tearing a character.

use crate::{AutoTokenizer, Result};

/// More tokens than this are never held back: a character has at most four bytes, so a longer tail of
/// incomplete text is broken for good, and waiting for its end would grow without bound.
const LONGEST_HOLD: usize = 16;

/// Turns ids into text one at a time, as a model generates them.
///
/// A token's text depends on its neighbours (a leading space, the bytes of one character spread over tokens),
/// so each piece is the difference between two decodings of a short window: with and without the new ids.
#[derive(Debug)]
pub struct DecodeStream<'t> {
    tokenizer: &'t AutoTokenizer,
    skip_special_tokens: bool,
    /// The window: ids whose text was given out, then ids that still wait.
    ids: Vec<u32>,
    /// How many ids of the window were given out.
    done: usize,
}

impl AutoTokenizer {
    /// Starts decoding ids one at a time, in whole characters.
    pub fn decode_stream(&self, skip_special_tokens: bool) -> DecodeStream<'_> {
        DecodeStream::new(self, skip_special_tokens)
    }
}

impl<'t> DecodeStream<'t> {
    /// A stream at the start of a text.
    fn new(tokenizer: &'t AutoTokenizer, skip_special_tokens: bool) -> Self {
        DecodeStream { tokenizer, skip_special_tokens, ids: Vec::new(), done: 0 }
    }

    /// Takes the next id; gives text as soon as it is whole, `None` while a character is incomplete.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        self.ids.push(id);
        self.take(self.ids.len() - self.done > LONGEST_HOLD)
    }

    /// The text still held back when the ids end, replacement characters and all.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn finish(&mut self) -> Result<Option<String>> {
        self.take(true)
    }

    fn take(&mut self, even_torn: bool) -> Result<Option<String>> {
        let old = self.tokenizer.decode(&self.ids[..self.done], self.skip_special_tokens)?;
        let all = self.tokenizer.decode(&self.ids, self.skip_special_tokens)?;
        if all.len() <= old.len() || (all.ends_with('\u{fffd}') && !even_torn) {
            return Ok(None);
        }
        // A decoder may change the end of the old text when more follows; then the difference starts at the
        // last place where both agree, which is what a reader of a stream can still be shown.
        let agree = old.bytes().zip(all.bytes()).take_while(|(a, b)| a == b).count();
        let start = if all.starts_with(&old) { old.len() } else { floor_char_boundary(&all, agree) };
        let piece = all[start..].to_owned();
        // The ids given out just now stay in the window as context for what follows.
        self.ids.drain(..self.done);
        self.done = self.ids.len();
        Ok(Some(piece))
    }
}

/// The last character boundary at or before `index`.
fn floor_char_boundary(text: &str, index: usize) -> usize {
    (0..=index.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}
