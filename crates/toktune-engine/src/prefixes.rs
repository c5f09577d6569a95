//! What sequences begin with alike: the tree of their shared beginnings.

use std::collections::BTreeMap;

/// A run of tokens that some sequences share, after the segment before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its number: the same for the same tokens after the same ones.
    pub id: u32,
    /// Where it ends in its sequences.
    pub end: usize,
}

/// The shared beginnings of some sequences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    /// Each segment, with the one before it.
    segments: Vec<(Segment, Option<u32>)>,
    /// How many sequences go through each segment.
    counts: Vec<usize>,
    /// The last segment of each sequence.
    last: Vec<Option<u32>>,
}

/// Tokens that are compared at a time, and the fewest that are worth a segment: a shorter one would save less than it costs to
/// tell its rows apart.
const BLOCK: usize = 8;

impl Prefixes {
    /// The shared beginnings of `count` sequences, `token(i, at)` being the token of sequence `i` at a place, or nothing past its
    /// end. Sequences whose `class` differs share nothing: their rows would not be computed alike.
    pub fn of(
        count: usize,
        token: impl Fn(usize, usize) -> Option<u32>,
        class: impl Fn(usize) -> u64,
    ) -> Self {
        let mut prefixes = Self { last: vec![None; count], ..Self::default() };
        let mut roots: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        (0..count).for_each(|i| roots.entry(class(i)).or_default().push(i));
        // groups of sequences that agree up to a place, with the segment that ends there
        let mut open: Vec<(Vec<usize>, usize, Option<u32>)> =
            roots.into_values().map(|members| (members, 0, None)).collect();
        while let Some((members, at, before)) = open.pop() {
            let mut blocks: BTreeMap<[u32; BLOCK], Vec<usize>> = BTreeMap::new();
            for i in members {
                let mut block = [0; BLOCK];
                let whole = block.iter_mut().enumerate().try_for_each(|(j, to)| {
                    *to = token(i, at + j)?;
                    Some(())
                });
                if whole.is_some() {
                    blocks.entry(block).or_default().push(i);
                }
            }
            let mut groups: Vec<Vec<usize>> = blocks.into_values().filter(|group| group.len() > 1).collect();
            groups.sort_unstable();
            for group in groups {
                let end = common(&group, at + BLOCK, &token);
                let id = prefixes.segments.len() as u32;
                prefixes.segments.push((Segment { id, end }, before));
                prefixes.counts.push(group.len());
                group.iter().for_each(|&i| prefixes.last[i] = Some(id));
                open.push((group, end, Some(id)));
            }
        }
        prefixes
    }

    /// The segments that a sequence begins with, first to last.
    pub fn of_sequence(&self, sequence: usize) -> Vec<Segment> {
        let mut found = Vec::new();
        let mut next = self.last.get(sequence).copied().flatten();
        while let Some((segment, before)) = next.and_then(|id| self.segments.get(id as usize)) {
            found.push(*segment);
            next = *before;
        }
        found.reverse();
        found
    }

    /// The shared beginnings of every `n`th sequence, from the first one on; segments stay what they are.
    pub fn every(&self, n: usize) -> Self {
        Self { last: self.last.iter().copied().step_by(n.max(1)).collect(), ..self.clone() }
    }

    /// Whether nothing is shared.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The number of segments.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// The rows of all segments together.
    pub fn rows(&self) -> u64 {
        self.lengths().map(|(rows, _)| rows).sum()
    }

    /// Rows that need not be computed where every sequence is there at once.
    pub fn shared_rows(&self) -> u64 {
        self.lengths().map(|(rows, count)| rows * (count as u64 - 1)).sum()
    }

    /// The rows of each segment, and how many sequences go through it.
    fn lengths(&self) -> impl Iterator<Item = (u64, usize)> + '_ {
        let start = |before: Option<u32>| before.map_or(0, |id| self.segments[id as usize].0.end);
        let rows = move |(segment, before): &(Segment, Option<u32>)| (segment.end - start(*before)) as u64;
        self.segments.iter().map(rows).zip(self.counts.iter().copied())
    }
}

/// How far the sequences of a group agree, which agree up to `at`.
fn common(group: &[usize], at: usize, token: &impl Fn(usize, usize) -> Option<u32>) -> usize {
    let first = group[0];
    let mut end = (at..).find(|&at| token(first, at).is_none()).unwrap_or(at);
    for &i in &group[1..] {
        end = (at..end).find(|&at| token(i, at) != token(first, at)).unwrap_or(end);
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(from: u32, n: usize) -> Vec<u32> {
        (from..from + n as u32).collect()
    }

    #[test]
    fn sequences_share_what_they_begin_with() {
        let system = numbers(100, 20);
        let a = [system.clone(), numbers(0, 9), vec![7]].concat();
        let b = [system.clone(), numbers(0, 9), vec![8, 8]].concat();
        let c = [system.clone(), numbers(50, 9)].concat();
        let longer = [a.clone(), numbers(0, 30)].concat();
        let all = [a, numbers(900, 40), b, c, longer, numbers(100, 7), system];
        let of = |class: fn(usize) -> u64| Prefixes::of(all.len(), |i, at| all[i].get(at).copied(), class);
        let prefixes = of(|_| 0);
        let ends = |prefixes: &Prefixes, i| -> Vec<usize> {
            prefixes.of_sequence(i).iter().map(|segment| segment.end).collect()
        };
        assert_eq!([0, 1, 2, 3].map(|i| ends(&prefixes, i)), [vec![20, 29], vec![], vec![20, 29], vec![20]]);
        // the last sequence is a beginning of others, and one of fewer than a block's tokens shares nothing
        assert_eq!([4, 5, 6].map(|i| ends(&prefixes, i)), [vec![20, 29], vec![], vec![20]]);
        let id = |i: usize, at: usize| prefixes.of_sequence(i)[at].id;
        assert!(id(0, 0) == id(3, 0) && id(0, 1) == id(4, 1) && id(0, 0) != id(0, 1));
        assert_eq!(prefixes.shared_rows(), 20 * 4 + 9 * 2);
        assert!(of(|i| i as u64).is_empty());
        assert_eq!(prefixes, of(|_| 0), "the same data give the same numbers");
    }

    #[test]
    fn equal_sequences_are_one_segment() {
        let all = vec![numbers(3, 12); 3];
        let prefixes = Prefixes::of(3, |i, at| all[i].get(at).copied(), |_| 0);
        assert_eq!(prefixes.len(), 1);
        assert_eq!(prefixes.of_sequence(2), [Segment { id: 0, end: 12 }]);
    }
}
