//! A word in texts: which tokens it is cut into there, and which token to add where it is cut into several.

use std::collections::BTreeMap;

use super::{AutoTokenizer, NewToken, TextError};
use crate::Result;

/// Texts with the word that are kept to try a new token on.
const SAMPLES: usize = 64;
/// The longest of them, in bytes.
const LONGEST_SAMPLE: usize = 4096;

/// How a word comes up in texts: as typed and with its first letter in the other case.
#[derive(Debug, Clone, Default)]
pub struct WordUse {
    word: String,
    variants: Vec<String>,
    /// Tokens that are the whole word where it stands, with how often.
    pub tokens: BTreeMap<u32, usize>,
    /// Spellings (with the space before it, where one stands there) that are cut into several tokens, with how often.
    pub in_pieces: BTreeMap<String, usize>,
    /// How often it stands at the beginning of a longer word, and elsewhere in one.
    pub inside: (usize, usize),
    /// A longer word.
    pub longer: Option<String>,
    samples: Vec<String>,
}

/// What became of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordTokens {
    /// The tokens whose rows are to be trained, the commonest first.
    pub ids: Vec<u32>,
    /// The spelling that was added, where the vocabulary had none that comes up.
    pub added: Option<String>,
    /// Whether texts with the new token decode with other spaces than they had: some SentencePiece tokenizers put one
    /// behind every added token.
    pub other_spaces: bool,
}

impl WordUse {
    /// Nothing is read yet. Spaces around the word play no part.
    pub fn new(word: &str) -> Self {
        let word = word.trim().to_owned();
        let mut letters = word.chars();
        let other: String = match letters.next() {
            Some(first) if first.is_lowercase() => first.to_uppercase().chain(letters).collect(),
            Some(first) => first.to_lowercase().chain(letters).collect(),
            None => String::new(),
        };
        let mut variants = vec![word.clone()];
        if other != word {
            variants.push(other);
        }
        WordUse { word, variants, ..WordUse::default() }
    }

    /// The word.
    pub fn word(&self) -> &str {
        &self.word
    }

    /// Looks for the word in a text.
    ///
    /// # Errors
    /// When the tokenizer's model fails on the text.
    pub fn read(&mut self, tokenizer: &AutoTokenizer, text: &str) -> Result<()> {
        let places: Vec<(usize, usize)> = self
            .variants
            .iter()
            .filter(|variant| !variant.is_empty())
            .flat_map(|variant| {
                text.match_indices(variant.as_str()).map(|(at, found)| (at, at + found.len()))
            })
            .collect();
        if places.is_empty() {
            return Ok(());
        }
        // by the end of each token, where it begins
        let mut tokens: BTreeMap<usize, (usize, u32)> = BTreeMap::new();
        for (id, (start, end)) in tokenizer.encode_with_offsets(text)? {
            tokens.insert(end, (start, id));
        }
        for (start, end) in places {
            let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
            let before = text[..start].chars().next_back();
            let after = text[end..].chars().next();
            if before.is_some_and(is_word) || after.is_some_and(is_word) {
                let begins = !before.is_some_and(is_word);
                *(if begins { &mut self.inside.0 } else { &mut self.inside.1 }) += 1;
                self.longer.get_or_insert_with(|| around(text, start, end, is_word));
                continue;
            }
            let spaced = before == Some(' ');
            match tokens.get(&end) {
                Some((from, id))
                    if (*from == start || spaced && *from + 1 == start)
                        && is_spelled(tokenizer, *id, &text[start..end]) =>
                {
                    *self.tokens.entry(*id).or_default() += 1;
                }
                _ => {
                    let form = format!("{}{}", if spaced { " " } else { "" }, &text[start..end]);
                    *self.in_pieces.entry(form).or_default() += 1;
                    if self.samples.len() < SAMPLES {
                        self.samples.push(sample(text, start, end));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether a token is that word: what stands for unknown words is not.
fn is_spelled(tokenizer: &AutoTokenizer, id: u32, word: &str) -> bool {
    let piece = tokenizer.piece_text(id).unwrap_or_default();
    piece.trim().to_lowercase() == word.to_lowercase()
}

/// Whether a text has the words of two others, now of this one and now of that, whatever lies between.
fn same_words(found: &str, one: &str, other: &str) -> bool {
    let words = |text: &'_ str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
    let (found, one, other) = (words(found), words(one), words(other));
    let is_there = |(at, word): (usize, &String)| one.get(at) == Some(word) || other.get(at) == Some(word);
    found.len() == other.len() && found.iter().enumerate().all(is_there)
}

/// The longer word around a place.
fn around(text: &str, start: usize, end: usize, is_word: impl Fn(char) -> bool) -> String {
    let from = text[..start].char_indices().rev().take_while(|(_, letter)| is_word(*letter)).last();
    let to = text[end..].char_indices().find(|(_, letter)| !is_word(*letter));
    let to = to.map_or(text.len(), |(at, _)| end + at);
    text[from.map_or(start, |(at, _)| at)..to].chars().take(60).collect()
}

/// The text around a place.
fn sample(text: &str, start: usize, end: usize) -> String {
    let from = (0..=start.saturating_sub(LONGEST_SAMPLE / 2)).rev().find(|at| text.is_char_boundary(*at));
    let to = (end.saturating_add(LONGEST_SAMPLE / 2).min(text.len())..=text.len())
        .find(|at| text.is_char_boundary(*at));
    text[from.unwrap_or(0)..to.unwrap_or(text.len())].to_owned()
}

impl AutoTokenizer {
    /// The tokens to train for a word: those that it is where it comes up, or else a new one for the commonest spelling,
    /// which is then found in these texts, and decodes to them.
    ///
    /// On byte-level and SentencePiece vocabularies a token with the space before the word (` medical`) leaves no stray space
    /// behind but also begins ` medically`; a bare one stands for whole words alone.
    ///
    /// # Errors
    /// The word does not come up by itself; no way to add it would ever be found in the texts, or decode to them.
    pub fn add_word(&mut self, word: &WordUse) -> Result<WordTokens> {
        if !word.tokens.is_empty() {
            let mut ids: Vec<(u32, usize)> = word.tokens.iter().map(|(id, count)| (*id, *count)).collect();
            ids.sort_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
            return Ok(WordTokens {
                ids: ids.into_iter().map(|(id, _)| id).collect(),
                added: None,
                other_spaces: false,
            });
        }
        let refused = |reason: String| TextError::Word { word: word.word.clone(), reason };
        let commonest = word.in_pieces.iter().max_by_key(|(_, count)| **count);
        let Some((form, _)) = commonest else {
            let inside = word.longer.as_ref().map(|longer| format!(", but inside others, as `{longer}`"));
            let reason = format!("it stands nowhere in the data as a word{}", inside.unwrap_or_default());
            return Err(refused(reason).into());
        };
        let bare = NewToken { single_word: true, ..NewToken::new(form.trim_start()) };
        let ways = match form.starts_with(' ') {
            true => vec![NewToken::new(form.as_str()), bare],
            false => vec![bare, NewToken::new(form.as_str())],
        };
        let mut second_best = None;
        for way in ways {
            let mut tried = self.clone();
            let id = tried.add_new_tokens(std::slice::from_ref(&way))?[0];
            let (mut found, mut is_kept, mut words_are_kept) = (0, true, true);
            for text in &word.samples {
                let ids = tried.encode(text, false)?;
                found += ids.iter().filter(|token| **token == id).count();
                let now = tried.decode(&ids, false)?;
                let before = self.decode(&self.encode(text, false)?, false)?;
                // where the word was unknown, the text itself is what it should become
                is_kept &= now == before || now == *text;
                words_are_kept &= same_words(&now, &before, text);
            }
            let tokens = WordTokens { ids: vec![id], added: Some(way.content), other_spaces: !is_kept };
            if found > 0 && is_kept {
                *self = tried;
                return Ok(tokens);
            }
            if found > 0 && words_are_kept && second_best.is_none() {
                second_best = Some((tried, tokens));
            }
        }
        if let Some((tried, tokens)) = second_best {
            *self = tried;
            return Ok(tokens);
        }
        let reason = "with this tokenizer an added token for it would not be found in the data, or would not decode to it";
        Err(refused(reason.to_owned()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::gguf::tests::{byte_level, sentence_piece};

    fn read(tokenizer: &AutoTokenizer, word: &str, texts: &[&str]) -> WordUse {
        let mut found = WordUse::new(word);
        for text in texts {
            found.read(tokenizer, text).unwrap();
        }
        found
    }

    #[test]
    fn the_tokens_that_a_word_is_are_found_and_counted() {
        let mut tokenizer = byte_level().build().unwrap();
        let word = read(&tokenizer, " the ", &["the the (the) The other theme", "a the"]);
        let [bare, spaced] = ["the", "\u{120}the"].map(|token| tokenizer.token_to_id(token).unwrap());
        assert_eq!(word.tokens, BTreeMap::from([(bare, 2), (spaced, 2)]));
        assert_eq!(word.in_pieces, BTreeMap::from([(" The".to_owned(), 1)]));
        assert_eq!((word.inside, word.longer.as_deref()), ((1, 1), Some("other")));
        let size = tokenizer.vocab_size();
        let found = tokenizer.add_word(&word).unwrap();
        assert_eq!(found, WordTokens { ids: vec![bare, spaced], added: None, other_spaces: false });
        assert_eq!(tokenizer.vocab_size(), size);
    }

    #[test]
    fn the_commonest_spelling_is_added_so_that_it_is_found_and_decodes() {
        let texts = ["a xyz b xyz\nxyz", "bab xyzzy"];
        for (metadata, puts_spaces) in
            [(byte_level(), false), (sentence_piece("gemma"), false), (sentence_piece("llama"), true)]
        {
            let mut tokenizer = metadata.build().unwrap();
            let before = tokenizer.clone();
            let word = read(&tokenizer, "xyz", &texts);
            assert_eq!((word.in_pieces[" xyz"], word.inside, word.in_pieces["xyz"]), (2, (1, 0), 1));
            let WordTokens { ids, added, other_spaces } = tokenizer.add_word(&word).unwrap();
            assert!(added.is_some() && ids == [before.vocab_size() as u32]);
            assert_eq!(other_spaces, puts_spaces);
            for text in &texts[..1] {
                let cut = tokenizer.encode(text, false).unwrap();
                assert!(cut.iter().filter(|id| **id == ids[0]).count() >= 2, "{added:?}: {cut:?}");
                let decoded = before.decode(&before.encode(text, false).unwrap(), false).unwrap();
                assert_eq!(tokenizer.decode(&cut, false).unwrap() != decoded, other_spaces);
            }
        }
        // a bare word is matched as a whole one alone
        let mut tokenizer = byte_level().build().unwrap();
        let word = read(&tokenizer, "xyz", &["(xyz) xyzzy", "xyz"]);
        let WordTokens { ids, added, other_spaces } = tokenizer.add_word(&word).unwrap();
        assert_eq!((added.as_deref(), other_spaces), (Some("xyz"), false));
        assert!(tokenizer.encode("(xyz)", false).unwrap().contains(&ids[0]));
        assert!(!tokenizer.encode("xyzzy", false).unwrap().contains(&ids[0]));
    }

    #[test]
    fn a_word_that_never_stands_alone_is_refused() {
        let mut tokenizer = byte_level().build().unwrap();
        let word = read(&tokenizer, "yzz", &["a xyzzy"]);
        let error = tokenizer.add_word(&word).unwrap_err().to_string();
        assert!(error.contains("`yzz`") && error.contains("inside others, as `xyzzy`"), "{error}");
        let word = read(&tokenizer, "none", &["a b"]);
        let error = tokenizer.add_word(&word).unwrap_err().to_string();
        assert!(error.ends_with("it stands nowhere in the data as a word"), "{error}");
    }
}
