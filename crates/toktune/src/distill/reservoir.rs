//! Some of a stream, each of all as likely as any other.

use crate::random::Random;

/// Keeps some of what it is given (reservoir sampling, Vitter's algorithm R).
#[derive(Debug)]
pub(super) struct Reservoir<T> {
    kept: Vec<(u64, T)>,
    room: usize,
    seen: u64,
    random: Random,
}

impl<T> Reservoir<T> {
    /// Keeps `room` at most; the names tell its choice from that of another.
    pub(super) fn new(room: usize, seed: u64, names: &[&str]) -> Self {
        Self { kept: Vec::new(), room, seen: 0, random: Random::named(seed, names) }
    }

    pub(super) fn take(&mut self, item: T) {
        self.seen += 1;
        let entry = (self.seen, item);
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

    /// What is kept now.
    #[cfg(test)]
    pub(super) fn kept(&self) -> impl Iterator<Item = &T> {
        self.kept.iter().map(|(_, item)| item)
    }

    /// In the order in which they came.
    pub(super) fn finish(mut self) -> impl Iterator<Item = T> {
        self.kept.sort_by_key(|(at, _)| *at);
        self.kept.into_iter().map(|(_, item)| item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_one_is_kept_with_the_same_chance() {
        let mut counts = [0usize; 10];
        for seed in 0..2000 {
            let mut reservoir = Reservoir::new(3, seed, &["x"]);
            (0..10).for_each(|i| reservoir.take(i));
            reservoir.finish().for_each(|i: usize| counts[i] += 1);
        }
        assert!(counts.iter().all(|count| (500..700).contains(count)), "{counts:?}");
    }
}
