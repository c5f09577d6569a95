//! Which tokens of a text a masked language model is to guess, as transformers'
//! `DataCollatorForLanguageModeling` chooses them.
//!
//! A token is chosen with a probability; of those chosen, 80% are replaced by the mask token, 10% by any token, and
//! 10% stay. The choice is another one in each epoch, and depends on seed, epoch and row alone, not on batches.

use super::{DataError, Example};
use crate::random::Random;
use crate::text::AutoTokenizer;
use std::collections::HashSet;

/// Shares of the chosen tokens.
const MASKED: f64 = 0.8;
const REPLACED: f64 = 0.1;

/// How tokens are chosen and hidden.
#[derive(Clone, Debug, PartialEq)]
pub struct Masking {
    /// What stands in the place of a hidden token; without one, rows must bring their own labels.
    pub mask_token: Option<u32>,
    /// The probability that a token is chosen.
    pub probability: f64,
    /// Tokens that are never chosen: those that frame a text.
    pub special: HashSet<u32>,
    /// Tokens that are chosen wherever they are, special or not.
    pub always: HashSet<u32>,
    /// Tokens of the vocabulary, any of which may replace one.
    pub vocab_size: usize,
    /// Of the choice.
    pub seed: u64,
}

/// A row with some tokens hidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MaskedRow {
    pub ids: Vec<u32>,
    /// The hidden tokens in their places.
    pub targets: Vec<Option<u32>>,
}

impl Masking {
    /// The probability that transformers, and BERT before it, take.
    pub const PROBABILITY: f64 = 0.15;

    /// For rows that bring their own labels.
    pub fn none() -> Self {
        Self {
            mask_token: None,
            probability: Self::PROBABILITY,
            special: HashSet::new(),
            always: HashSet::new(),
            vocab_size: 0,
            seed: 0,
        }
    }

    /// The masking of a tokenizer.
    pub fn of(tokenizer: &AutoTokenizer, seed: u64) -> Self {
        Self {
            mask_token: tokenizer.mask_token_id(),
            probability: Self::PROBABILITY,
            special: tokenizer.special_ids().into_iter().collect(),
            always: HashSet::new(),
            vocab_size: tokenizer.vocab_size(),
            seed,
        }
    }

    /// Checks the settings against a model with `rows` rows.
    pub(super) fn check(&self, rows: usize) -> Result<(), DataError> {
        if !(self.probability > 0.0 && self.probability <= 1.0) {
            return Err(DataError::MaskProbability { found: self.probability });
        }
        if let Some(id) = self.mask_token.filter(|id| *id as usize >= rows) {
            return Err(DataError::NoSuchRow { what: "mask token", id, rows });
        }
        // a tokenizer may know more tokens than the model; those are then not drawn
        Ok(())
    }

    /// Whether a token can be chosen.
    pub(super) fn may_choose(&self, id: u32) -> bool {
        self.always.contains(&id) || !self.special.contains(&id)
    }

    /// Row `index` of the data as epoch `epoch` has it; a row may be left without a target. Tokens drawn lie below
    /// `rows`.
    pub(super) fn masked(&self, example: &Example, index: usize, epoch: u64, rows: usize) -> MaskedRow {
        let mut random = self.random(index, epoch);
        let mut masked =
            MaskedRow { ids: example.input_ids.clone(), targets: vec![None; example.input_ids.len()] };
        for (id, target) in masked.ids.iter_mut().zip(&mut masked.targets) {
            let drawn = random.uniform() < self.probability;
            if !(self.always.contains(id) || drawn && !self.special.contains(id)) {
                continue;
            }
            *target = Some(*id);
            match random.uniform() {
                share if share < MASKED => *id = self.mask_token.unwrap_or(*id),
                share if share < MASKED + REPLACED => {
                    *id = random.below(self.vocab_size.min(rows).max(1) as u64) as u32;
                }
                _ => {}
            }
        }
        masked
    }

    /// A generator of its own for each row of each epoch: one passes through another, so that neighbouring seeds,
    /// epochs and rows share nothing, nor with the order of the rows.
    fn random(&self, index: usize, epoch: u64) -> Random {
        [epoch.wrapping_add(1), index as u64].into_iter().fold(Random::new(!self.seed), |mut random, part| {
            Random::new(random.next() ^ Random::new(part).next())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Source;
    use std::path::Path;

    fn masking() -> Masking {
        Masking {
            mask_token: Some(3),
            probability: Masking::PROBABILITY,
            special: [1, 2, 3].into(),
            always: HashSet::new(),
            vocab_size: 1000,
            seed: 7,
        }
    }

    fn example(input_ids: Vec<u32>) -> Example {
        let source = Source { file: Path::new("x").into(), line: 1 };
        Example {
            input_ids,
            second: Vec::new(),
            labels: Vec::new(),
            weights: Vec::new(),
            cut: Vec::new(),
            source,
        }
    }

    /// `1 ids... 2`, all of them from 10 on.
    fn framed(length: u32) -> Example {
        example([1].into_iter().chain((0..length).map(|i| 10 + i % 500)).chain([2]).collect())
    }

    #[test]
    fn shares_are_those_of_transformers() {
        let example = framed(100_000);
        let row = masking().masked(&example, 0, 0, 1000);
        let chosen = row.targets.iter().flatten().count() as f64;
        assert!((chosen / 100_000.0 - 0.15).abs() < 0.004, "{chosen}");
        let (mut masked, mut kept, mut replaced, mut outside) = (0.0, 0.0, 0.0, 0);
        for ((id, target), before) in row.ids.iter().zip(&row.targets).zip(&example.input_ids) {
            match target {
                None => assert_eq!(id, before, "what is not chosen stays"),
                Some(target) => {
                    assert_eq!(target, before, "the target is what was there");
                    match *id {
                        3 => masked += 1.0,
                        id if id == *before => kept += 1.0,
                        id => {
                            replaced += 1.0;
                            assert!(id < 1000);
                            outside += (id >= 510) as u32;
                        }
                    }
                }
            }
        }
        for (found, expected) in [(masked, 0.8), (kept, 0.1), (replaced, 0.1)] {
            assert!((found / chosen - expected).abs() < 0.015, "{found} of {chosen}");
        }
        assert!(
            (outside as f64 / replaced - 0.49).abs() < 0.05,
            "drawn from the whole vocabulary: {outside}"
        );
        assert_eq!((row.targets[0], row.targets.last()), (None, Some(&None)), "the frame is never chosen");
        let few = masking().masked(&example, 0, 0, 20);
        assert!(few.ids.iter().zip(&example.input_ids).all(|(id, before)| id == before || *id < 20));
    }

    #[test]
    fn the_choice_depends_on_seed_epoch_and_row_alone() {
        let (example, masking) = (framed(200), masking());
        let row = masking.masked(&example, 4, 1, 1000);
        assert_eq!(row, masking.masked(&example, 4, 1, 1000));
        let other = Masking { seed: 8, ..masking.clone() };
        for different in [
            masking.masked(&example, 5, 1, 1000),
            masking.masked(&example, 4, 2, 1000),
            masking.masked(&example, 1, 4, 1000),
            other.masked(&example, 4, 1, 1000),
        ] {
            assert_ne!(row, different);
        }
        // from a second program; were they to change, a run could not be resumed by the next version
        let places: Vec<usize> =
            (0..row.targets.len()).filter(|at| row.targets[*at].is_some()).take(6).collect();
        assert_eq!(places, [6, 9, 10, 32, 72, 75]);
    }

    #[test]
    fn some_tokens_are_chosen_always_and_some_rows_have_none() {
        let example = example(vec![1, 10, 2, 11, 10]);
        let always = Masking { always: [2, 10].into(), probability: 1e-12, ..masking() };
        for index in 0..50 {
            let row = always.masked(&example, index, 0, 1000);
            assert_eq!(row.targets, [None, Some(10), Some(2), None, Some(10)]);
        }
        assert!(always.may_choose(2) && !always.may_choose(1) && always.may_choose(11));
        let never = Masking { probability: 1e-12, ..masking() };
        assert_eq!(never.masked(&example, 0, 0, 1000).targets, [None; 5]);
        let all = Masking { probability: 1.0, ..masking() };
        assert_eq!(all.masked(&example, 0, 0, 1000).targets, [None, Some(10), None, Some(11), Some(10)]);
    }

    #[test]
    fn unusable_settings_are_named() {
        for found in [0.0, -1.0, 1.5, f64::NAN] {
            let error = Masking { probability: found, ..masking() }.check(1000).expect_err("no probability");
            assert!(
                error.to_string().starts_with(&format!("`mlm_probability` is {found}, expected")),
                "{error}"
            );
        }
        let error = masking().check(3).expect_err("no such row").to_string();
        assert_eq!(error, "the mask token has id 3, but the model has 3 rows");
    }
}
