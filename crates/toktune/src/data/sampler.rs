//! The order of examples over epochs, exactly repeatable and resumable.

use super::DataError;
use crate::data::error::Result;
use crate::engine::prefixes::Prefixes;
use crate::random::Random;
use std::collections::HashMap;
use std::sync::Arc;

/// Where a run stands: enough, with the data, batch size and seed, to go on exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// The epoch, from 0.
    pub epoch: u64,
    /// How many examples of the epoch were handed out.
    pub offset: usize,
}

/// The examples of one micro-step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The epoch it belongs to, from 0.
    pub epoch: u64,
    /// Indices into the dataset.
    pub indices: Vec<usize>,
}

/// The examples of one source, which follow each other in the dataset.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Share {
    /// How many there are.
    pub examples: usize,
    /// How often each is seen in an epoch.
    pub weight: f64,
}

impl Share {
    /// Of a whole dataset that is seen once an epoch.
    pub fn once(examples: usize) -> Self {
        Share { examples, weight: 1.0 }
    }

    /// How many examples of it an epoch has.
    pub(super) fn per_epoch(&self) -> usize {
        let (whole, more) = self.rounds();
        whole * self.examples + more
    }

    /// How often every example is seen in an epoch, and how many once more.
    fn rounds(&self) -> (usize, usize) {
        let (whole, part) = (self.weight.floor(), self.weight.fract());
        (whole as usize, (part * self.examples as f64).round() as usize)
    }
}

/// Hands out batches, epoch after epoch; a batch never spans two epochs, so an epoch's last one may be short.
#[derive(Debug, Clone)]
pub struct Sampler {
    shares: Vec<Share>,
    /// The order of the current epoch.
    order: Vec<usize>,
    batch_size: usize,
    /// The seed when the order is drawn, `None` for file order.
    seed: Option<u64>,
    /// What examples begin with alike.
    prefixes: Arc<Prefixes>,
    position: Position,
}

impl Sampler {
    /// A sampler at the start. With `shuffle` every epoch has an order of its own, drawn from the seed.
    ///
    /// # Errors
    /// No examples in an epoch, or a batch size of 0.
    pub fn new(shares: Vec<Share>, batch_size: usize, shuffle: bool, seed: u64) -> Result<Self> {
        if batch_size == 0 {
            return Err(DataError::BatchSize);
        }
        let seed = shuffle.then_some(seed);
        let order = epoch_order(&shares, seed, 0);
        if order.is_empty() {
            return Err(DataError::NoLabels { rows: 0, cut_rows: 0 });
        }
        let prefixes = Arc::default();
        Ok(Sampler { shares, order, batch_size, seed, prefixes, position: Position::default() })
    }

    /// The same with a drawn order that brings examples together which begin alike: every epoch draws an order as without, lays
    /// side by side what begins alike, longest beginning first, cuts batches, and draws an order of the whole ones; a
    /// shorter one stays the last. Without drawing the order is that of the files.
    pub fn with_prefixes(mut self, prefixes: Arc<Prefixes>) -> Self {
        self.prefixes = prefixes;
        self.order = self.order_of(self.position.epoch);
        self
    }

    /// The order of an epoch.
    fn order_of(&self, epoch: u64) -> Vec<usize> {
        let order = epoch_order(&self.shares, self.seed, epoch);
        match self.seed.filter(|_| !self.prefixes.is_empty()) {
            None => order,
            Some(seed) => {
                let gathered = gathered(order, &self.prefixes);
                let mut batches: Vec<&[usize]> = gathered.chunks(self.batch_size).collect();
                let last = batches.pop_if(|batch| batch.len() < self.batch_size);
                shuffle(&mut batches, &mut generator(seed.wrapping_add(1), epoch));
                batches.into_iter().chain(last).flatten().copied().collect()
            }
        }
    }

    /// The next batch; there is always one.
    pub fn next_batch(&mut self) -> Batch {
        if self.position.offset >= self.order.len() {
            self.position = Position { epoch: self.position.epoch.wrapping_add(1), offset: 0 };
            self.order = self.order_of(self.position.epoch);
        }
        let start = self.position.offset;
        let end = self.order.len().min(start.saturating_add(self.batch_size));
        self.position.offset = end;
        Batch { epoch: self.position.epoch, indices: self.order[start..end].to_vec() }
    }

    /// The number of batches of an epoch.
    pub fn batches_per_epoch(&self) -> usize {
        self.order.len().div_ceil(self.batch_size)
    }

    /// Where the run stands, to be saved.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Goes to a saved position: what follows is what would have followed there.
    ///
    /// # Errors
    /// A position beyond the data, which is then not the data it was saved with.
    pub fn seek(&mut self, position: Position) -> Result<()> {
        let rows = self.order.len();
        if position.offset > rows {
            return Err(DataError::Position { offset: position.offset, rows });
        }
        self.order = self.order_of(position.epoch);
        self.position = position;
        Ok(())
    }
}

/// The order of one epoch: a Fisher-Yates shuffle that depends on seed and epoch alone, so that any epoch can
/// be entered without drawing those before it.
fn epoch_order(shares: &[Share], seed: Option<u64>, epoch: u64) -> Vec<usize> {
    let mut random = seed.map(|seed| generator(seed, epoch));
    let mut order: Vec<usize> = Vec::with_capacity(shares.iter().map(Share::per_epoch).sum());
    let mut first = 0;
    for share in shares {
        let all = first..first + share.examples;
        let (whole, more) = share.rounds();
        (0..whole).for_each(|_| order.extend(all.clone()));
        if more > 0 {
            match &mut random {
                Some(random) => {
                    let mut drawn: Vec<usize> = all.clone().collect();
                    shuffle(&mut drawn, random);
                    drawn.truncate(more);
                    // as the file has them, until the whole order is drawn
                    drawn.sort_unstable();
                    order.extend(drawn);
                }
                // in file order, each epoch goes on where the one before ended
                None => {
                    let start = (epoch as u128 * more as u128 % share.examples as u128) as usize;
                    order.extend((start..start + more).map(|at| first + at % share.examples));
                }
            }
        }
        first = all.end;
    }
    if let Some(random) = &mut random {
        shuffle(&mut order, random);
    }
    order
}

/// The random numbers of an epoch. The epoch is spread over all bits first: neighbouring seeds and epochs must not share their
/// streams.
fn generator(seed: u64, epoch: u64) -> Random {
    Random::new(seed ^ Random::new(epoch.wrapping_add(1)).next())
}

/// The same examples with those side by side that begin alike, each group where its first one was.
fn gathered(order: Vec<usize>, prefixes: &Prefixes) -> Vec<usize> {
    let paths: Vec<Vec<u32>> = order
        .iter()
        .map(|&example| prefixes.of_sequence(example).iter().map(|segment| segment.id).collect())
        .collect();
    // where each segment was first seen decides its place among those beside it
    let mut first: HashMap<u32, usize> = HashMap::new();
    for (at, path) in paths.iter().enumerate() {
        for id in path {
            first.entry(*id).or_insert(at);
        }
    }
    let mut places: Vec<(Vec<usize>, usize)> = paths
        .iter()
        .enumerate()
        .map(|(at, path)| (path.iter().map(|id| first[id]).chain([at]).collect(), order[at]))
        .collect();
    places.sort_by(|a, b| a.0.cmp(&b.0));
    places.into_iter().map(|(_, example)| example).collect()
}

fn shuffle<T>(order: &mut [T], random: &mut Random) {
    for last in (1..order.len()).rev() {
        order.swap(last, random.below(last as u64 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(sampler: &mut Sampler) -> Vec<Vec<usize>> {
        (0..sampler.batches_per_epoch()).map(|_| sampler.next_batch().indices).collect()
    }

    #[test]
    fn without_shuffling_rows_come_in_file_order_in_every_epoch() {
        let mut sampler = Sampler::new(vec![Share::once(5)], 2, false, 0).unwrap();
        for _ in 0..2 {
            assert_eq!(epoch(&mut sampler), [vec![0, 1], vec![2, 3], vec![4]]);
        }
        assert_eq!(sampler.next_batch(), Batch { epoch: 2, indices: vec![0, 1] });
    }

    #[test]
    fn the_generator_and_the_order_never_change() {
        // The first value of the published generator for seed 0; the orders are from a second program.
        assert_eq!(Random::new(0).next(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(epoch_order(&[Share::once(8)], Some(42), 0), [3, 2, 7, 4, 6, 0, 5, 1]);
        assert_eq!(epoch_order(&[Share::once(8)], Some(42), 1), [6, 2, 4, 0, 1, 7, 5, 3]);
    }

    #[test]
    fn weights_say_how_often_a_source_is_seen() {
        let shares = vec![Share { examples: 4, weight: 2.0 }, Share { examples: 5, weight: 0.4 }];
        for seed in [None, Some(7)] {
            let mut seen = [0; 9];
            for round in 0..5 {
                let order = epoch_order(&shares, seed, round);
                assert_eq!(order.len(), 8 + 2);
                (0..4).for_each(|row| assert_eq!(order.iter().filter(|of| **of == row).count(), 2));
                order.iter().for_each(|row| seen[*row] += 1);
            }
            assert_eq!(seen[4..].iter().sum::<i32>(), 10);
            // in file order every row has its turn
            assert!(seed.is_some() || seen[4..] == [2; 5], "{seen:?}");
        }
        assert_ne!(epoch_order(&shares, Some(7), 0), epoch_order(&shares, Some(7), 1));
        let none = Sampler::new(vec![Share { examples: 4, weight: 0.1 }], 1, true, 0);
        assert!(none.is_err(), "not one row");
    }

    #[test]
    fn every_epoch_is_a_different_permutation() {
        let mut sampler = Sampler::new(vec![Share::once(100)], 7, true, 3).unwrap();
        let epochs: Vec<Vec<usize>> = (0..3).map(|_| epoch(&mut sampler).concat()).collect();
        for order in &epochs {
            let mut sorted = order.clone();
            sorted.sort();
            assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        }
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
        assert_ne!(
            epoch_order(&[Share::once(100)], Some(3), 0),
            epoch_order(&[Share::once(100)], Some(4), 0)
        );
    }

    #[test]
    fn a_saved_position_goes_on_exactly() {
        for shuffle in [false, true] {
            let mut whole = Sampler::new(vec![Share::once(10)], 3, shuffle, 9).unwrap();
            for _ in 0..12 {
                let mut resumed = Sampler::new(vec![Share::once(10)], 3, shuffle, 9).unwrap();
                resumed.seek(whole.position()).unwrap();
                let mut straight = whole.clone();
                for _ in 0..9 {
                    assert_eq!(resumed.next_batch(), straight.next_batch());
                }
                whole.next_batch();
            }
        }
    }

    #[test]
    fn what_cannot_be_sampled_is_refused() {
        assert!(
            Sampler::new(vec![Share::once(5)], 0, true, 0)
                .unwrap_err()
                .to_string()
                .contains("`batch_size` is 0")
        );
        assert!(Sampler::new(vec![Share::once(0)], 1, true, 0).is_err());
        let mut sampler = Sampler::new(vec![Share::once(5)], 2, true, 0).unwrap();
        let error = sampler.seek(Position { epoch: 0, offset: 6 }).unwrap_err().to_string();
        assert!(error.contains("row 6") && error.contains("5 rows"), "{error}");
    }

    #[test]
    fn draws_are_even() {
        let mut random = Random::new(1);
        let mut counts = [0u32; 6];
        (0..60_000).for_each(|_| counts[random.below(6) as usize] += 1);
        // Four standard deviations of a fair die.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 370), "{counts:?}");
    }
}
