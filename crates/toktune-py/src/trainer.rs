//! Runs.

use crate::callback::{PyCallback, finished};
use crate::dataset::Dataset;
use crate::errors::{argument, raise};
use crate::model::Model;
use crate::processes::joined;
use crate::tokenizer::{Tokenizer, cloned};
use crate::values::parsed;
use pyo3::prelude::*;
use serde::Deserialize;
use std::path::PathBuf;
use toktune::peft::{PeftModel, SaveEmbeddingLayers};
use toktune::report::{Report, StartRows};
use toktune::train::{
    CacheConstants, CacheLocation, DpoLoss, LrScheduler, MemoryBudget, TensorBoard, TrainOutput, Trainer,
    TrainingArguments,
};
use toktune::workers::WorkersError;
use toktune::{Error, Result};

/// [`TrainingArguments`] as Python writes them; each name is theirs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    output_dir: PathBuf,
    per_device_train_batch_size: usize,
    gradient_accumulation_steps: usize,
    num_train_epochs: f64,
    max_steps: Option<u64>,
    learning_rate: Option<f64>,
    relative_learning_rate: Option<f64>,
    lora_learning_rate: Option<f64>,
    lr_scheduler_type: String,
    warmup_steps: u64,
    weight_decay: f64,
    max_grad_norm: f64,
    norm: Option<String>,
    shuffle: bool,
    seed: u64,
    eval_steps: Option<u64>,
    load_best_model_at_end: bool,
    metric_for_best_model: Option<String>,
    early_stopping_patience: Option<u64>,
    save_steps: Option<u64>,
    save_total_limit: Option<u64>,
    resume: bool,
    save_embedding_layers: bool,
    /// `free`, `min`, or bytes.
    memory_budget: Option<String>,
    /// Whether constants are kept from one epoch to the next: in memory (`ram`), or in a folder; at most so many bytes.
    cache_constants: Option<(String, u64)>,
    share_prefixes: bool,
    beta: Option<f64>,
    loss_type: Option<String>,
    label_smoothing: Option<f64>,
}

impl Arguments {
    fn arguments(self) -> PyResult<TrainingArguments> {
        let mut to = TrainingArguments::new(self.output_dir);
        to.per_device_train_batch_size = self.per_device_train_batch_size;
        to.gradient_accumulation_steps = self.gradient_accumulation_steps;
        to.num_train_epochs = self.num_train_epochs;
        to.max_steps = self.max_steps;
        to.learning_rate = self.learning_rate;
        to.relative_learning_rate = self.relative_learning_rate.unwrap_or(to.relative_learning_rate);
        to.lora_learning_rate = self.lora_learning_rate;
        let schedule = LrScheduler::NAMES.iter().find(|(name, _)| *name == self.lr_scheduler_type);
        to.lr_scheduler_type = match schedule {
            Some((_, kind)) => *kind,
            None => {
                return Err(argument(
                    "lr_scheduler_type",
                    "constant, linear or cosine",
                    self.lr_scheduler_type,
                ));
            }
        };
        to.warmup_steps = self.warmup_steps;
        to.weight_decay = self.weight_decay;
        to.max_grad_norm = self.max_grad_norm;
        if let Some(norm) = &self.norm {
            to.norm = norm.parse().map_err(|problem: String| argument("norm", &problem, norm))?;
        }
        to.shuffle = self.shuffle;
        to.seed = self.seed;
        to.eval_steps = self.eval_steps;
        to.load_best_model_at_end = self.load_best_model_at_end;
        if let Some(metric) = &self.metric_for_best_model {
            let fault = |_: String| argument("metric_for_best_model", "loss or emission", metric);
            to.metric_for_best_model = metric.parse().map_err(fault)?;
        }
        to.early_stopping_patience = self.early_stopping_patience;
        to.save_steps = self.save_steps;
        to.save_total_limit = self.save_total_limit;
        to.resume = self.resume;
        if self.save_embedding_layers {
            to.save_embedding_layers = SaveEmbeddingLayers::Yes;
        }
        to.memory_budget = match self.memory_budget.as_deref() {
            None | Some("free") => MemoryBudget::Free,
            Some("min") => MemoryBudget::Min,
            Some(bytes) => MemoryBudget::Bytes(
                bytes.parse().map_err(|_| argument("memory_budget", "\"free\", \"min\" or bytes", bytes))?,
            ),
        };
        to.cache_constants = self.cache_constants.map(|(place, limit)| {
            let location = match place.as_str() {
                "ram" => CacheLocation::Memory,
                _ => CacheLocation::Folder(place.into()),
            };
            CacheConstants::new(location, limit)
        });
        to.share_prefixes = self.share_prefixes;
        to.dpo.beta = self.beta.unwrap_or(to.dpo.beta);
        to.dpo.label_smoothing = self.label_smoothing.unwrap_or(to.dpo.label_smoothing);
        if let Some(name) = &self.loss_type {
            let form = DpoLoss::NAMES.iter().find(|(known, _)| known == name);
            to.dpo.loss_type = match form {
                Some((_, form)) => *form,
                None => return Err(argument("loss_type", "sigmoid, apo_zero or apo_down", name)),
            };
        }
        Ok(to)
    }
}

/// What a run of these settings would be: its highest learning rate and its number of steps.
#[pyfunction]
pub fn schedule(py: Python<'_>, model: &Model, arguments: &str, data: &Dataset) -> PyResult<(f64, u64)> {
    let arguments = parsed::<Arguments>("the arguments", arguments)?.arguments()?;
    model.look(py, |seen| {
        let plan = Trainer::plan(seen.adapted()?, &arguments, &data.inner).map_err(raise)?;
        Ok((plan.learning_rate, plan.total_steps))
    })
}

/// What is written beside a run.
struct Beside {
    tensorboard: bool,
    report: bool,
    command: Option<String>,
}

/// Trains the active adapter of a model, and tells `handler` of it; what came of it, as JSON. The model is away until it ends.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "keywords of Python; a class would say each of them twice")]
#[pyo3(signature = (model, arguments, train_data, eval_data, tokenizer, handler, *, base_name, tensorboard, report, command))]
pub fn train(
    py: Python<'_>,
    model: &Model,
    arguments: &str,
    train_data: &Dataset,
    eval_data: Option<&Dataset>,
    tokenizer: Option<&Tokenizer>,
    handler: Py<PyAny>,
    base_name: Option<&str>,
    tensorboard: bool,
    report: bool,
    command: Option<String>,
) -> PyResult<String> {
    let arguments = parsed::<Arguments>("the arguments", arguments)?.arguments()?;
    let (train, eval) = (train_data.inner.clone(), eval_data.map(|of| of.inner.clone()));
    let tokenizer = cloned(py, tokenizer);
    let process = joined()?;
    let leads = process.as_ref().is_none_or(|process| process.rank == 0);
    let mut taken = model.take(py, |model| {
        Trainer::plan(model, &arguments, &train)?;
        if leads {
            arguments.check_output()?;
        }
        let (found, most) =
            (process.as_ref().map_or(1, |of| of.count), arguments.gradient_accumulation_steps);
        if found > most {
            return Err(WorkersError::TooMany { found, most }.into());
        }
        match &eval {
            Some(eval) => {
                eval.check_for(model.base())?;
                match eval.is_preference() == train.is_preference() {
                    true => Ok(()),
                    false => Err(Error::OtherEvalData { train: train.is_preference() }),
                }
            }
            None => Ok(()),
        }
    })?;
    if let Some(name) = base_name {
        taken.set_base_name(name);
    }
    let beside = Beside { tensorboard: tensorboard && leads, report: report && leads, command };
    let mut callback = PyCallback::new(handler, model);
    let run = || -> Result<(PeftModel, Result<TrainOutput>)> {
        let mut trainer = Trainer::new(taken, arguments, train)?;
        if let Some(eval) = eval {
            trainer = trainer.with_eval(eval)?;
        }
        if let Some(tokenizer) = &tokenizer {
            trainer = trainer.with_tokenizer(tokenizer.clone());
        }
        if let Some(process) = process {
            trainer = trainer.with_workers(process.workers())?;
        }
        let output = beside.run(&mut trainer, tokenizer.as_ref(), &mut callback);
        Ok((trainer.model, output))
    };
    // a step takes and frees the same large blocks again and again; what is kept for it is given back at the end
    toktune::runtime::keep_freed_memory();
    // what `plan` and the checks above accept is not refused
    let ended = py.detach(run);
    toktune::runtime::release_freed_memory();
    let (taken, output) = ended.map_err(raise)?;
    model.put(py, taken);
    finished(output, callback.fault)
}

impl Beside {
    fn run(
        self,
        trainer: &mut Trainer,
        tokenizer: Option<&toktune::AutoTokenizer>,
        callback: &mut PyCallback<'_>,
    ) -> Result<TrainOutput> {
        let folder = trainer.arguments().output_dir.clone();
        let mut board = self.tensorboard.then(|| TensorBoard::new(&folder));
        let start = self.report.then(|| StartRows::of(&trainer.model));
        let output = trainer.train(&mut (Some(callback), board.as_mut()))?;
        if let Some(start) = start.filter(|_| output.steps > 0) {
            let mut report = Report::of(trainer, Some(&output), tokenizer)?;
            report.command = self.command;
            let seed = trainer.arguments().seed;
            report.add_rows(&trainer.model, Some(&start), seed, tokenizer);
            report.write(&folder)?;
        }
        Ok(output)
    }
}
