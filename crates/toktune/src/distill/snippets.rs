//! Texts around words: found in a stream of texts, cleaned, chosen, and put in tokens.

use super::places::{Aligned, align};
use super::reservoir::Reservoir;
use super::share::{Part, share, share_enough};
use super::standing::standing;
use super::{DistilledWord, Snippet};
use crate::data::Piece;
use crate::error::Result;
use crate::random::Random;
use crate::text::AutoTokenizer;
use std::collections::{HashMap, HashSet};
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
    /// Places in the texts where it stands and no longer one of the words does.
    pub places: usize,
    /// Places that were left out: in a text that was there before, or with no row that the two tokenisations share.
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

/// Looks for the words in texts, one after the other, and keeps some places of each.
#[derive(Debug)]
pub struct SnippetFinder<'w> {
    words: &'w [DistilledWord],
    options: SnippetOptions,
    texts: u64,
    /// Texts with words, by their fingerprints.
    read: HashSet<u64>,
    /// Parts of texts, each with the text that said it first.
    said: HashMap<u64, u64>,
    of_words: Vec<OfWord>,
}

#[derive(Debug)]
struct OfWord {
    train: Reservoir<Around>,
    held_out: Reservoir<Around>,
    found: FoundWord,
}

/// A part of a text with a word.
#[derive(Debug)]
struct Around {
    part: Part,
    text: String,
}

/// A part in tokens.
struct Cut {
    part: Part,
    aligned: Aligned,
}

impl Snippets {
    /// Begins to look for words.
    pub fn find(words: &[DistilledWord], options: SnippetOptions) -> SnippetFinder<'_> {
        // some more, for those that turn out to share no row, and that other words have
        let room = |count: usize| count.saturating_mul(2);
        let of = |word: &DistilledWord| {
            let reservoir =
                |count, side: &str| Reservoir::new(room(count), options.seed, &[&word.text, side]);
            OfWord {
                train: reservoir(options.per_word, "train"),
                held_out: reservoir(options.held_out_per_word, "held out"),
                found: FoundWord::default(),
            }
        };
        let of_words = words.iter().map(of).collect();
        SnippetFinder { words, options, texts: 0, read: HashSet::new(), said: HashMap::new(), of_words }
    }
}

impl SnippetFinder<'_> {
    /// Looks at a text.
    pub fn read(&mut self, text: &str) {
        self.read_piece(&Piece::whole(text));
    }

    /// Looks at a part of a text: at what stands in it, and not beside it.
    pub fn read_piece(&mut self, piece: &Piece<'_>) {
        let Piece { text, own, .. } = piece;
        self.texts += 1;
        let is_held_out = Random::named(self.options.seed, &[&self.texts.to_string()]).below(HELD_OUT) == 0;
        let mut found = standing(self.words, text);
        found.retain(|of| own.contains(&of.place.start));
        if found.is_empty() {
            return;
        }
        let is_new = self.read.insert(fingerprint(&text[own.clone()]));
        // where the last part ends that a word wants
        let mut wanted: HashMap<usize, usize> = HashMap::new();
        for of in found {
            let from = wanted.get(&of.word).copied().unwrap_or(own.start);
            self.of_words[of.word].found.places += 1;
            if of.place.start < from {
                continue;
            }
            let mut around = self.around(text, of.place.clone(), from..own.end.max(of.place.end));
            wanted.insert(of.word, around.end);
            // the space before a word that comes first is a part of its token
            let blank = |part: &str| part.len() - part.trim_start().len();
            around.start += blank(&text[around.start..of.place.start]);
            around.end = around.start + text[around.clone()].trim_end().len();
            let snippet = &text[around.clone()];
            let first = *self.said.entry(fingerprint(snippet)).or_insert(self.texts);
            let of_word = &mut self.of_words[of.word];
            if !is_new || first != self.texts || snippet.contains('\u{fffd}') {
                of_word.found.left_out += 1;
                continue;
            }
            let reservoir = if is_held_out { &mut of_word.held_out } else { &mut of_word.train };
            reservoir.take(Around { text: snippet.to_owned(), part: Part { text: self.texts, around } });
        }
    }

    /// The text around a place: whole words, and nothing that is not in `within`.
    fn around(&self, text: &str, word: Range<usize>, within: Range<usize>) -> Range<usize> {
        let back = text[within.start..word.start].char_indices().rev().take(self.options.letters_before);
        let mut start = back.last().map_or(word.start, |(at, _)| within.start + at);
        let letters = self.options.tokens_after.saturating_mul(LETTERS_A_TOKEN);
        let ahead = &text[word.end..within.end];
        let mut end = ahead.char_indices().nth(letters).map_or(within.end, |(at, _)| word.end + at);
        if start > within.start {
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

    /// Puts what was kept into the tokens of the model `before` and those `with_words`, and gives the texts to the words: where
    /// several want the same, the one that has or can get the fewest goes first.
    ///
    /// # Errors
    /// A tokenizer fails on a text.
    pub fn finish(self, before: &AutoTokenizer, with_words: &AutoTokenizer) -> Result<Snippets> {
        let Self { words, options, of_words, .. } = self;
        let new: HashSet<u32> = words.iter().map(|word| word.id).collect();
        let (mut train, mut held_out, mut all) = (Vec::new(), Vec::new(), Vec::new());
        for (word, of) in words.iter().zip(of_words) {
            let mut found = of.found;
            let mut cut = |texts: Reservoir<Around>| -> Result<Vec<Cut>> {
                let mut kept = Vec::new();
                for Around { part, text } in texts.finish() {
                    match align(&text, before, with_words, &new, options.tokens_after)? {
                        Some(aligned) if aligned.student.contains(&word.id) => {
                            kept.push(Cut { part, aligned });
                        }
                        _ => found.left_out += 1,
                    }
                }
                Ok(kept)
            };
            train.push(cut(of.train)?);
            held_out.push(cut(of.held_out)?);
            all.push(found);
        }
        Ok(given(&options, (&train, &held_out), all))
    }
}

/// Gives the cuts to train on and those to hold out to their words, of which `words` was found.
fn given(
    options: &SnippetOptions,
    (train, held_out): (&[Vec<Cut>], &[Vec<Cut>]),
    words: Vec<FoundWord>,
) -> Snippets {
    fn parts(of: &[Vec<Cut>]) -> Vec<Vec<&Part>> {
        of.iter().map(|cuts| cuts.iter().map(|cut| &cut.part).collect()).collect()
    }
    let to_hold = share(&parts(held_out), options.held_out_per_word);
    // a corpus of few texts may have none in one of the two; the parts of a text overlap nowhere
    let kept = |word: usize, count: usize| match to_hold[word].is_empty() {
        true => count - (count / HELD_OUT as usize).min(options.held_out_per_word),
        false => count,
    };
    let to_train = share_enough(&parts(train), (options.least, options.per_word), &kept);
    let mut snippets = Snippets { words, ..Snippets::default() };
    for (word, mut given) in to_train.into_iter().enumerate() {
        let lent = given.split_off(kept(word, given.len()));
        let found = &mut snippets.words[word];
        (found.train, found.held_out) = (given.len(), to_hold[word].len() + lent.len());
        if given.is_empty() {
            continue;
        }
        let of = |cuts: &[Vec<Cut>], given: &[usize]| -> Vec<Snippet> {
            given.iter().map(|at| cuts[word][*at].snippet(word)).collect()
        };
        snippets.train.extend(of(train, &given));
        snippets.held_out.extend(of(held_out, &to_hold[word]));
        snippets.held_out.extend(of(train, &lent));
    }
    snippets
}

impl Cut {
    fn snippet(&self, word: usize) -> Snippet {
        let Aligned { student, teacher, matches } = &self.aligned;
        Snippet { word, student: student.clone(), teacher: teacher.clone(), matches: matches.clone() }
    }
}

/// Tells texts apart.
fn fingerprint(text: &str) -> u64 {
    Random::named(0, &[text]).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::testing::byte_level;

    fn words(texts: &[&str]) -> Vec<DistilledWord> {
        texts
            .iter()
            .enumerate()
            .map(|(at, text)| DistilledWord { id: at as u32, text: (*text).into() })
            .collect()
    }

    fn found(words: &[DistilledWord], text: &str, times: usize) -> (Vec<usize>, Vec<String>) {
        let options = SnippetOptions { letters_before: 12, tokens_after: 2, ..SnippetOptions::default() };
        let mut finder = Snippets::find(words, options);
        (0..times).for_each(|_| finder.read(text));
        let kept = finder
            .of_words
            .iter()
            .flat_map(|of| [&of.train, &of.held_out])
            .flat_map(|of| of.kept().map(|around| around.text.clone()))
            .collect();
        (finder.of_words.iter().map(|of| of.found.places).collect(), kept)
    }

    #[test]
    fn the_parts_of_a_word_overlap_nowhere_and_are_said_once() {
        let text = "Here a lupin and a fern stand, far from any other lupin or fern of the garden; lupins count not.";
        let words = words(&[" lupin", " fern"]);
        for times in [1, 2] {
            let (places, kept) = found(&words, text, times);
            assert_eq!(places, [2 * times, 2 * times], "{kept:?}");
            assert_eq!(kept.len(), 4, "{kept:?}");
            assert!(kept[..2].iter().all(|text| text.contains("lupin") && text.len() < 40), "{kept:?}");
            assert!(kept[2..].iter().all(|text| text.contains("fern") && text.len() < 40), "{kept:?}");
        }
        let (places, kept) = found(&words, "a lupin lupin lupin lupin and", 1);
        assert_eq!(
            (places, kept),
            (vec![4, 0], vec!["a lupin lupin lupin".to_owned(), " lupin and".to_owned()])
        );
    }

    /// What is found of words in texts, and how many tokens of each word the snippets to train on have.
    fn finished(spelled: &[&str], texts: &[String]) -> (Vec<FoundWord>, Vec<usize>, Snippets) {
        let before = byte_level().build().expect("a tokenizer");
        let mut with_words = before.clone();
        let ids = with_words.add_tokens(spelled).expect("added");
        let of = |(id, text): (&u32, &&str)| DistilledWord { id: *id, text: (*text).into() };
        let words: Vec<DistilledWord> = ids.iter().zip(spelled).map(of).collect();
        let mut finder = Snippets::find(&words, SnippetOptions::default());
        texts.iter().for_each(|text| finder.read(text));
        let snippets = finder.finish(&before, &with_words).expect("encoded");
        for of in snippets.train.iter().chain(&snippets.held_out) {
            assert!(of.student.contains(&words[of.word].id), "{of:?}");
        }
        let tokens =
            |id: &u32| snippets.train.iter().flat_map(|of| &of.student).filter(|token| *token == id).count();
        (snippets.words.clone(), ids.iter().map(tokens).collect(), snippets)
    }

    fn texts(count: usize, of: impl Fn(usize) -> String) -> Vec<String> {
        (0..count).map(of).collect()
    }

    #[test]
    fn a_longer_phrase_is_taught_where_it_stands_and_the_shorter_one_elsewhere() {
        let mut all = texts(30, |i| format!("In {i} a zorblax quibbling is seen by {i} people."));
        all.extend(texts(20, |i| format!("Some {i} a zorblax is seen by {i} others.")));
        all.extend(texts(9, |i| format!("No {i} zorblaxes are seen, nor is any of {i} zorblax_x.")));
        for spelled in [[" zorblax", " zorblax quibbling"], [" zorblax quibbling", " zorblax"]] {
            let (found, tokens, _) = finished(&spelled, &all);
            let long = usize::from(spelled[1].len() > spelled[0].len());
            let (long, short) = (long, 1 - long);
            assert_eq!([found[long].places, found[short].places], [30, 20], "{found:?}");
            assert_eq!([found[long].left_out, found[short].left_out], [0, 0], "{found:?}");
            assert_eq!(
                [found[long].train + found[long].held_out, found[short].train + found[short].held_out],
                [30, 20]
            );
            assert_eq!([tokens[long], tokens[short]], [found[long].train, found[short].train]);
        }
    }

    #[test]
    fn a_word_that_begins_another_has_its_own_places_alone() {
        let mut all = texts(20, |i| format!("In {i} some art is seen by {i} people."));
        all.extend(texts(10, |i| format!("In {i} an artful one is seen by {i} others.")));
        let (found, tokens, _) = finished(&[" art", " artful"], &all);
        assert_eq!([found[0].places, found[1].places], [20, 10]);
        assert_eq!([found[0].train + found[0].held_out, found[1].train + found[1].held_out], [20, 10]);
        assert_eq!(tokens, [found[0].train, found[1].train]);
    }

    #[test]
    fn words_that_stand_together_share_the_texts() {
        let all = texts(40, |i| format!("In {i} a lupin and a fern are seen by {i} people."));
        let (found, tokens, snippets) = finished(&[" lupin", " fern"], &all);
        assert_eq!([found[0].places, found[1].places], [40, 40]);
        let (train, held_out) = (snippets.train.len(), snippets.held_out.len());
        assert_eq!(train + held_out, 40, "{found:?}");
        assert!(found[0].train.abs_diff(found[1].train) <= 1 && found[0].train >= 15, "{found:?}");
        assert!(found[0].held_out.abs_diff(found[1].held_out) <= 1, "{found:?}");
        // both are replaced in the snippets of each
        assert_eq!(tokens, [train, train]);
        // a rare one has all of its texts
        let mut some = texts(60, |i| format!("In {i} a lupin is seen by {i} people."));
        some.extend(texts(8, |i| format!("At {i} a lupin and a fern are seen by {i} people.")));
        let (found, _, _) = finished(&[" lupin", " fern"], &some);
        assert_eq!([found[0].places, found[1].places], [68, 8]);
        assert_eq!((found[0].train, found[1].train + found[1].held_out), (32, 8), "{found:?}");
    }
}
