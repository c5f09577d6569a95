//! Which word has which text, where several want the same.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

/// What a word may have: a part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Which text.
    pub(super) text: u64,
    /// Its bytes there.
    pub(super) around: Range<usize>,
}

impl Part {
    fn overlaps(&self, other: &Self) -> bool {
        self.text == other.text
            && self.around.start < other.around.end
            && other.around.start < self.around.end
    }
}

/// Gives parts to words, so that none overlaps another and no word has more than `most`; `wanted` are the parts that each word may
/// have. Gives which of them it has.
///
/// The next part is always for the word that has, or can still get, the fewest: rare words go before common ones, and words
/// that stand always together take turns.
pub(super) fn share(wanted: &[Vec<&Part>], most: usize) -> Vec<Vec<usize>> {
    let mut of_text: HashMap<u64, Vec<(usize, usize)>> = HashMap::new();
    for (word, parts) in wanted.iter().enumerate() {
        for (at, part) in parts.iter().enumerate() {
            of_text.entry(part.text).or_default().push((word, at));
        }
    }
    let mut given = vec![Vec::new(); wanted.len()];
    let mut free: Vec<Vec<bool>> = wanted.iter().map(|parts| vec![true; parts.len()]).collect();
    // by what it has or can still get
    let mut prospects: Vec<usize> = wanted.iter().map(Vec::len).collect();
    let mut next = vec![0; wanted.len()];
    let mut queue: BTreeSet<(usize, usize)> = prospects.iter().copied().zip(0..).collect();
    while let Some((prospect, word)) = queue.pop_first() {
        let found = (next[word]..wanted[word].len()).find(|&at| free[word][at]);
        let Some(at) = found.filter(|_| given[word].len() < most) else { continue };
        next[word] = at + 1;
        free[word][at] = false;
        given[word].push(at);
        queue.insert((prospect, word));
        let part = wanted[word][at];
        for &(other, its) in of_text.get(&part.text).into_iter().flatten() {
            if free[other][its] && wanted[other][its].overlaps(part) {
                free[other][its] = false;
                let is_in = queue.remove(&(prospects[other], other));
                prospects[other] -= 1;
                if is_in {
                    queue.insert((prospects[other], other));
                }
            }
        }
    }
    given
}

/// The same where a word with fewer than `least` is left without any, and what it would have goes to the others. `kept` says how
/// many count of so many that a word is given.
pub(super) fn share_enough(
    wanted: &[Vec<&Part>],
    (least, most): (usize, usize),
    kept: &dyn Fn(usize, usize) -> usize,
) -> Vec<Vec<usize>> {
    let mut wanted = wanted.to_vec();
    for (word, parts) in wanted.iter_mut().enumerate() {
        if kept(word, parts.len()) < least {
            parts.clear();
        }
    }
    loop {
        let given = share(&wanted, most);
        let lacks = given
            .iter()
            .enumerate()
            .filter(|(word, given)| !wanted[*word].is_empty() && kept(*word, given.len()) < least);
        // one after the other: what the first leaves may be enough for the next
        let Some((word, _)) = lacks.min_by_key(|(word, given)| (given.len(), std::cmp::Reverse(*word)))
        else {
            return given;
        };
        wanted[word].clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(wanted: &[Vec<Part>], least: usize, most: usize) -> Vec<usize> {
        let wanted: Vec<Vec<&Part>> = wanted.iter().map(|parts| parts.iter().collect()).collect();
        let given = share_enough(&wanted, (least, most), &|_, count| count);
        let all: Vec<&Part> =
            given.iter().zip(&wanted).flat_map(|(given, parts)| given.iter().map(|at| parts[*at])).collect();
        for (at, part) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| !other.overlaps(part)), "{part:?}");
        }
        given.iter().map(Vec::len).collect()
    }

    fn parts(texts: Range<u64>, around: Range<usize>) -> Vec<Part> {
        texts.map(|text| Part { text, around: around.clone() }).collect()
    }

    #[test]
    fn words_that_stand_together_take_turns() {
        let (one, other) = (parts(0..40, 0..9), parts(0..40, 5..12));
        assert_eq!(given(&[one.clone(), other.clone()], 4, 32), [20, 20]);
        assert_eq!(given(&[one.clone(), other.clone()], 4, 12), [12, 12]);
        // beside each other
        assert_eq!(given(&[one.clone(), parts(0..40, 9..12)], 4, 32), [32, 32]);
        assert_eq!(given(&[one, other, parts(0..40, 8..10)], 4, 32), [14, 13, 13]);
    }

    #[test]
    fn a_rare_word_goes_before_a_common_one() {
        let (common, rare) = (parts(0..64, 0..9), parts(10..15, 3..20));
        assert_eq!(given(&[common.clone(), rare.clone()], 4, 60), [59, 5]);
        assert_eq!(given(&[rare, common], 4, 60), [5, 59]);
    }

    #[test]
    fn what_is_too_little_for_a_word_is_left_to_the_others() {
        let of = |texts| parts(texts, 0..9);
        assert_eq!(given(&[of(0..3), of(0..10)], 4, 32), [0, 10]);
        assert_eq!(given(&[of(0..7), of(0..7)], 4, 32), [7, 0]);
        assert_eq!(given(&[of(0..8), of(0..8), of(0..8)], 4, 32), [4, 4, 0]);
        assert_eq!(given(&[Vec::new()], 4, 32), [0]);
    }
}
