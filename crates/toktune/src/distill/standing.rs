//! Where words stand in a text.

use super::DistilledWord;
use crate::text::stands_alone;
use std::cmp::Reverse;
use std::ops::Range;

/// A place of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Which of the words.
    pub(super) word: usize,
    /// Its bytes, those of the space before it among them where the token has one.
    pub(super) place: Range<usize>,
}

/// The places of words in a text, from left to right, none within another: of those that begin together the longest counts, as
/// added tokens are found (leftmost-longest). Where letters make a word longer it does not stand.
pub(super) fn standing(words: &[DistilledWord], text: &str) -> Vec<Standing> {
    let mut all = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let spelling = word.text.trim_start();
        if spelling.is_empty() {
            continue;
        }
        for (start, found) in text.match_indices(spelling) {
            let end = start + found.len();
            let spaced = word.text.starts_with(' ');
            // some tokenizers put a space before every text
            let has_space = !spaced || start == 0 || text[..start].ends_with(' ');
            if has_space && stands_alone(text, start..end) {
                let place = start - usize::from(spaced && start > 0)..end;
                all.push(Standing { word: at, place });
            }
        }
    }
    all.sort_by_key(|of| (of.place.start, Reverse(of.place.end), of.word));
    let mut end = 0;
    all.retain(|of| {
        let is_free = of.place.start >= end;
        end = if is_free { of.place.end } else { end };
        is_free
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each word stands in a text.
    fn counts(words: &[&str], text: &str) -> Vec<usize> {
        let of = |(id, text): (usize, &&str)| DistilledWord { id: id as u32, text: (*text).into() };
        let words: Vec<DistilledWord> = words.iter().enumerate().map(of).collect();
        let mut counts = vec![0; words.len()];
        for Standing { word, place } in standing(&words, text) {
            assert_eq!(text[place].trim_start(), words[word].text.trim_start());
            counts[word] += 1;
        }
        counts
    }

    #[test]
    fn the_longer_phrase_has_its_places_and_the_shorter_one_the_others() {
        let text = "A zorblax quibbling, a zorblax; no zorblax quibblings. The quibbling zorblax quibbling.";
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let words = order.map(|at| [" zorblax", " zorblax quibbling", " quibbling"][at]);
            let found = counts(&words, text);
            let of = |word: &str| found[words.iter().position(|x| *x == word).expect("a word")];
            assert_eq!([of(" zorblax"), of(" zorblax quibbling"), of(" quibbling")], [2, 2, 1], "{words:?}");
        }
    }

    #[test]
    fn words_at_the_ends_of_others_and_within_them_do_not_stand() {
        let words = [" art", " artful", " ful", " rtfu"];
        assert_eq!(counts(&words, "The art, artful arts, an artful art; art_work, heart ful"), [2, 2, 1, 0]);
        // one that overlaps another from the left goes first
        assert_eq!(counts(&["a b", "b c", "c"], "a b c; b c"), [1, 1, 1]);
        // the space before a word is a part of its token
        assert_eq!(counts(&[" ab", "ab cd"], "see ab cd and (ab cd"), [1, 1]);
        // scripts without spaces between words
        assert_eq!(counts(&["\u{533b}\u{836f}"], "\u{65b0}\u{533b}\u{836f}\u{54c1}"), [1]);
    }
}
