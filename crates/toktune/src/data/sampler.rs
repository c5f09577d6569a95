//! The order of examples over epochs, exactly repeatable and resumable.

use super::DataError;
use crate::Result;
use crate::random::Random;

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

/// Hands out batches, epoch after epoch; a batch never spans two epochs, so an epoch's last one may be short.
#[derive(Debug, Clone)]
pub struct Sampler {
    /// The order of the current epoch.
    order: Vec<usize>,
    batch_size: usize,
    /// The seed when the order is drawn, `None` for file order.
    seed: Option<u64>,
    position: Position,
}

impl Sampler {
    /// A sampler at the start. With `shuffle` every epoch has an order of its own, drawn from the seed.
    ///
    /// # Errors
    /// No examples, or a batch size of 0.
    pub fn new(examples: usize, batch_size: usize, shuffle: bool, seed: u64) -> Result<Self> {
        if batch_size == 0 {
            return Err(DataError::BatchSize.into());
        }
        if examples == 0 {
            return Err(DataError::NoLabels { rows: 0, cut_rows: 0 }.into());
        }
        let seed = shuffle.then_some(seed);
        let order = epoch_order(examples, seed, 0);
        Ok(Sampler { order, batch_size, seed, position: Position::default() })
    }

    /// The next batch; there is always one.
    pub fn next_batch(&mut self) -> Batch {
        if self.position.offset >= self.order.len() {
            self.position = Position { epoch: self.position.epoch.wrapping_add(1), offset: 0 };
            self.order = epoch_order(self.order.len(), self.seed, self.position.epoch);
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
            return Err(DataError::Position { offset: position.offset, rows }.into());
        }
        self.order = epoch_order(rows, self.seed, position.epoch);
        self.position = position;
        Ok(())
    }
}

/// The order of one epoch: a Fisher-Yates shuffle that depends on seed and epoch alone, so that any epoch can
/// be entered without drawing those before it.
fn epoch_order(examples: usize, seed: Option<u64>, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..examples).collect();
    if let Some(seed) = seed {
        // The epoch is spread over all bits first: neighbouring seeds and epochs must not share their
        // streams.
        let mut random = Random::new(seed ^ Random::new(epoch.wrapping_add(1)).next());
        for last in (1..order.len()).rev() {
            order.swap(last, random.below(last as u64 + 1) as usize);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(sampler: &mut Sampler) -> Vec<Vec<usize>> {
        (0..sampler.batches_per_epoch()).map(|_| sampler.next_batch().indices).collect()
    }

    #[test]
    fn without_shuffling_rows_come_in_file_order_in_every_epoch() {
        let mut sampler = Sampler::new(5, 2, false, 0).unwrap();
        for _ in 0..2 {
            assert_eq!(epoch(&mut sampler), [vec![0, 1], vec![2, 3], vec![4]]);
        }
        assert_eq!(sampler.next_batch(), Batch { epoch: 2, indices: vec![0, 1] });
    }

    #[test]
    fn the_generator_and_the_order_never_change() {
        // The first value of the published generator for seed 0; the orders are from a second program.
        assert_eq!(Random::new(0).next(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(epoch_order(8, Some(42), 0), [3, 2, 7, 4, 6, 0, 5, 1]);
        assert_eq!(epoch_order(8, Some(42), 1), [6, 2, 4, 0, 1, 7, 5, 3]);
    }

    #[test]
    fn every_epoch_is_a_different_permutation() {
        let mut sampler = Sampler::new(100, 7, true, 3).unwrap();
        let epochs: Vec<Vec<usize>> = (0..3).map(|_| epoch(&mut sampler).concat()).collect();
        for order in &epochs {
            let mut sorted = order.clone();
            sorted.sort();
            assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        }
        assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
        assert_ne!(epoch_order(100, Some(3), 0), epoch_order(100, Some(4), 0));
    }

    #[test]
    fn a_saved_position_goes_on_exactly() {
        for shuffle in [false, true] {
            let mut whole = Sampler::new(10, 3, shuffle, 9).unwrap();
            for _ in 0..12 {
                let mut resumed = Sampler::new(10, 3, shuffle, 9).unwrap();
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
        assert!(Sampler::new(5, 0, true, 0).unwrap_err().to_string().contains("--batch-size is 0"));
        assert!(Sampler::new(0, 1, true, 0).is_err());
        let mut sampler = Sampler::new(5, 2, true, 0).unwrap();
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
