//! Texts around words: found in a stream of texts, cleaned, chosen, and put in tokens.

use super::places::{Aligned, align};
use super::{DistilledWord, Snippet};
use crate::error::Result;
use crate::random::Random;
use crate::text::AutoTokenizer;
use std::collections::HashSet;
use std::ops::Range;

/// How snippets are chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnippetOptions {
    /// Snippets a word that are trained on, at most.
    pub per_word: usize,
    /// And that are held out to measure by.
    pub held_out_per_word: usize,
    /// A word with fewer to train on has none: its row moves only where it stands in snippets of other words.
    pub least: usize,
    /// Letters of a text before the word, at most.
    pub letters_before: usize,
    /// Tokens behind it.
    pub tokens_after: usize,
    /// Of the choice among more texts than are wanted.
    pub seed: u64,
}

impl Default for SnippetOptions {
    fn default() -> Self {
        Self { per_word: 32, held_out_per_word: 6, least: 4, letters_before: 160, tokens_after: 48, seed: 42 }
    }
}

/// Letters that a token behind the word takes at most, when a text is cut before it is in tokens.
const LETTERS_A_TOKEN: usize = 8;

/// One text in so many is held out.
const HELD_OUT: u64 = 5;

/// What was found of a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundWord {
    /// Places in the texts where it stands, as far as they overlap with no other that was taken.
    pub places: usize,
    /// Places that were left out: said before, or with no row that the two tokenisations share.
    pub left_out: usize,
    /// Snippets to train on.
    pub train: usize,
    /// Snippets that are held out.
    pub held_out: usize,
}

/// The chosen snippets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snippets {
    /// Those to train on, word by word.
    pub train: Vec<Snippet>,
    /// Those to measure by: of other texts.
    pub held_out: Vec<Snippet>,
    /// What was found of each word, in their order.
    pub words: Vec<FoundWord>,
}

/// Some of a stream, each of all as likely as any other (reservoir sampling, Vitter's algorithm R).
#[derive(Debug)]
struct Reservoir {
    kept: Vec<(u64, String)>,
    room: usize,
    seen: u64,
    random: Random,
}

impl Reservoir {
    fn new(room: usize, seed: u64, names: &[&str]) -> Self {
        Self { kept: Vec::new(), room, seen: 0, random: Random::named(seed, names) }
    }

    fn take(&mut self, text: &str) {
        self.seen += 1;
        let entry = (self.seen, text.to_owned());
        match self.kept.len() < self.room {
            true => self.kept.push(entry),
            false => {
                let at = self.random.below(self.seen) as usize;
                if let Some(old) = self.kept.get_mut(at) {
                    *old = entry;
                }
            }
        }
    }

    /// In the order in which they came.
    fn finish(mut self) -> impl Iterator<Item = String> {
        self.kept.sort_by_key(|(at, _)| *at);
        self.kept.into_iter().map(|(_, text)| text)
    }
}

/// Looks for the words in texts, one after the other, and keeps some places of each.
#[derive(Debug)]
pub struct SnippetFinder<'w> {
    words: &'w [DistilledWord],
    options: SnippetOptions,
    texts: u64,
    said: HashSet<u64>,
    of_words: Vec<OfWord>,
}

#[derive(Debug)]
struct OfWord {
    train: Reservoir,
    held_out: Reservoir,
    found: FoundWord,
}

impl Snippets {
    /// Begins to look for words.
    pub fn find(words: &[DistilledWord], options: SnippetOptions) -> SnippetFinder<'_> {
        let of_words = words
            .iter()
            .map(|word| OfWord {
                // some more, for those that turn out to share no row
                train: Reservoir::new(
                    options.per_word.saturating_mul(2),
                    options.seed,
                    &[&word.text, "train"],
                ),
                held_out: Reservoir::new(
                    options.held_out_per_word.saturating_mul(2),
                    options.seed,
                    &[&word.text, "held out"],
                ),
                found: FoundWord::default(),
            })
            .collect();
        SnippetFinder { words, options, texts: 0, said: HashSet::new(), of_words }
    }
}

impl SnippetFinder<'_> {
    /// Looks at a text.
    pub fn read(&mut self, text: &str) {
        self.texts += 1;
        let is_held_out = Random::named(self.options.seed, &[&self.texts.to_string()]).below(HELD_OUT) == 0;
        let mut taken = 0;
        let mut places: Vec<(usize, usize)> = Vec::new();
        for (at, word) in self.words.iter().enumerate() {
            let spelling = word.text.trim_start();
            places.extend(text.match_indices(spelling).map(|(place, _)| (place, at)));
        }
        places.sort_unstable();
        for (place, at) in places {
            let word = &self.words[at];
            if place < taken || !stands_alone(text, place..place + word.text.trim_start().len()) {
                continue;
            }
            let around = self.around(text, place..place + word.text.trim_start().len(), taken);
            let of_word = &mut self.of_words[at];
            of_word.found.places += 1;
            taken = around.end;
            let snippet = text[around].trim();
            if snippet.contains('\u{fffd}') || !self.said.insert(fingerprint(snippet)) {
                of_word.found.left_out += 1;
                continue;
            }
            let reservoir = if is_held_out { &mut of_word.held_out } else { &mut of_word.train };
            reservoir.take(snippet);
        }
    }

    /// The text around a place: whole words, and nothing before `taken`.
    fn around(&self, text: &str, word: Range<usize>, taken: usize) -> Range<usize> {
        let letters = |count: usize, from: usize| -> usize {
            text[from..].char_indices().nth(count).map_or(text.len(), |(at, _)| from + at)
        };
        let back = text[taken..word.start].char_indices().rev().take(self.options.letters_before);
        let mut start = back.last().map_or(word.start, |(at, _)| taken + at);
        let mut end = letters(self.options.tokens_after.saturating_mul(LETTERS_A_TOKEN), word.end);
        if start > taken {
            // a word that is cut in two begins behind the next space
            let space = text[start..word.start].find(char::is_whitespace);
            start = space.map_or(start, |at| start + at);
        }
        if end < text.len() {
            let space = text[word.end..end].rfind(char::is_whitespace);
            end = space.map_or(end, |at| word.end + at);
        }
        start..end
    }

    /// Puts what was kept into the tokens of the model `before` and those `with_words`.
    ///
    /// # Errors
    /// A tokenizer fails on a text.
    pub fn finish(self, before: &AutoTokenizer, with_words: &AutoTokenizer) -> Result<Snippets> {
        let new: HashSet<u32> = self.words.iter().map(|word| word.id).collect();
        let mut snippets = Snippets::default();
        for (word, of) in self.of_words.into_iter().enumerate() {
            let OfWord { train, held_out, mut found } = of;
            let mut cut = |texts: Reservoir, most: usize| -> Result<Vec<Snippet>> {
                let mut kept = Vec::new();
                for text in texts.finish() {
                    if kept.len() == most {
                        break;
                    }
                    match align(&text, before, with_words, &new, self.options.tokens_after)? {
                        Some(Aligned { student, teacher, matches })
                            if student.contains(&self.words[word].id) =>
                        {
                            kept.push(Snippet { word, student, teacher, matches });
                        }
                        _ => found.left_out += 1,
                    }
                }
                Ok(kept)
            };
            let mut train = cut(train, self.options.per_word)?;
            let mut held_out = cut(held_out, self.options.held_out_per_word)?;
            // a corpus of few texts may have none in one of the two; places in a text overlap nowhere
            if held_out.is_empty() {
                let some = train.len() / HELD_OUT as usize;
                held_out = train.split_off(train.len() - some.min(self.options.held_out_per_word));
            }
            if train.len() < self.options.least {
                train.clear();
            }
            (found.train, found.held_out) = (train.len(), held_out.len());
            if !train.is_empty() {
                snippets.train.extend(train);
                snippets.held_out.extend(held_out);
            }
            snippets.words.push(found);
        }
        Ok(snippets)
    }
}

/// Whether no letter makes the word at a place longer; its own ends may be anything.
fn stands_alone(text: &str, word: Range<usize>) -> bool {
    let joins = |a: Option<char>, b: Option<char>| {
        a.is_some_and(char::is_alphanumeric) && b.is_some_and(char::is_alphanumeric)
    };
    let (first, last) = (text[word.clone()].chars().next(), text[word.clone()].chars().next_back());
    !joins(text[..word.start].chars().next_back(), first) && !joins(last, text[word.end..].chars().next())
}

/// Tells texts apart.
fn fingerprint(text: &str) -> u64 {
    Random::named(0, &[text]).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(texts: &[&str]) -> Vec<DistilledWord> {
        texts
            .iter()
            .enumerate()
            .map(|(at, text)| DistilledWord { id: at as u32, text: (*text).into() })
            .collect()
    }

    #[test]
    fn places_overlap_nowhere_and_are_said_once() {
        let words = words(&[" lupin", " fern"]);
        let mut finder = Snippets::find(
            &words,
            SnippetOptions { letters_before: 12, tokens_after: 2, ..SnippetOptions::default() },
        );
        finder.read("Here a lupin and a fern stand, far from any other lupin or fern of the garden; lupins count not.");
        finder.read("Here a lupin and a fern stand, far from any other lupin or fern of the garden; lupins count not.");
        let kept: Vec<String> = finder
            .of_words
            .iter()
            .flat_map(|of| of.train.kept.iter().chain(&of.held_out.kept).map(|(_, text)| text.clone()))
            .collect();
        let found: Vec<usize> = finder.of_words.iter().map(|of| of.found.places).collect();
        assert_eq!(found, [4, 0], "{kept:?}");
        assert_eq!(kept.len(), 2, "{kept:?}");
        assert!(kept.iter().all(|text| text.contains("lupin") && text.len() < 40), "{kept:?}");
    }

    #[test]
    fn every_text_is_kept_with_the_same_chance() {
        let mut counts = [0usize; 10];
        for seed in 0..2000 {
            let mut reservoir = Reservoir::new(3, seed, &["x"]);
            (0..10).for_each(|i| reservoir.take(&i.to_string()));
            reservoir.finish().for_each(|text| counts[text.parse::<usize>().expect("a number")] += 1);
        }
        assert!(counts.iter().all(|count| (500..700).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_word_stands_alone_between_what_is_no_letter() {
        let alone = |text: &str, word: &str| {
            let at = text.find(word).expect("there");
            stands_alone(text, at..at + word.len())
        };
        assert!(alone("a fern.", "fern") && alone("fern", "fern") && alone("x<<y", "<<"));
        assert!(!alone("ferns", "fern") && !alone("sfern", "fern"));
    }
}
