//! The settings of a run, with transformers' names.

use super::budget::MemoryBudget;
use super::log::LOG_FILE;
use super::metric::MetricForBestModel;
use super::norms::RowNorm;
use super::preference::check_dpo;
use super::schedule::LrScheduler;
use crate::engine::constants::{CacheConstants, CacheLocation, check_folder};
use crate::engine::objective::DpoConfig;
use crate::error::{Error, Result};
use crate::peft::SaveEmbeddingLayers;
use crate::weights::WeightsError;
use std::path::{Path, PathBuf};

/// Settings of a [`Trainer`](super::Trainer); the names are those of transformers' class.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TrainingArguments {
    /// Where the adapter, the log and the checkpoints go.
    pub output_dir: PathBuf,
    /// Sequences of a micro-step; where each row is two answers to one prompt, pairs of them.
    pub per_device_train_batch_size: usize,
    /// Micro-steps of an optimizer step; the loss is the mean over the labels of all of them.
    pub gradient_accumulation_steps: usize,
    /// Passes over the data, when `max_steps` is not given; may be a fraction.
    pub num_train_epochs: f64,
    /// Optimizer steps of the run.
    pub max_steps: Option<u64>,
    /// The highest learning rate; `None` is `relative_learning_rate` times the root mean square of the embedding.
    pub learning_rate: Option<f64>,
    /// The highest learning rate as a share of the embedding's root mean square, where `learning_rate` says nothing.
    pub relative_learning_rate: f64,
    /// The highest learning rate of LoRA's updates; `None` is [`LORA_LEARNING_RATE`]. It follows the same schedule.
    pub lora_learning_rate: Option<f64>,
    /// The schedule after the warm-up.
    pub lr_scheduler_type: LrScheduler,
    /// Steps over which the rate rises from 0.
    pub warmup_steps: u64,
    /// Decoupled weight decay; 0 leaves the rows' norms alone.
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm; 0 turns clipping off.
    pub max_grad_norm: f64,
    /// What becomes of the rows' norms after each step.
    pub norm: RowNorm,
    /// Whether every epoch has an order of its own; file order otherwise.
    pub shuffle: bool,
    /// Of the order of the rows.
    pub seed: u64,
    /// Evaluate every so many steps, beside the evaluations before and after.
    pub eval_steps: Option<u64>,
    /// Keep what gave the best of the evaluations after steps, by `metric_for_best_model`, instead of the last values.
    pub load_best_model_at_end: bool,
    /// What the best evaluation is found by.
    pub metric_for_best_model: MetricForBestModel,
    /// Held-out rows that the tokens are tried on at each evaluation where the metric is their emission.
    pub emission_prompts: usize,
    /// End the run when so many evaluations in a row were no better, by `metric_for_best_model`.
    pub early_stopping_patience: Option<u64>,
    /// Write a checkpoint every so many steps.
    pub save_steps: Option<u64>,
    /// Keep so many checkpoints, the newest ones; all where nothing is said.
    pub save_total_limit: Option<u64>,
    /// Go on from the last checkpoint in `output_dir`.
    pub resume: bool,
    /// Resume although settings are others than those that the run began with.
    pub resume_anyway: bool,
    /// Whether whole embeddings are stored with the adapter; the rows alone need none of it.
    pub save_embedding_layers: SaveEmbeddingLayers,
    /// What of a step's activations is kept for the backward pass instead of being computed again. Results do not depend on it.
    pub memory_budget: MemoryBudget,
    /// Keep what does not depend on the trained rows from one epoch to the next. Results do not depend on it.
    pub cache_constants: Option<CacheConstants>,
    /// Rows that examples begin with alike are computed once a batch, and such examples are brought together when they are
    /// shuffled. Losses and gradients are the same to rounding.
    pub share_prefixes: bool,
    /// How two answers to one prompt are learnt; of no account to other data.
    pub dpo: DpoConfig,
}

/// The default learning rate as a share of the embedding's root mean square: Adam moves every entry by about the rate in
/// every step, so what matters is how large it is beside the entries. At a third of it the tokens of a short run are likely where they
/// belong and the model does not come there by itself (`docs/training.md`).
pub const RELATIVE_LEARNING_RATE: f64 = 0.1;

/// The same for rows that are to be like what a teacher gave: they begin near to it, and a higher rate carries them past it.
pub const RELATIVE_DISTILLATION_RATE: f64 = 0.03;

/// Held-out rows that tokens are tried on at an evaluation during a run: few, since texts are written a token at a time.
pub const EMISSION_PROMPTS: usize = 8;

/// The default learning rate of LoRA's updates, which start near 0 and are not measured by the embedding.
pub const LORA_LEARNING_RATE: f64 = 2e-4;

impl TrainingArguments {
    /// The defaults, for a run into `output_dir`: one epoch of batches of 8, a constant rate, clipping at 1.
    pub fn new(output_dir: impl Into<PathBuf>) -> Self {
        Self {
            output_dir: output_dir.into(),
            per_device_train_batch_size: 8,
            gradient_accumulation_steps: 1,
            num_train_epochs: 1.0,
            max_steps: None,
            learning_rate: None,
            relative_learning_rate: RELATIVE_LEARNING_RATE,
            lora_learning_rate: None,
            lr_scheduler_type: LrScheduler::Constant,
            warmup_steps: 0,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            norm: RowNorm::Free,
            shuffle: true,
            seed: 42,
            eval_steps: None,
            load_best_model_at_end: false,
            metric_for_best_model: MetricForBestModel::Loss,
            emission_prompts: EMISSION_PROMPTS,
            early_stopping_patience: None,
            save_steps: None,
            save_total_limit: None,
            resume: false,
            resume_anyway: false,
            save_embedding_layers: SaveEmbeddingLayers::No,
            memory_budget: MemoryBudget::default(),
            cache_constants: None,
            share_prefixes: true,
            dpo: DpoConfig::default(),
        }
    }

    /// Checks each setting on its own.
    ///
    /// # Errors
    /// One is outside its range; the error names it.
    pub fn check(&self) -> Result<()> {
        let at_least_one = [
            ("batch_size", self.per_device_train_batch_size as u64),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps as u64),
            ("max_steps", self.max_steps.unwrap_or(1)),
            ("eval_every", self.eval_steps.unwrap_or(1)),
            ("save_every", self.save_steps.unwrap_or(1)),
            ("keep_last", self.save_total_limit.unwrap_or(1)),
            ("early_stopping_patience", self.early_stopping_patience.unwrap_or(1)),
            (
                "emission_prompts",
                match self.metric_for_best_model {
                    MetricForBestModel::Emission => self.emission_prompts as u64,
                    MetricForBestModel::Loss => 1,
                },
            ),
        ];
        if let Some((name, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(Error::Argument { name, expected: "at least 1", found: "0".into() });
        }
        let numbers = [
            ("num_epochs", self.num_train_epochs, self.num_train_epochs > 0.0, "more than 0"),
            (
                "learning_rate",
                self.learning_rate.unwrap_or(1.0),
                self.learning_rate.is_none_or(|x| x > 0.0),
                "more than 0",
            ),
            (
                "lora_learning_rate",
                self.lora_learning_rate.unwrap_or(1.0),
                self.lora_learning_rate.is_none_or(|x| x > 0.0),
                "more than 0",
            ),
            (
                "relative_learning_rate",
                self.relative_learning_rate,
                self.relative_learning_rate > 0.0,
                "more than 0",
            ),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0.0, "at least 0"),
            ("max_grad_norm", self.max_grad_norm, self.max_grad_norm >= 0.0, "at least 0"),
        ];
        if self.eval_steps.is_none() {
            let needing = [
                ("keep_best", self.load_best_model_at_end),
                ("early_stopping_patience", self.early_stopping_patience.is_some()),
            ];
            if let Some((name, _)) = needing.iter().find(|(_, is_wanted)| *is_wanted) {
                return Err(Error::Argument {
                    name,
                    expected: "`eval_every` beside it",
                    found: "none".into(),
                });
            }
        }
        check_dpo(&self.dpo)?;
        if let RowNorm::Clamp(most) = self.norm
            && !(most > 0.0 && most.is_finite())
        {
            return Err(Error::Argument {
                name: "norm",
                expected: "more than 0",
                found: self.norm.to_string(),
            });
        }
        if let Some(CacheConstants { location: CacheLocation::Folder(folder), .. }) = &self.cache_constants {
            check_folder(folder)?;
        }
        match numbers.iter().find(|(_, value, fine, _)| !(*fine && value.is_finite())) {
            Some((name, value, _, expected)) => {
                Err(Error::Argument { name, expected, found: value.to_string() })
            }
            None => Ok(()),
        }
    }

    /// Checks that a run may write into the output folder: it is new or empty, or holds the run that is to be resumed.
    /// Nothing is written.
    ///
    /// # Errors
    /// It holds something else, or cannot be read.
    pub fn check_output(&self) -> Result<()> {
        let folder: &Path = &self.output_dir;
        let mut names: Vec<String> = match std::fs::read_dir(folder) {
            Ok(entries) => entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(WeightsError::io(folder)(e).into()),
        };
        names.retain(|name| !super::lock::is_leftover(name));
        let is_run = names.iter().any(|name| name == LOG_FILE);
        if names.is_empty() || ((self.resume || self.resume_anyway) && is_run) {
            return Ok(());
        }
        names.sort();
        names.truncate(3);
        Err(Error::OutputNotEmpty { folder: folder.to_path_buf(), is_run, holds: names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_checked_by_name() {
        let good = TrainingArguments::new("out");
        assert!(good.check().is_ok());
        let untried = TrainingArguments {
            metric_for_best_model: MetricForBestModel::Emission,
            emission_prompts: 0,
            ..good.clone()
        };
        let faults: [(&str, TrainingArguments); 13] = [
            ("emission_prompts", untried),
            ("lora_learning_rate", TrainingArguments { lora_learning_rate: Some(0.0), ..good.clone() }),
            ("batch_size", TrainingArguments { per_device_train_batch_size: 0, ..good.clone() }),
            ("norm", TrainingArguments { norm: RowNorm::Clamp(0.0), ..good.clone() }),
            ("norm", TrainingArguments { norm: RowNorm::Clamp(f64::NAN), ..good.clone() }),
            ("keep_last", TrainingArguments { save_total_limit: Some(0), ..good.clone() }),
            ("keep_best", TrainingArguments { load_best_model_at_end: true, ..good.clone() }),
            ("patience", TrainingArguments { early_stopping_patience: Some(2), ..good.clone() }),
            ("max_steps", TrainingArguments { max_steps: Some(0), ..good.clone() }),
            ("num_epochs", TrainingArguments { num_train_epochs: 0.0, ..good.clone() }),
            ("learning_rate", TrainingArguments { learning_rate: Some(f64::NAN), ..good.clone() }),
            ("weight_decay", TrainingArguments { weight_decay: -1.0, ..good.clone() }),
            ("max_grad_norm", TrainingArguments { max_grad_norm: f64::INFINITY, ..good.clone() }),
        ];
        for (name, arguments) in faults {
            let message = arguments.check().expect_err(name).to_string();
            assert!(message.contains(name), "{message}");
        }
    }
}
