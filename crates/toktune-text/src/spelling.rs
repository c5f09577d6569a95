//! How a vocabulary spells its pieces: letters for bytes, a mark for a space, and what kind of token each is.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Serialize;

use crate::AutoTokenizer;
use crate::reserved::is_reserved;

/// SentencePiece's mark for a space.
pub(super) const SPACE: char = '\u{2581}';

/// GPT-2's letter for each byte: printable ones stand for themselves, the others follow from U+0100 on.
pub(crate) fn byte_letters() -> [char; 256] {
    let mut letters = ['\0'; 256];
    let mut next = 0x100;
    for byte in 0..=255u8 {
        letters[usize::from(byte)] = match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
        };
    }
    letters
}

/// The byte of each of these letters.
static BYTES: LazyLock<HashMap<char, u8>> =
    LazyLock::new(|| byte_letters().into_iter().zip(0..=255u8).collect());

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// A piece that text is cut into.
    Normal,
    /// A single byte, as a last resort for what the vocabulary cannot spell.
    Byte,
    /// Matched whole, and shown.
    Added,
    /// Matched whole, and left out of decoded text by default.
    Special,
    /// Kept by the model's makers for later use (`<|reserved_special_token_3|>`, `[unused5]`).
    Reserved,
}

impl TokenKind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            TokenKind::Normal => "normal",
            TokenKind::Byte => "byte",
            TokenKind::Added => "added",
            TokenKind::Special => "special",
            TokenKind::Reserved => "reserved",
        }
    }
}

impl AutoTokenizer {
    /// The text of a vocabulary's spelling: ` the` for `Ġthe` or `▁the`. `None` when it is no spelling of another text in
    /// this vocabulary.
    pub fn text_of_spelling(&self, written: &str) -> Option<String> {
        let rules = serde_json::to_string(&self.inner.get_decoder()).unwrap_or_default();
        if rules.contains("ByteLevel") {
            // letters such as `é` are bytes too, and mean themselves where somebody types them
            if !written.contains(['\u{120}', '\u{10a}', '\u{109}', '\u{10d}']) {
                return None;
            }
            let bytes =
                written.chars().map(|letter| BYTES.get(&letter).copied()).collect::<Option<Vec<u8>>>()?;
            return String::from_utf8(bytes).ok();
        }
        (written.contains(SPACE) && rules.contains(SPACE)).then(|| written.replace(SPACE, " "))
    }

    /// What a token adds to a text, as far as it can be told from the token alone; bytes that are no characters are
    /// shown as such.
    pub fn piece_text(&self, id: u32) -> Option<String> {
        let piece = self.id_to_token(id)?;
        if self.inner.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id) {
            return Some(piece);
        }
        let rules = serde_json::to_string(&self.inner.get_decoder()).unwrap_or_default();
        if rules.contains("ByteLevel") {
            let bytes = piece.chars().map(|letter| BYTES.get(&letter).copied()).collect::<Option<Vec<u8>>>();
            return Some(bytes.map_or(piece, |bytes| String::from_utf8_lossy(&bytes).into_owned()));
        }
        Some(piece.replace(SPACE, " "))
    }

    /// What kind of token an id is; `None` for an id without one.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        let piece = self.id_to_token(id)?;
        if is_reserved(&piece) {
            return Some(TokenKind::Reserved);
        }
        let is_named = self.special.iter().any(|(_, token)| token == piece);
        Some(match self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id) {
            Some(token) if token.special || is_named => TokenKind::Special,
            Some(_) => TokenKind::Added,
            None if is_named => TokenKind::Special,
            None if is_byte(&piece) => TokenKind::Byte,
            None => TokenKind::Normal,
        })
    }

    /// The tokens that are the same word with or without the space before it, or with its first letter in the other case.
    pub fn neighbours(&self, id: u32) -> Vec<u32> {
        let Some(text) = self.piece_text(id) else { return Vec::new() };
        let word = text.trim_start_matches(' ');
        let mut letters = word.chars();
        let other: String = match letters.next() {
            Some(first) if first.is_lowercase() => first.to_uppercase().chain(letters).collect(),
            Some(first) => first.to_lowercase().chain(letters).collect(),
            None => return Vec::new(),
        };
        let mut found = Vec::new();
        for word in [word, other.as_str()] {
            for spelling in
                [word.to_owned(), format!(" {word}"), format!("\u{120}{word}"), format!("{SPACE}{word}")]
            {
                found.extend(self.token_to_id(&spelling).filter(|other| *other != id));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The token of the same text with the space before it, or without where this one has it.
    pub fn space_twin(&self, id: u32) -> Option<u32> {
        let (piece, text) = (self.id_to_token(id)?, self.piece_text(id)?);
        let marks = ["\u{120}", "\u{2581}", " "];
        let (spellings, wanted): (Vec<String>, String) = match text.strip_prefix(' ') {
            Some(rest) if !rest.is_empty() => (
                marks.iter().filter_map(|mark| piece.strip_prefix(mark)).map(str::to_owned).collect(),
                rest.to_owned(),
            ),
            Some(_) => return None,
            None => (marks.iter().map(|mark| format!("{mark}{piece}")).collect(), format!(" {text}")),
        };
        let twins = spellings.iter().filter_map(|spelling| self.token_to_id(spelling));
        twins.into_iter().find(|twin| self.piece_text(*twin).as_ref() == Some(&wanted))
    }

    /// All ids with a token, in ascending order.
    pub fn ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.inner.get_vocab(true).into_values().collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// `<0x0A>`, SentencePiece's spelling of a byte.
fn is_byte(piece: &str) -> bool {
    let digits = piece.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}
