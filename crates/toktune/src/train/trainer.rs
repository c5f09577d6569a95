//! A run: what it is made of, how it stands, and what it leaves in its folder.

use super::agree;
use super::arguments::{LORA_LEARNING_RATE, TrainingArguments};
use super::best::BestSoFar;
use super::budget::MemoryRoom;
use super::callback::{TrainerCallback, TrainerWarning};
use super::checkpoint::{self, TrainerState};
use super::evaluate::{Evaluated, Evaluation};
use super::growth::Sizes;
use super::history::EvaluatedStep;
use super::leak::LeakWatch;
use super::log::StepLog;
use super::memory::{MemoryPlanner, held_bytes};
use super::metric::{EmissionPrompts, MetricForBestModel};
use super::norms::{NormWatch, RowNorm};
use super::optimizer::{AdamW, AdamWConfig};
use super::preference::Reference;
use super::schedule::Schedule;
use super::settings::{RunParts, Settings};
use crate::data::{Dataset, Sampler};
use crate::distill::Teacher;
use crate::engine::constants::{CacheConstants, CacheLocation, ConstantCache};
use crate::engine::prefixes::Prefixes;
use crate::error::{Error, Result};
use crate::peft::{ADAPTER_FILE, PeftModel};
use crate::text::AutoTokenizer;
use crate::workers::{Team, Workers, WorkersError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toktune_engine::EngineError;

/// Batches that an estimate of a run's memory looks at, at most.
const ESTIMATED_BATCHES: u64 = 10_000;

/// Without a word on constants, those that several examples begin with are kept in so much memory at most.
const SHARED_CONSTANTS: u64 = 512 << 20;

/// Trains the active adapter of a [`PeftModel`] on a dataset.
///
/// [`Trainer::train`] takes the whole run; [`Trainer::step`] takes one step of it, for loops of a program's own.
#[derive(Debug)]
pub struct Trainer {
    /// What is trained.
    pub model: PeftModel,
    pub(super) arguments: TrainingArguments,
    pub(super) train: Dataset,
    eval: Option<Dataset>,
    /// Saved beside the adapter: given when tokens were added to it.
    pub(super) tokenizer: Option<AutoTokenizer>,
    pub(super) schedule: Schedule,
    /// How large the parameters are when the run begins.
    pub(super) sizes: Sizes,
    /// The norms of its rows.
    pub(super) norms: NormWatch,
    /// How its tokens leak.
    pub(super) leak: LeakWatch,
    /// What its tokens are tried on, once the run has begun, where that decides on its best rows.
    emission: Option<EmissionPrompts>,
    /// Memory of the process before the run.
    held_bytes: u64,
    /// What its steps may take.
    room: MemoryRoom,
    /// Every parameter before the last update, which gave a finite loss.
    pub(super) last_good: Option<Vec<Vec<f32>>>,
    /// What examples begin with alike.
    prefixes: Arc<Prefixes>,
    /// The processes that take its steps together.
    pub(super) team: Team,
    /// What the examples' rows are to be like, where they do not predict tokens.
    pub(super) teacher: Option<Teacher>,
    /// What moves on, once the run has begun.
    pub(super) run: Option<Run>,
}

/// What moves on with every step.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) sampler: Sampler,
    pub(super) optimizer: AdamW,
    pub(super) constants: Option<ConstantCache>,
    /// Those of the run, once a checkpoint has asked for them: the model is hashed for it.
    settings: Option<Settings>,
    /// The evaluation before the first step of all, and that step.
    pub(super) beginning: (Option<Evaluation>, Option<StepLog>),
    /// What it remembers of its evaluations.
    pub(super) best: BestSoFar,
    /// Its evaluations so far, those of the run that is resumed included.
    pub(super) evaluations: Vec<EvaluatedStep>,
    /// What two answers to one prompt are compared with, of the rows that are trained on.
    pub(super) reference: Option<Reference>,
    /// The same of the rows that are evaluated.
    pub(super) eval_reference: Option<Reference>,
}

impl Trainer {
    /// The learning rate over a run that [`Trainer::new`] would prepare, with its number of steps.
    ///
    /// # Errors
    /// What [`Trainer::new`] refuses, and then the model is still the caller's.
    pub fn plan(model: &PeftModel, arguments: &TrainingArguments, train: &Dataset) -> Result<Schedule> {
        arguments.check()?;
        model.trained_adapter()?;
        train.check_for(model.base())?;
        let typical = f64::from(model.base().embedding().statistics().1);
        let learning_rate = arguments.learning_rate.unwrap_or(arguments.relative_learning_rate * typical);
        if !learning_rate.is_finite() {
            let what = format!("the root mean square of {}", model.base().embedding().name());
            return Err(EngineError::NotFinite { what }.into());
        }
        let batches = train.examples_per_epoch().div_ceil(arguments.per_device_train_batch_size);
        let steps_per_epoch = batches.div_ceil(arguments.gradient_accumulation_steps);
        let total_steps = match arguments.max_steps {
            Some(steps) => steps,
            None => ((arguments.num_train_epochs * steps_per_epoch as f64).ceil() as u64).max(1),
        };
        let (kind, warmup_steps) = (arguments.lr_scheduler_type, arguments.warmup_steps);
        Ok(Schedule { learning_rate, kind, warmup_steps, total_steps })
    }

    /// Prepares a run on `train`: settles the learning rate and the number of steps, and finds what examples begin with alike.
    ///
    /// # Errors
    /// A setting is outside its range; the data are for another kind of model; the rate is to be relative to an embedding that
    /// is not finite.
    pub fn new(model: PeftModel, arguments: TrainingArguments, train: Dataset) -> Result<Self> {
        let schedule = Self::plan(&model, &arguments, &train)?;
        let typical = f64::from(model.base().embedding().statistics().1);
        let prefixes = match arguments.share_prefixes {
            true => Arc::new(train.prefixes(model.base())),
            false => Arc::default(),
        };
        Ok(Self {
            held_bytes: held_bytes(),
            room: MemoryRoom::of(arguments.memory_budget, model.base().checkpoint().total_bytes(), 1),
            sizes: Sizes::of(&model, typical),
            norms: NormWatch::of(&model),
            leak: LeakWatch::default(),
            emission: None,
            model,
            arguments,
            train,
            eval: None,
            tokenizer: None,
            schedule,
            last_good: None,
            prefixes,
            team: Team::default(),
            teacher: None,
            run: None,
        })
    }

    /// Evaluates held-out rows before, during and after the run.
    ///
    /// # Errors
    /// The data are for another kind of model, or two answers to one prompt where the rows that are trained on are not, or the other
    /// way round.
    pub fn with_eval(mut self, data: Dataset) -> Result<Self> {
        data.check_for(self.model.base())?;
        if data.is_preference() != self.train.is_preference() {
            return Err(Error::OtherEvalData { train: self.train.is_preference() });
        }
        self.eval = Some(data);
        Ok(self)
    }

    /// Saves a tokenizer beside the adapter: wanted when tokens were added to it.
    pub fn with_tokenizer(mut self, tokenizer: AutoTokenizer) -> Self {
        self.tokenizer = Some(tokenizer);
        self
    }

    /// Takes its steps together with other processes: each computes some of a step's micro-batches and some of the held-out rows, and all
    /// have the same parameters after every step, the bits of which do not depend on how many processes there are. The first one
    /// writes what is written. Memory is divided among those on one machine.
    ///
    /// # Errors
    /// There are more of them than a step has micro-batches.
    pub fn with_workers(mut self, workers: Box<dyn Workers>) -> Result<Self> {
        let (found, most) = (workers.count(), self.arguments.gradient_accumulation_steps);
        if found > most {
            return Err(WorkersError::TooMany { found, most }.into());
        }
        self.team = Team::new(workers);
        let beside = self.team.on_this_machine() as u64;
        let weights = self.model.base().checkpoint().total_bytes();
        self.room = MemoryRoom::of(self.arguments.memory_budget, weights, beside);
        Ok(self)
    }

    /// Whether this process writes what is written: the first of several, or the only one.
    pub fn leads(&self) -> bool {
        self.team.leads()
    }

    /// Has the rows of the examples come near to what a teacher gave for them, one example after the other, instead of
    /// predicting tokens.
    ///
    /// # Errors
    /// The teacher has read another number of examples.
    pub fn with_teacher(mut self, teacher: Teacher) -> Result<Self> {
        let (found, expected) = (teacher.len(), self.train.len());
        if found != expected {
            return Err(Error::OtherTeacher { found, expected });
        }
        self.teacher = Some(teacher);
        Ok(self)
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

    /// The rows that are trained on.
    pub fn train_data(&self) -> &Dataset {
        &self.train
    }

    /// The rows that are evaluated.
    pub fn eval_data(&self) -> Option<&Dataset> {
        self.eval.as_ref()
    }

    /// What examples begin with alike; nothing where nothing is shared.
    pub fn prefixes(&self) -> &Prefixes {
        &self.prefixes
    }

    /// Steps taken, those of a run that is resumed included.
    pub fn global_step(&self) -> u64 {
        self.run.as_ref().map_or(0, |run| run.optimizer.step)
    }

    /// The state of the run: before its first step, or after the last one of the run that is resumed.
    pub(super) fn begin(&mut self, callback: &mut dyn TrainerCallback) -> Result<()> {
        if self.run.is_some() {
            return Ok(());
        }
        if self.arguments.metric_for_best_model == MetricForBestModel::Emission {
            let (data, most) = (self.eval.as_ref(), self.arguments.emission_prompts);
            self.emission = Some(EmissionPrompts::of(&self.model, data, most)?);
        }
        let mut sampler = self.sampler()?;
        // before a run that is resumed has its rows: what it began with is what it is compared with
        let reference_of = |data: &Dataset| {
            let held = || Reference::new(self.model.active().held(), self.arguments.dpo);
            data.is_preference().then(held)
        };
        let reference = reference_of(&self.train);
        let eval_reference = self.eval.as_ref().and_then(reference_of);
        let config = AdamWConfig { weight_decay: self.arguments.weight_decay, ..AdamWConfig::default() };
        let parameters = self.model.parameters();
        let mut optimizer = AdamW::new(config, parameters.iter().map(|p| (p.name.clone(), p.values.len())));
        let (mut settings, mut beginning, mut best) = (None, (None, None), BestSoFar::default());
        let mut evaluations = Vec::new();
        if self.team.count() > 1 {
            let now = self.settings(reference.as_ref())?;
            agree::check(&mut self.team, &now)?;
            settings = Some(now);
        }
        if self.arguments.resume || self.arguments.resume_anyway {
            let now = settings.take().map_or_else(|| self.settings(reference.as_ref()), Ok)?;
            let (folder, anyway) = (self.arguments.output_dir.clone(), self.arguments.resume_anyway);
            let resumed = match self.team.leads() {
                true => checkpoint::resume(&folder, &mut self.model, &mut optimizer, &now, anyway)?,
                false => None,
            };
            // rows without what it takes to go on from them would be lost under new ones
            if self.team.leads() && resumed.is_none() && folder.join(ADAPTER_FILE).exists() {
                return Err(Error::NothingToResume { folder });
            }
            match agree::share(&mut self.team, &mut self.model, &mut optimizer, resumed)? {
                None => callback.on_warning(&TrainerWarning::NoCheckpoint),
                Some(resumed) => {
                    sampler.seek(resumed.state.position)?;
                    beginning = resumed.state.beginning;
                    best = resumed.state.best;
                    evaluations = resumed.state.evaluations;
                    if let (RowNorm::Fixed, Some(starts)) = (self.arguments.norm, &resumed.state.norms)
                        && !self.norms.set_starts(starts)
                    {
                        return Err(Error::NormsOfOtherRows { folder });
                    }
                    if !resumed.changes.is_empty() {
                        callback.on_warning(&TrainerWarning::OtherSettings(resumed.changes));
                    }
                }
            }
            settings = Some(now);
        }
        let constants = self.cache_settings().as_ref().map(ConstantCache::new).transpose()?;
        callback.on_train_begin(&self.model, optimizer.step);
        self.run = Some(Run {
            sampler,
            optimizer,
            constants,
            settings,
            beginning,
            best,
            evaluations,
            reference,
            eval_reference,
        });
        Ok(())
    }

    /// A sampler at the start.
    fn sampler(&self) -> Result<Sampler> {
        let TrainingArguments { per_device_train_batch_size, shuffle, seed, .. } = self.arguments;
        let sampler = Sampler::new(self.train.shares(), per_device_train_batch_size, shuffle, seed)?;
        let of_examples = match self.train.is_preference() {
            // both sequences of a pair begin alike
            true => Arc::new(self.prefixes.every(2)),
            false => self.prefixes.clone(),
        };
        Ok(sampler.with_prefixes(of_examples))
    }

    /// What constants are kept between steps.
    fn cache_settings(&self) -> Option<CacheConstants> {
        // with updates every row depends on what is trained
        let some = self.model.lora_layers().is_empty();
        let shared = || CacheConstants::of_shared(CacheLocation::Memory, SHARED_CONSTANTS);
        let asked = self.arguments.cache_constants.clone();
        asked.or_else(|| (!self.prefixes.is_empty()).then(shared)).filter(|_| some)
    }

    /// The batch of the examples `indices`, with what its sequences share.
    pub(super) fn batch(&self, indices: &[usize], epoch: u64) -> Result<crate::data::RaggedBatch> {
        let mut batch = self.train.batch(indices, epoch)?;
        if !self.prefixes.is_empty() {
            let sequences = self.train.sequences(indices);
            batch.segments = sequences.into_iter().map(|at| self.prefixes.of_sequence(at)).collect();
        }
        let objective = self.teacher.as_ref().map(|teacher| teacher.objective(indices, &batch));
        batch.distillation = objective.transpose()?;
        Ok(batch)
    }

    /// Estimates the memory of this run's steps.
    pub(super) fn planner(&self) -> MemoryPlanner<'_> {
        MemoryPlanner::new(self.model.base(), self.held_bytes, self.room)
    }

    /// What the steps of this run may take of memory, as it was when the run was prepared.
    pub fn memory_room(&self) -> MemoryRoom {
        self.room
    }

    /// Peak memory, in bytes, that the steps of this run are expected to need: that of its largest batch.
    ///
    /// # Errors
    /// There is nothing to train on.
    pub fn memory_estimate(&self) -> Result<u64> {
        let planner = self.planner();
        let mut sampler = self.sampler()?;
        let trained = self.model.active().trained();
        let batches =
            self.schedule.total_steps.saturating_mul(self.arguments.gradient_accumulation_steps as u64);
        let mut peaks = (0..batches.min(ESTIMATED_BATCHES)).map(|_| {
            let next = sampler.next_batch();
            Ok(planner.peak(&trained, &self.batch(&next.indices, next.epoch)?))
        });
        let peak = peaks.try_fold(0, |most, peak: Result<u64>| Ok::<u64, Error>(most.max(peak?)))?;
        Ok(peak + self.kept_constants())
    }

    /// Bytes that constants which several examples begin with will take, at most.
    fn kept_constants(&self) -> u64 {
        let in_memory = |settings: &CacheConstants| settings.location == CacheLocation::Memory;
        let Some(settings) = self.cache_settings().filter(in_memory) else { return 0 };
        let row = self.model.base().key_value_bytes();
        (self.prefixes.rows() * row as u64).min(settings.limit)
    }

    /// Evaluates the held-out rows after `step` steps; nothing when there are none, or when the callback ends it.
    pub(super) fn evaluate(&mut self, callback: &mut dyn TrainerCallback) -> Result<Option<Evaluation>> {
        let Some(data) = &self.eval else { return Ok(None) };
        let (model, size, tokens) =
            (&self.model, self.arguments.per_device_train_batch_size, self.model.token_indices());
        let mut stop = || callback.on_prediction_step();
        let reference = self.run.as_ref().and_then(|run| run.eval_reference.as_ref());
        let of = Evaluated { model: model.base(), data, batch_size: size, chosen: &tokens, reference };
        let Some(mut evaluation) = of.until(model.active(), &mut self.team, &mut stop)? else {
            return Ok(None);
        };
        if let Some(prompts) = &self.emission {
            // a few prompts, whose texts grow together: the first process tries them for all
            let rate = match self.team.leads() {
                true => prompts.rate(model, self.tokenizer.as_ref(), &mut stop)?,
                false => None,
            };
            evaluation.emission = self.team.told_number(rate)?;
            if evaluation.emission.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(evaluation))
    }

    /// Writes a checkpoint of the run as it stands, and gives its folder.
    ///
    /// # Errors
    /// The run has not begun; a file cannot be written.
    pub fn save_checkpoint(&mut self) -> Result<PathBuf> {
        let known = self.run.as_ref().and_then(|run| run.settings.clone());
        let reference = self.run.as_ref().and_then(|run| run.reference.as_ref());
        let settings = known.map_or_else(|| self.settings(reference), Ok)?;
        let Some(run) = &mut self.run else { return Err(Error::NotBegun) };
        run.settings = Some(settings.clone());
        let (step, position, beginning) = (run.optimizer.step, run.sampler.position(), run.beginning.clone());
        let norms = (self.arguments.norm == RowNorm::Fixed).then(|| self.norms.starts());
        let (best, evaluations) = (run.best.clone(), run.evaluations.clone());
        let state = TrainerState { step, position, settings, beginning, norms, best, evaluations };
        let (folder, tokenizer) = (&self.arguments.output_dir, self.tokenizer.as_ref());
        let saved = checkpoint::save(folder, &self.model, &run.optimizer, tokenizer, &state)?;
        if let Some(most) = self.arguments.save_total_limit {
            checkpoint::prune(folder, most)?;
        }
        Ok(saved)
    }

    fn settings(&self, reference: Option<&Reference>) -> Result<Settings> {
        Settings::of(&RunParts {
            arguments: &self.arguments,
            model: &self.model,
            data: &self.train,
            tokenizer: self.tokenizer.as_ref(),
            schedule: &self.schedule,
            lora_schedule: &self.lora_schedule(),
            shares_prefixes: !self.prefixes.is_empty(),
            teacher: self.teacher.as_ref(),
            reference,
        })
    }

    /// Saves the adapter, and its tokenizer where there is one, into the output folder.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save_model(&self) -> Result<()> {
        let folder = &self.arguments.output_dir;
        self.save_adapter(folder)?;
        self.tokenizer.as_ref().map_or(Ok(()), |tokenizer| Ok(tokenizer.save_pretrained(folder)?))
    }

    pub(super) fn save_adapter(&self, folder: &Path) -> Result<()> {
        let name = self.model.trained_adapter()?.name();
        Ok(self.model.save_adapter(name, folder, self.arguments.save_embedding_layers)?)
    }

    /// Saves the last values that gave a finite loss: those before the update that `step` could not follow.
    pub(super) fn keep_last_good_state(&mut self, step: u64, source: Error) -> Error {
        let (Error::Engine(EngineError::NotFinite { .. }) | Error::Growth { .. }, Some(rows)) =
            (&source, self.last_good.take())
        else {
            return source;
        };
        for ((_, values), good) in self.model.parameters_mut().into_iter().zip(rows) {
            *values = good;
        }
        // the others have the same rows
        let saved = if self.team.leads() { self.save_model() } else { Ok(()) };
        match saved {
            Ok(()) => {
                let folder = self.arguments.output_dir.clone();
                Error::Diverged { step: step + 1, folder, source: Box::new(source) }
            }
            Err(unsaved) => unsaved,
        }
    }
}
