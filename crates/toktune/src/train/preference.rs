//! Two answers to one prompt: what the model gave them when the run began, and how they compare since.

use crate::data::{Dataset, RaggedBatch};
use crate::engine::constants::CachedExamples;
use crate::engine::objective::{
    DpoConfig, DpoLoss, Preference, PreferenceSums, ReferencePair, sequence_logps,
};
use crate::engine::runner::{StepOptions, Wanted};
use crate::error::{Error, Result};
use crate::models::PretrainedModel;
use crate::peft::HeldRows;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// How the answers of some pairs compare, each a mean over the pairs, by TRL's names. A reward is `beta` times what the model's
/// log-probability of an answer is above the reference's.
///
/// ```no_run
/// use toktune::config::TrainableTokensConfig;
/// use toktune::data::{DataOptions, Dataset};
/// use toktune::train::DpoLoss;
/// use toktune::{AutoModelForCausalLM, AutoTokenizer, Device, Trainer, TrainingArguments, get_peft_model};
///
/// # fn main() -> toktune::Result<()> {
/// let base = AutoModelForCausalLM::from_pretrained("path/to/model", &Device::Cpu)?;
/// let tokenizer = AutoTokenizer::from_checkpoint(base.checkpoint())?;
/// // rows with `prompt`, `chosen` and `rejected`
/// let options = DataOptions::for_model(&base, Some(&tokenizer));
/// let pairs = Dataset::read(&["pairs.jsonl"], Some(&tokenizer), &options)?;
/// assert!(pairs.is_preference());
/// let model = get_peft_model(base, TrainableTokensConfig::new([7]))?;
/// let mut arguments = TrainingArguments::new("out");
/// (arguments.dpo.loss_type, arguments.dpo.beta) = (DpoLoss::ApoZero, 0.2);
/// let mut trainer = Trainer::new(model, arguments, pairs)?;
/// let log = trainer.step()?;
/// println!("margin {:?}", log.preference.map(|compared| compared.margins));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PreferenceMetrics {
    /// The reward of the chosen answer.
    #[serde(rename = "rewards/chosen")]
    pub rewards_chosen: f64,
    /// That of the rejected one.
    #[serde(rename = "rewards/rejected")]
    pub rewards_rejected: f64,
    /// The share of pairs whose chosen answer has the larger reward.
    #[serde(rename = "rewards/accuracies")]
    pub accuracies: f64,
    /// The chosen answer's reward less the rejected one's.
    #[serde(rename = "rewards/margins")]
    pub margins: f64,
    /// The log-probability of the chosen answer, in nats.
    #[serde(rename = "logps/chosen")]
    pub logps_chosen: f64,
    /// That of the rejected one.
    #[serde(rename = "logps/rejected")]
    pub logps_rejected: f64,
}

impl PreferenceMetrics {
    /// Each figure with TRL's name of it.
    pub fn named(&self) -> [(&'static str, f64); 6] {
        [
            ("rewards/chosen", self.rewards_chosen),
            ("rewards/rejected", self.rewards_rejected),
            ("rewards/accuracies", self.accuracies),
            ("rewards/margins", self.margins),
            ("logps/chosen", self.logps_chosen),
            ("logps/rejected", self.logps_rejected),
        ]
    }

    pub(super) fn of(sums: &PreferenceSums) -> Self {
        let mean = |sum: f64| sum / sums.pairs.max(1) as f64;
        Self {
            rewards_chosen: mean(sums.rewards_chosen),
            rewards_rejected: mean(sums.rewards_rejected),
            accuracies: mean(sums.accurate as f64),
            margins: mean(sums.rewards_chosen - sums.rewards_rejected),
            logps_chosen: mean(sums.logps_chosen),
            logps_rejected: mean(sums.logps_rejected),
        }
    }
}

/// Checks how pairs are to be learnt.
pub(super) fn check_dpo(of: &DpoConfig) -> Result<()> {
    if !(of.beta > 0.0 && of.beta.is_finite()) {
        return Err(Error::Argument { name: "beta", expected: "more than 0", found: of.beta.to_string() });
    }
    let found = || of.label_smoothing.to_string();
    if !(0.0..0.5).contains(&of.label_smoothing) {
        let expected = "at least 0 and less than 0.5";
        return Err(Error::Argument { name: "label_smoothing", expected, found: found() });
    }
    if of.label_smoothing != 0.0 && of.loss_type != DpoLoss::Sigmoid {
        let expected = "0 beside an anchored loss";
        return Err(Error::Argument { name: "label_smoothing", expected, found: found() });
    }
    Ok(())
}

/// The model that two answers are compared with, which does not change: the one that a run begins with, or the base. What it gives
/// a pair is computed when the pair is first seen, and kept.
#[derive(Debug)]
pub(super) struct Reference {
    rows: HeldRows,
    config: DpoConfig,
    /// By example: the log-probabilities of the chosen and the rejected answer.
    known: Mutex<HashMap<usize, [f64; 2]>>,
}

impl Reference {
    pub(super) fn new(rows: HeldRows, config: DpoConfig) -> Self {
        Self { rows, config, known: Mutex::default() }
    }

    pub(super) fn config(&self) -> DpoConfig {
        self.config
    }

    /// A hash of its rows and updates, in hexadecimal digits.
    pub(super) fn fingerprint(&self) -> String {
        let mut hash = blake3::Hasher::new();
        let trained = self.rows.active().trained();
        let rows = trained.rows.iter().map(|rows| &rows.values[..]);
        for values in rows.chain(trained.updates.iter().flat_map(|update| [update.a, update.b])) {
            hash.update(&(values.len() as u64).to_le_bytes());
            for x in values {
                hash.update(&x.to_le_bytes());
            }
        }
        hash.finalize().to_hex().to_string()
    }

    /// The objective of a batch of the examples `indices` of `data`. Constants are those of the model that is trained: what does not
    /// depend on its rows is the same here.
    pub(super) fn objective(
        &self,
        (model, data): (&PretrainedModel, &Dataset),
        (indices, batch): (&[usize], &RaggedBatch),
        constants: Option<CachedExamples<'_>>,
    ) -> Result<Preference> {
        // a panic elsewhere leaves whole pairs
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !indices.iter().all(|index| known.contains_key(index)) {
            let trained = self.rows.active().trained();
            let options = StepOptions::new(0, constants);
            let losses = model.step(batch, &trained, Wanted::LossesAsTrained, options)?.losses;
            let logps = sequence_logps(&losses.losses, 2 * indices.len());
            let of_pairs = logps.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
            known.extend(indices.iter().copied().zip(of_pairs));
        }
        let pair = |index: &usize| -> Result<ReferencePair> {
            let [chosen, rejected] = known.get(index).copied().unwrap_or_default();
            let weight = data.example(*index)?.weights.first().copied().unwrap_or(1.0);
            Ok(ReferencePair { chosen, rejected, weight })
        };
        let pairs = indices.iter().map(pair).collect::<Result<_>>()?;
        Ok(Preference::new(self.config, pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_means_over_pairs_under_the_names_of_trl() {
        let mut sums = PreferenceSums::default();
        assert_eq!(PreferenceMetrics::of(&sums), PreferenceMetrics::default());
        (sums.pairs, sums.accurate) = (4, 3);
        (sums.rewards_chosen, sums.rewards_rejected) = (2.0, -4.0);
        (sums.logps_chosen, sums.logps_rejected) = (-40.0, -80.0);
        let metrics = PreferenceMetrics::of(&sums);
        let json = serde_json::to_value(metrics).expect("numbers");
        let expected = [0.5, -1.0, 0.75, 1.5, -10.0, -20.0];
        for ((name, value), expected) in metrics.named().into_iter().zip(expected) {
            assert_eq!((value, json[name].as_f64()), (expected, Some(expected)), "{name}");
        }
        assert_eq!(json.as_object().map(|fields| fields.len()), Some(6));
    }

    #[test]
    fn settings_outside_their_range_are_named() {
        let of = |change: fn(&mut DpoConfig)| {
            let mut config = DpoConfig::default();
            change(&mut config);
            check_dpo(&config).map_err(|error| error.to_string())
        };
        assert_eq!(of(|_| {}), Ok(()));
        assert_eq!(of(|dpo| dpo.label_smoothing = 0.2), Ok(()));
        let named = |result: Result<(), String>, name: &str| {
            assert!(result.as_ref().is_err_and(|error| error.contains(name)), "{result:?}");
        };
        for found in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let mut config = DpoConfig::default();
            config.beta = found;
            assert!(
                check_dpo(&config)
                    .is_err_and(|error| error.to_string().starts_with("beta: expected more than 0"))
            );
        }
        named(
            of(|dpo| dpo.label_smoothing = 0.5),
            "label_smoothing: expected at least 0 and less than 0.5, found 0.5",
        );
        let anchored = |dpo: &mut DpoConfig| (dpo.loss_type, dpo.label_smoothing) = (DpoLoss::ApoZero, 0.1);
        named(of(anchored), "0 beside an anchored loss");
    }
}
