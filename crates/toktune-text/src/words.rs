//! A word in texts: which tokens it is cut into there, and which token to add where it is cut into several.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::{AutoTokenizer, NewToken, Result, TextError};

/// Texts with the word that are kept to try a new token on.
const SAMPLES: usize = 64;
/// The longest of them, in bytes.
const LONGEST_SAMPLE: usize = 4096;

/// How a word comes up in texts: as typed and with its first letter in the other case.
///
/// Where the word ends in a letter, a digit or an underscore, none may stand beside it. An end of another kind (`<<`) may
/// have anything beside it, and so may one of a script that puts no spaces between words.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct WordUse {
    word: String,
    variants: Vec<String>,
    /// Tokens that are the whole word where it stands, with how often.
    pub tokens: BTreeMap<u32, usize>,
    /// Spellings (with the space before it, where one stands there) that are cut into other tokens, with how often.
    pub in_pieces: BTreeMap<String, usize>,
    /// How often it stands at the beginning of a longer word, and elsewhere in one.
    pub inside: (usize, usize),
    /// A longer word.
    pub longer: Option<String>,
    /// Whether the token that is added for it is a special one, which decoding may leave out.
    pub special: bool,
    samples: Vec<String>,
}

/// What became of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WordTokens {
    /// The tokens whose rows are to be trained, the commonest first.
    pub ids: Vec<u32>,
    /// The spelling that was added, where the vocabulary had none that comes up.
    pub added: Option<String>,
    /// Whether texts with the new token decode with other spaces than they had: some SentencePiece tokenizers put one
    /// behind every added token.
    pub other_spaces: bool,
    /// How often the new token is found in longer words of the texts too.
    pub in_longer: usize,
    /// Spellings that none of these tokens stands for, with how often: other tokens are cut there.
    pub left: BTreeMap<String, usize>,
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

    /// Whether another use is of this word too: the case of the first letter plays no part.
    pub fn is_same_word(&self, other: &WordUse) -> bool {
        self.variants.contains(&other.word)
    }

    /// Looks for the word in a text.
    ///
    /// # Errors
    /// When the tokenizer's model fails on the text.
    pub fn read(&mut self, tokenizer: &AutoTokenizer, text: &str) -> Result<()> {
        self.read_within(tokenizer, text, &(0..text.len()))
    }

    /// Looks for the word where it begins at one of the bytes `own` of a text.
    ///
    /// # Errors
    /// When the tokenizer's model fails on the text.
    pub fn read_within(&mut self, tokenizer: &AutoTokenizer, text: &str, own: &Range<usize>) -> Result<()> {
        let places: Vec<(usize, usize)> = self
            .variants
            .iter()
            .filter(|variant| !variant.is_empty())
            .flat_map(|variant| {
                text.match_indices(variant.as_str()).map(|(at, found)| (at, at + found.len()))
            })
            .filter(|(at, _)| own.contains(at))
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
            let before = text[..start].chars().next_back();
            let (goes_back, goes_on) = goes_beyond(text, start..end);
            if goes_back || goes_on {
                *(if goes_back { &mut self.inside.1 } else { &mut self.inside.0 }) += 1;
                self.longer.get_or_insert_with(|| around(text, start, end));
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

/// Whether a letter makes a word longer. In scripts without spaces between words nothing can be told from a neighbour.
fn is_word(letter: char) -> bool {
    let is_unspaced = matches!(letter,
        // Thai and Lao, Myanmar, Khmer, kana, Han
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}');
    (letter.is_alphanumeric() || letter == '_') && !is_unspaced
}

/// Whether a word may not go on before it, and behind it.
fn has_bounds(word: &str) -> (bool, bool) {
    (word.chars().next().is_some_and(is_word), word.chars().next_back().is_some_and(is_word))
}

/// Whether letters make a word at a place longer: before it, and behind it.
fn goes_beyond(text: &str, word: Range<usize>) -> (bool, bool) {
    let (bound_before, bound_after) = has_bounds(&text[word.clone()]);
    let before = text[..word.start].chars().next_back();
    let after = text[word.end..].chars().next();
    (bound_before && before.is_some_and(is_word), bound_after && after.is_some_and(is_word))
}

/// Whether a word stands by itself at a place of a text, as [`WordUse`] tells it.
pub fn stands_alone(text: &str, word: Range<usize>) -> bool {
    goes_beyond(text, word) == (false, false)
}

/// A spelling behind what is no part of it: a stop before a word, a letter before anything else.
fn in_text(spelling: &str) -> String {
    let beside = if has_bounds(spelling.trim_start()).0 { '.' } else { 'a' };
    format!("{beside}{spelling}")
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
fn around(text: &str, start: usize, end: usize) -> String {
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
        let mut left = self.spellings(word)?;
        if !word.tokens.is_empty() {
            let mut ids: Vec<(u32, usize)> = word.tokens.iter().map(|(id, count)| (*id, *count)).collect();
            ids.sort_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
            let ids = ids.into_iter().map(|(id, _)| id).collect();
            return Ok(WordTokens { ids, added: None, other_spaces: false, in_longer: 0, left });
        }
        let Some((form, _)) = left.iter().max_by_key(|(_, count)| **count) else {
            let inside = word.longer.as_ref().map(|longer| format!(", but inside others, as `{longer}`"));
            let reason = format!("it stands nowhere in the data as a word{}", inside.unwrap_or_default());
            return Err(TextError::Word { word: word.word.clone(), reason });
        };
        let (token, id, other_spaces) = self.add_spelling(word, form)?;
        let in_longer = match (token.single_word, token.content.starts_with(' ')) {
            (true, _) => 0,
            (false, true) => word.inside.0,
            (false, false) => word.inside.0 + word.inside.1,
        };
        left.remove(&token.content);
        let mut others = BTreeMap::new();
        for (form, count) in left {
            if !self.encode(&in_text(&form), false)?.contains(&id) {
                others.insert(form, count);
            }
        }
        Ok(WordTokens { ids: vec![id], added: Some(token.content), other_spaces, in_longer, left: others })
    }

    /// A word's spellings with how often each comes up; one where the tokenizer makes no difference between the word with
    /// a space before it and without.
    fn spellings(&self, word: &WordUse) -> Result<BTreeMap<String, usize>> {
        let mut found = BTreeMap::new();
        for (form, count) in &word.in_pieces {
            let bare = form.trim_start();
            let is_bare = self.encode(&in_text(form), false)? == self.encode(&in_text(bare), false)?;
            *found.entry(if is_bare { bare } else { form }.to_owned()).or_default() += count;
        }
        Ok(found)
    }

    /// Adds a spelling of a word as a token that the samples have and decode to: with the space before it or without.
    /// Gives the token with its id, and whether texts with it decode with other spaces.
    fn add_spelling(&mut self, word: &WordUse, form: &str) -> Result<(NewToken, u32, bool)> {
        let single_word = has_bounds(form.trim_start()) == (true, true);
        let special = word.special;
        let bare = NewToken { single_word, special, ..NewToken::new(form.trim_start()) };
        let spaced = |form| NewToken { special, ..NewToken::new(form) };
        let ways = match form.starts_with(' ') {
            true => vec![spaced(form), bare],
            false => vec![bare, spaced(form)],
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
            if found > 0 && is_kept {
                *self = tried;
                return Ok((way, id, false));
            }
            if found > 0 && words_are_kept && second_best.is_none() {
                second_best = Some((tried, (way, id, true)));
            }
        }
        let Some((tried, token)) = second_best else {
            let reason = "with this tokenizer an added token for it would not be found in the data, or would not decode to it";
            return Err(TextError::Word { word: word.word.clone(), reason: reason.to_owned() });
        };
        *self = tried;
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{byte_level, sentence_piece};

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
        let left = word.in_pieces;
        let expected =
            WordTokens { ids: vec![bare, spaced], added: None, other_spaces: false, in_longer: 0, left };
        assert_eq!(found, expected);
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
            let WordTokens { ids, added, other_spaces, .. } = tokenizer.add_word(&word).unwrap();
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
        let WordTokens { ids, added, other_spaces, .. } = tokenizer.add_word(&word).unwrap();
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

    #[test]
    fn an_end_without_letters_has_no_bounds() {
        let mut tokenizer = byte_level().build().unwrap();
        let [bare, spaced] = ["<<", " <<"].map(|token| tokenizer.add_tokens(&[token]).unwrap()[0]);
        let word = read(&tokenizer, "<<", &["a<<1 b <<2<<", "(<<)"]);
        assert_eq!(word.tokens, BTreeMap::from([(bare, 3), (spaced, 1)]));
        assert_eq!((word.inside, word.in_pieces.len()), ((0, 0), 0));
        // a new one is found beside digits; `c++` ends anywhere and begins as a word does
        let mut tokenizer = byte_level().build().unwrap();
        let word = read(&tokenizer, ">>", &["24>>24 5>>5"]);
        let id = tokenizer.add_word(&word).unwrap().ids[0];
        assert_eq!(tokenizer.encode("24>>24 5>>5", false).unwrap().iter().filter(|at| **at == id).count(), 2);
        let word = read(&tokenizer, "c++", &["c++11 abc++"]);
        assert_eq!((word.in_pieces["c++"], word.inside), (1, (0, 1)));
        let found = tokenizer.add_word(&word).unwrap();
        assert_eq!((found.added.as_deref(), found.in_longer), (Some("c++"), 1));
        // no spaces between words
        let word = read(&tokenizer, "薬", &["医薬品"]);
        assert_eq!(word.in_pieces, BTreeMap::from([("薬".to_owned(), 1)]));
    }

    #[test]
    fn a_word_in_the_other_case_is_the_same_word() {
        let word = WordUse::new("clips");
        assert!(word.is_same_word(&WordUse::new(" Clips")) && WordUse::new("Clips").is_same_word(&word));
        assert!(!word.is_same_word(&WordUse::new("CLIPS")));
    }

    #[test]
    fn spellings_that_become_the_same_ids_are_one() {
        let json = r###"{"version":"1.0","truncation":null,"padding":null,"post_processor":null,"added_tokens":[],
            "normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,
            "lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},
            "decoder":{"type":"WordPiece","prefix":"##","cleanup":true},
            "model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##",
            "max_input_chars_per_word":100,
            "vocab":{"[UNK]":0,".":1,"a":2,"x":3,"##y":4,"##z":5,"(":6,")":7}}}"###;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), json).unwrap();
        let mut tokenizer = AutoTokenizer::from_pretrained(dir.path()).unwrap();
        let word = read(&tokenizer, "xyz", &["xyz a xyz xyz", "a (xyz) Xyz"]);
        assert_eq!(
            word.in_pieces,
            BTreeMap::from(
                [(" xyz", 2), ("xyz", 2), (" Xyz", 1)].map(|(form, count)| (form.to_owned(), count))
            )
        );
        let found = tokenizer.add_word(&word).unwrap();
        assert_eq!((found.added.as_deref(), found.left), (Some("xyz"), BTreeMap::new()));
        // where they are two, the other is left
        let mut tokenizer = byte_level().build().unwrap();
        let word = read(&tokenizer, "xyz", &["a xyz xyz", "(xyz)"]);
        let left = tokenizer.add_word(&word).unwrap().left;
        assert_eq!(left, BTreeMap::from([("xyz".to_owned(), 1)]));
    }
}
