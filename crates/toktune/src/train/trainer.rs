//! The training loop.

use super::arguments::{LORA_LEARNING_RATE, RELATIVE_LEARNING_RATE, TrainingArguments};
use super::callback::{TrainerCallback, TrainerControl, TrainerWarning};
use super::checkpoint::{self, TrainerState};
use super::constants::{CachedExamples, ConstantCache};
use super::evaluate::{Evaluation, evaluate_until};
use super::growth::Sizes;
use super::lock::RunLock;
use super::log::{LogFile, StepLog, peak_memory_bytes};
use super::memory::{MemoryPlanner, held_bytes};
use super::optimizer::{AdamW, AdamWConfig, clip_grad_norm};
use super::schedule::Schedule;
use super::settings::{RunParts, Settings};
use super::step::{StepOptions, Wanted, run as compute};
use crate::data::{Dataset, Sampler};
use crate::error::{Error, Result};
use crate::profile;
use crate::random::Random;
use crate::text::AutoTokenizer;
use crate::tuners::{ADAPTER_FILE, PeftModel};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Batches that an estimate of a run's memory looks at, at most.
const ESTIMATED_BATCHES: u64 = 10_000;

/// Trains the active adapter of a [`PeftModel`] on a dataset.
#[derive(Debug)]
pub struct Trainer<'a> {
    /// What is trained.
    pub model: PeftModel,
    arguments: TrainingArguments,
    train: &'a Dataset,
    eval: Option<&'a Dataset>,
    /// Saved beside the adapter: given when tokens were added to it.
    tokenizer: Option<&'a AutoTokenizer>,
    schedule: Schedule,
    /// How large the parameters are when the run begins.
    sizes: Sizes,
    /// Memory of the process before the run.
    held_bytes: u64,
    /// Every parameter before the last update, which gave a finite loss.
    last_good: Option<Vec<Vec<f32>>>,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOutput {
    /// Steps taken in all.
    pub global_step: u64,
    /// Whether a callback stopped the run before its last step; a checkpoint and the rows so far are saved.
    pub stopped: bool,
    /// Evaluation before the first step, that of the run that is resumed where one is, with evaluation data.
    pub before: Option<Evaluation>,
    /// Evaluation after the last step.
    pub after: Option<Evaluation>,
    /// Steps taken now, without those of a run that is resumed.
    pub steps: u64,
    /// The first step, that of the run that is resumed where one is, and the last; `None` when none was taken now.
    pub first_and_last: Option<(StepLog, StepLog)>,
    /// Wall-clock time of the steps, in seconds.
    pub seconds: f64,
    /// Input tokens of the steps.
    pub tokens: usize,
}

/// What moves on with every step.
struct Run {
    sampler: Sampler,
    optimizer: AdamW,
    constants: Option<ConstantCache>,
    /// Those of the run, once a checkpoint has asked for them: the model is hashed for it.
    settings: Option<Settings>,
    /// The evaluation before the first step of all, and that step.
    beginning: (Option<Evaluation>, Option<StepLog>),
}

/// Whether two evaluations are of the same data, so far as their labels tell.
fn same_data(one: &Evaluation, other: Option<&Evaluation>) -> bool {
    other.is_some_and(|other| other.labels == one.labels)
}

impl<'a> Trainer<'a> {
    /// Prepares a run: settles the learning rate and the number of steps.
    ///
    /// # Errors
    /// A setting is outside its range; the rate is to be relative to an embedding that is not finite.
    pub fn new(
        model: PeftModel,
        arguments: TrainingArguments,
        train: &'a Dataset,
        eval: Option<&'a Dataset>,
        tokenizer: Option<&'a AutoTokenizer>,
    ) -> Result<Self> {
        arguments.check()?;
        model.trained_adapter()?;
        let typical = f64::from(model.base().embedding().statistics().1);
        let learning_rate = arguments.learning_rate.unwrap_or(RELATIVE_LEARNING_RATE * typical);
        if !learning_rate.is_finite() {
            let what = format!("the root mean square of {}", model.base().embedding().name());
            return Err(Error::NotFinite { what });
        }
        let batches = train.examples_per_epoch().div_ceil(arguments.per_device_train_batch_size);
        let steps_per_epoch = batches.div_ceil(arguments.gradient_accumulation_steps);
        let total_steps = match arguments.max_steps {
            Some(steps) => steps,
            None => ((arguments.num_train_epochs * steps_per_epoch as f64).ceil() as u64).max(1),
        };
        let schedule = Schedule {
            learning_rate,
            kind: arguments.lr_scheduler_type,
            warmup_steps: arguments.warmup_steps,
            total_steps,
        };
        let (held_bytes, sizes) = (held_bytes(), Sizes::of(&model, typical));
        Ok(Self { model, arguments, train, eval, tokenizer, schedule, sizes, held_bytes, last_good: None })
    }

    /// The learning rate of LoRA's updates over the run.
    pub fn lora_schedule(&self) -> Schedule {
        let learning_rate = self.arguments.lora_learning_rate.unwrap_or(LORA_LEARNING_RATE);
        Schedule { learning_rate, ..self.schedule }
    }

    /// The learning rate over the run.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The settings.
    pub fn arguments(&self) -> &TrainingArguments {
        &self.arguments
    }

    /// Trains to the end, or until the callback stops it, and saves the adapter, its tokenizer, the model card and the log into the output folder.
    ///
    /// # Errors
    /// The output folder holds something else; a file cannot be written; a loss or gradient is not finite: then the
    /// last rows that gave a finite loss are saved if any step was taken, and the error says where.
    pub fn train(&mut self, callback: &mut dyn TrainerCallback) -> Result<TrainOutput> {
        let folder = self.arguments.output_dir.clone();
        self.arguments.check_output()?;
        // a folder that cannot be written is found here, and not after the first step
        let _lock = RunLock::take(&folder)?;
        let mut run = self.begin(callback)?;
        let before = self.evaluate(run.optimizer.step, callback)?;
        // what a run began with is what it began with before it was stopped
        let before = run.beginning.0.take().filter(|begun| same_data(begun, before.as_ref())).or(before);
        run.beginning.0 = before.clone();
        // opened when there is a step to log: a run whose first step fails leaves no trace
        let mut log: Option<LogFile> = None;
        let mut output = TrainOutput {
            global_step: run.optimizer.step,
            stopped: false,
            before,
            after: None,
            steps: 0,
            first_and_last: None,
            seconds: 0.0,
            tokens: 0,
        };
        let mut control =
            TrainerControl { should_training_stop: callback.should_training_stop(), ..Default::default() };
        while run.optimizer.step < self.schedule.total_steps && !control.should_training_stop {
            let before = run.optimizer.step;
            let taken = self.step(&mut run).map_err(|source| self.keep_last_good_state(before, source))?;
            let file = match log.take() {
                Some(file) => file,
                None => LogFile::open(&folder, before)?,
            };
            log.insert(file).write(&taken)?;
            callback.on_step_end(&taken, &mut control);
            if let Some(reason) = run.constants.as_mut().and_then(ConstantCache::take_ending) {
                callback.on_warning(&TrainerWarning::CacheEnded { reason });
            }
            output.seconds += taken.seconds;
            output.tokens += taken.tokens;
            let first = run.beginning.1.get_or_insert_with(|| taken.clone()).clone();
            output.first_and_last = Some((first, taken));
            output.steps += 1;
            let step = run.optimizer.step;
            let due = |every: Option<u64>| every.is_some_and(|n| step.is_multiple_of(n));
            let ends = step == self.schedule.total_steps;
            if due(self.arguments.eval_steps) && !ends && !control.should_training_stop {
                let evaluation = self.evaluate(step, callback);
                output.after = evaluation.map_err(|source| self.keep_last_good_state(step, source))?;
                control.should_training_stop |= callback.should_training_stop();
            }
            let asked = std::mem::take(&mut control.should_save) || (control.should_training_stop && !ends);
            if due(self.arguments.save_steps) || asked {
                callback.on_save(&self.save_checkpoint(&mut run)?);
            }
        }
        // with its end kept, a run can be made longer later
        let taken = output.first_and_last.is_some() && run.optimizer.step == self.schedule.total_steps;
        let kept = self.arguments.save_steps.is_some_and(|n| run.optimizer.step.is_multiple_of(n));
        if taken && !kept {
            self.save_checkpoint(&mut run)?;
        }
        output.global_step = run.optimizer.step;
        output.stopped = run.optimizer.step < self.schedule.total_steps;
        if !output.stopped {
            // whoever ends the run while it evaluates has the rows
            self.save_adapter(&folder)?;
            let evaluation = self.evaluate(output.global_step, callback);
            output.after =
                evaluation.map_err(|source| self.keep_last_good_state(output.global_step, source))?;
        }
        if output.global_step > 0 {
            self.save(&output)?;
            callback.on_save(&folder);
        }
        Ok(output)
    }

    /// The state of a run before its first step, or after the last one of the run that is resumed.
    fn begin(&mut self, callback: &mut dyn TrainerCallback) -> Result<Run> {
        let TrainingArguments { per_device_train_batch_size, shuffle, seed, .. } = self.arguments;
        let mut sampler = Sampler::new(self.train.shares(), per_device_train_batch_size, shuffle, seed)?;
        let config = AdamWConfig { weight_decay: self.arguments.weight_decay, ..AdamWConfig::default() };
        let lengths: Vec<usize> = self.model.parameters().iter().map(|p| p.values.len()).collect();
        let mut optimizer = AdamW::new(config, lengths);
        let (mut settings, mut beginning) = (None, (None, None));
        if self.arguments.resume || self.arguments.resume_anyway {
            let now = self.settings()?;
            let (folder, anyway) = (self.arguments.output_dir.clone(), self.arguments.resume_anyway);
            match checkpoint::resume(&folder, &mut self.model, &mut optimizer, &now, anyway)? {
                // rows without what it takes to go on from them would be lost under new ones
                None if folder.join(ADAPTER_FILE).exists() => return Err(Error::NothingToResume { folder }),
                None => callback.on_warning(&TrainerWarning::NoCheckpoint),
                Some(resumed) => {
                    sampler.seek(resumed.state.position)?;
                    beginning = resumed.state.beginning;
                    if !resumed.changes.is_empty() {
                        callback.on_warning(&TrainerWarning::OtherSettings(resumed.changes));
                    }
                }
            }
            settings = Some(now);
        }
        let constants = self.arguments.cache_constants.as_ref().map(ConstantCache::new).transpose()?;
        callback.on_train_begin(optimizer.step);
        Ok(Run { sampler, optimizer, constants, settings, beginning })
    }

    /// Writes a checkpoint of the run as it stands.
    fn save_checkpoint(&self, run: &mut Run) -> Result<PathBuf> {
        let settings = match &run.settings {
            Some(settings) => settings.clone(),
            None => run.settings.insert(self.settings()?).clone(),
        };
        let (step, position, beginning) = (run.optimizer.step, run.sampler.position(), run.beginning.clone());
        let state = TrainerState { step, position, settings, beginning };
        checkpoint::save(&self.arguments.output_dir, &self.model, &run.optimizer, self.tokenizer, &state)
    }

    fn settings(&self) -> Result<Settings> {
        Settings::of(&RunParts {
            arguments: &self.arguments,
            model: &self.model,
            data: self.train,
            tokenizer: self.tokenizer,
            schedule: &self.schedule,
            lora_schedule: &self.lora_schedule(),
        })
    }

    /// One optimizer step: the micro-batches' gradients summed, divided by their labels together.
    fn step(&mut self, run: &mut Run) -> Result<StepLog> {
        let Run { sampler, optimizer, constants, .. } = run;
        let start = Instant::now();
        let mut gradients = self.model.active().zero_gradients();
        let planner = MemoryPlanner::new(self.model.base(), self.held_bytes, self.arguments.memory_budget);
        let (mut loss, mut labels, mut tokens) = (0f64, 0usize, 0usize);
        let per_epoch = sampler.batches_per_epoch();
        // A step does not span two epochs: the last one of an epoch may have fewer micro-steps.
        let in_epoch =
            sampler.position().offset.div_ceil(self.arguments.per_device_train_batch_size) % per_epoch;
        for micro_step in 0..self.arguments.gradient_accumulation_steps.min(per_epoch - in_epoch) {
            let (batch, indices) = profile::time(profile::Part::Data, 0, || {
                let next = sampler.next_batch();
                Ok::<_, Error>((self.train.batch(&next.indices, next.epoch)?, next.indices))
            })?;
            let (model, active) = (self.model.base(), self.model.active());
            let cached = constants.as_mut().map(|cache| CachedExamples { cache, examples: &indices });
            let options = StepOptions { kept_bytes: planner.kept_bytes(active, &batch), constants: cached };
            let active = active.with_dropout(self.dropout_seed(optimizer.step, micro_step));
            let output = compute(model, active, &batch, Wanted::Gradients, options)?;
            loss += output.loss_sum();
            labels += output.losses.len();
            tokens += batch.tokens();
            for (sum, gradient) in gradients.iter_mut().zip(&output.gradients) {
                sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
            }
        }
        // a step of rows without labels moves nothing, but still counts
        let divisor = labels.max(1) as f64;
        gradients.iter_mut().flatten().for_each(|g| *g = (*g as f64 / divisor) as f32);
        let grad_norm = clip_grad_norm(&mut gradients, self.arguments.max_grad_norm);
        if !grad_norm.is_finite() {
            return Err(Error::NotFinite { what: format!("the norm of the gradients is {grad_norm}") });
        }
        let learning_rate =
            profile::time(profile::Part::Optimizer, 0, || self.update(optimizer, &gradients))?;
        let seconds = start.elapsed().as_secs_f64();
        let position = sampler.position();
        Ok(StepLog {
            step: optimizer.step,
            epoch: position.epoch as f64 + position.offset as f64 / self.train.examples_per_epoch() as f64,
            loss: loss / divisor,
            learning_rate,
            grad_norm,
            tokens,
            loss_tokens: labels,
            seconds,
            tokens_per_second: tokens as f64 / seconds,
            peak_memory_bytes: peak_memory_bytes(),
        })
    }

    /// Moves every parameter against its gradient; the learning rate of the rows.
    fn update(&mut self, optimizer: &mut AdamW, gradients: &[Vec<f32>]) -> Result<f64> {
        let (rows, lora) = (self.schedule.at(optimizer.step), self.lora_schedule().at(optimizer.step));
        let parameters = self.model.parameters();
        self.last_good = Some(parameters.iter().map(|parameter| parameter.values.to_vec()).collect());
        let rates: Vec<f64> = parameters.iter().map(|p| if p.is_lora { lora } else { rows }).collect();
        optimizer.begin_step();
        let parameters = self.model.parameters_mut().into_iter();
        for (at, ((values, gradient), rate)) in parameters.zip(gradients).zip(rates).enumerate() {
            optimizer.update(at, values, gradient, rate);
        }
        let parameters = self.model.parameters();
        match parameters.iter().find(|p| p.values.iter().any(|x| !x.is_finite())) {
            None => self.sizes.check(&self.model).map(|()| rows),
            Some(parameter) => {
                let (what, rate) = match parameter.is_lora {
                    true => ("the update", lora),
                    false => ("a trained row", rows),
                };
                let what = format!("{what} of {} after a step of rate {rate:e}", parameter.layer);
                Err(Error::NotFinite { what })
            }
        }
    }

    /// Of what LoRA's dropout leaves out: the same for the same step of the same run, resumed or not.
    fn dropout_seed(&self, step: u64, micro_step: usize) -> u64 {
        let mut random =
            Random::new(self.arguments.seed ^ step.rotate_left(20) ^ (micro_step as u64).rotate_left(44));
        random.next()
    }

    /// Peak memory, in bytes, that the steps of this run are expected to need: that of its largest batch.
    ///
    /// # Errors
    /// There is nothing to train on.
    pub fn memory_estimate(&self) -> Result<u64> {
        let planner = MemoryPlanner::new(self.model.base(), self.held_bytes, self.arguments.memory_budget);
        let TrainingArguments { per_device_train_batch_size, shuffle, seed, .. } = self.arguments;
        let mut sampler = Sampler::new(self.train.shares(), per_device_train_batch_size, shuffle, seed)?;
        let active = self.model.active();
        let batches =
            self.schedule.total_steps.saturating_mul(self.arguments.gradient_accumulation_steps as u64);
        let mut peaks = (0..batches.min(ESTIMATED_BATCHES)).map(|_| {
            let next = sampler.next_batch();
            Ok(planner.peak(active, &self.train.batch(&next.indices, next.epoch)?))
        });
        peaks.try_fold(0, |most, peak: Result<u64>| Ok(most.max(peak?)))
    }

    /// Evaluates the held-out rows; nothing when there are none, or when the callback ends it.
    fn evaluate(&self, step: u64, callback: &mut dyn TrainerCallback) -> Result<Option<Evaluation>> {
        let Some(data) = self.eval else { return Ok(None) };
        let (model, size, tokens) =
            (&self.model, self.arguments.per_device_train_batch_size, self.model.token_indices());
        let mut stop = || callback.should_training_stop();
        let evaluation = evaluate_until(model.base(), model.active(), data, (size, &tokens), &mut stop)?;
        if let Some(evaluation) = &evaluation {
            callback.on_evaluate(step, evaluation);
        }
        Ok(evaluation)
    }

    fn save(&self, output: &TrainOutput) -> Result<()> {
        let folder = &self.arguments.output_dir;
        self.save_adapter(folder)?;
        if let Some(tokenizer) = self.tokenizer {
            tokenizer.save_pretrained(folder)?;
        }
        super::card::write(folder, &self.model, &self.arguments, &self.schedule, self.tokenizer, output)
    }

    fn save_adapter(&self, folder: &Path) -> Result<()> {
        let name = self.model.trained_adapter()?.name();
        self.model.save_adapter(name, folder, self.arguments.save_embedding_layers)
    }

    /// Saves the last values that gave a finite loss: those before the update that `step` could not follow.
    fn keep_last_good_state(&mut self, step: u64, source: Error) -> Error {
        let (Error::NotFinite { .. } | Error::Growth { .. }, Some(rows)) = (&source, self.last_good.take())
        else {
            return source;
        };
        for (values, good) in self.model.parameters_mut().into_iter().zip(rows) {
            *values = good;
        }
        let folder = self.arguments.output_dir.clone();
        let saved = self.save_adapter(&folder);
        match saved.and_then(|()| Ok(self.tokenizer.map_or(Ok(()), |t| t.save_pretrained(&folder))?)) {
            Ok(()) => Error::Diverged { step: step + 1, folder, source: Box::new(source) },
            Err(unsaved) => unsaved,
        }
    }
}
