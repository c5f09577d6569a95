//! A run from its first step to its last, with evaluations, checkpoints, log and model card.

use super::best::BestStep;
use super::callback::{TrainerCallback, TrainerWarning};
use super::evaluate::Evaluation;
use super::history::{self, EvaluatedStep};
use super::lock::RunLock;
use super::log::{LogFile, StepLog};
use super::trainer::Trainer;
use crate::engine::constants::ConstantCache;
use crate::error::Result;

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TrainOutput {
    /// Steps taken in all.
    pub global_step: u64,
    /// Whether a callback stopped the run before its last step; a checkpoint and the rows so far are saved.
    pub stopped: bool,
    /// Evaluation before the first step, that of the run that is resumed where one is, with evaluation data.
    pub before: Option<Evaluation>,
    /// Evaluation of what was saved: after the last step, or of the best step where that is kept.
    pub after: Option<Evaluation>,
    /// The best evaluation after a step, by `metric_for_best_model`, with evaluation data. With `load_best_model_at_end` what gave it
    /// is what was saved.
    pub best: Option<BestStep>,
    /// Every evaluation, before, during and after the run, those of the run that is resumed included.
    pub evaluations: Vec<EvaluatedStep>,
    /// Whether the run ended before its last step because no evaluation was better for too long.
    pub ended_early: bool,
    /// Steps taken now, without those of a run that is resumed.
    pub steps: u64,
    /// The first step, that of the run that is resumed where one is, and the last; `None` when none was taken now.
    pub first_and_last: Option<(StepLog, StepLog)>,
    /// Wall-clock time of the steps, in seconds.
    pub seconds: f64,
    /// Input tokens of the steps.
    pub tokens: usize,
    /// Of several processes: the seconds that each has waited for others, and for messages to be carried.
    pub waited_seconds: Vec<f64>,
    /// Of several processes: the bytes that all have sent.
    pub sent_bytes: u64,
}

/// Whether two evaluations are of the same data, so far as their labels tell.
fn same_data(one: &Evaluation, other: Option<&Evaluation>) -> bool {
    other.is_some_and(|other| other.labels == one.labels)
}

impl Trainer {
    /// Trains to the end, or until the callback stops it, and saves the adapter, its tokenizer, the model card and the log into
    /// the output folder.
    ///
    /// # Errors
    /// The output folder holds something else; a file cannot be written; a loss or gradient is not finite: then the
    /// last rows that gave a finite loss are saved if any step was taken, and the error says where.
    pub fn train(&mut self, callback: &mut dyn TrainerCallback) -> Result<TrainOutput> {
        let folder = self.arguments.output_dir.clone();
        let leads = self.leads();
        // a folder that cannot be written is found here, and not after the first step
        let _lock = match leads {
            true => {
                self.arguments.check_output()?;
                Some(RunLock::take(&folder)?)
            }
            false => None,
        };
        self.begin(callback)?;
        let (before, stops) = self.evaluate_and_tell(callback)?;
        let [mut stops] = self.team.any([stops])?;
        // a run that was stopped at a step which was to be evaluated does so now
        let step = self.global_step();
        if self.arguments.eval_steps.is_some_and(|n| step.is_multiple_of(n)) {
            self.remember(before.as_ref());
        }
        let before = self.begun_with(before);
        // opened when there is a step to log: a run whose first step fails leaves no trace
        let mut log: Option<LogFile> = None;
        let mut output = TrainOutput {
            global_step: self.global_step(),
            stopped: false,
            before,
            after: None,
            best: None,
            evaluations: Vec::new(),
            ended_early: false,
            steps: 0,
            first_and_last: None,
            seconds: 0.0,
            tokens: 0,
            waited_seconds: Vec::new(),
            sent_bytes: 0,
        };
        let total = self.schedule.total_steps;
        output.ended_early = self.is_out_of_patience();
        while self.global_step() < total && !stops && !output.ended_early {
            let before = self.global_step();
            let taken = self.step().map_err(|source| self.keep_last_good_state(before, source))?;
            if leads {
                let file = match log.take() {
                    Some(file) => file,
                    None => LogFile::open(&folder, before)?,
                };
                log.insert(file).write(&taken)?;
            }
            stops = callback.on_step_end(&self.model, &taken).is_break();
            // what is asked of any process, by a signal say, is done by all
            let saves;
            [stops, saves] = self.team.any([stops, callback.should_save()])?;
            let constants = self.run.as_mut().and_then(|run| run.constants.as_mut());
            if let Some(reason) = constants.and_then(ConstantCache::take_ending) {
                callback.on_warning(&TrainerWarning::CacheEnded { reason });
            }
            if let Some(odd) = self.norms.take_odd(&self.model) {
                callback.on_warning(&TrainerWarning::OddNorm(odd));
            }
            output.add(self.first_step(&taken), taken);
            let step = self.global_step();
            let due = |every: Option<u64>| every.is_some_and(|n| step.is_multiple_of(n));
            let ends = step == total;
            if due(self.arguments.eval_steps) && !ends && !stops {
                let evaluated = self.evaluate_and_tell(callback);
                let (evaluation, stop) =
                    evaluated.map_err(|source| self.keep_last_good_state(step, source))?;
                self.remember(evaluation.as_ref());
                if let (Some(evaluation), Some(log)) = (&evaluation, &mut log) {
                    log.evaluated(evaluation)?;
                }
                output.after = evaluation;
                [stops] = self.team.any([stop])?;
                output.ended_early = !stops && self.is_out_of_patience();
            }
            if leads && (due(self.arguments.save_steps) || saves || (stops && !ends)) {
                callback.on_save(&self.save_checkpoint()?);
            }
        }
        self.finish(&mut output, log, callback)?;
        Ok(output)
    }

    /// What is left when the last step is taken, or the run is stopped.
    fn finish(
        &mut self,
        output: &mut TrainOutput,
        log: Option<LogFile>,
        callback: &mut dyn TrainerCallback,
    ) -> Result<()> {
        let folder = self.arguments.output_dir.clone();
        let (step, total) = (self.global_step(), self.schedule.total_steps);
        let leads = self.leads();
        // with its end kept, a run can be made longer later
        let taken = output.first_and_last.is_some() && (step == total || output.ended_early);
        let kept = self.arguments.save_steps.is_some_and(|n| step.is_multiple_of(n));
        if leads && taken && !kept {
            self.save_checkpoint()?;
        }
        output.global_step = step;
        output.stopped = step < total && !output.ended_early;
        if step == total {
            if leads {
                // whoever ends the run while it evaluates has the rows
                self.save_adapter(&folder)?;
            }
            let evaluated = self.evaluate_and_tell(callback);
            output.after = evaluated.map_err(|source| self.keep_last_good_state(step, source))?.0;
            self.remember(output.after.as_ref());
            if let (Some(evaluation), Some(mut log)) = (&output.after, log) {
                log.evaluated(evaluation)?;
            }
            if leads && taken && self.arguments.load_best_model_at_end {
                // with the last evaluation in it
                self.save_checkpoint()?;
            }
        }
        output.best = self.run.as_ref().and_then(|run| run.best.best.clone());
        output.evaluations = self.run.as_ref().map(|run| run.evaluations.clone()).unwrap_or_default();
        if !output.stopped && self.arguments.load_best_model_at_end {
            let run = self.run.as_ref();
            let of_best = run.and_then(|run| run.best.restore(step, &mut self.model));
            output.after = of_best.or(output.after.take());
        }
        (output.waited_seconds, output.sent_bytes) = self.team.traffic()?;
        if leads && step > 0 {
            self.save_model()?;
            let tokenizer = self.tokenizer.as_ref();
            super::card::write(&folder, &self.model, &self.arguments, &self.schedule, tokenizer, output)?;
            callback.on_save(&folder);
        }
        Ok(())
    }

    /// An evaluation, and whether the run is to end.
    fn evaluate_and_tell(
        &mut self,
        callback: &mut dyn TrainerCallback,
    ) -> Result<(Option<Evaluation>, bool)> {
        let evaluation = self.evaluate(callback)?;
        let mut stops = evaluation.is_none() && self.eval_data().is_some();
        let step = self.global_step();
        if let (Some(evaluation), Some(run)) = (&evaluation, &mut self.run) {
            history::remember(&mut run.evaluations, step, evaluation);
        }
        if let Some(evaluation) = &evaluation {
            stops |= callback.on_evaluate(&self.model, step, evaluation).is_break();
            let before = self.run.as_ref().and_then(|run| run.beginning.0.as_ref());
            if let Some(leak) = self.leak.take(step, evaluation, before) {
                callback.on_warning(&TrainerWarning::Leaking(leak));
            }
        }
        Ok((evaluation, stops || callback.on_prediction_step().is_break()))
    }

    /// Compares an evaluation after a step with the best one.
    fn remember(&mut self, evaluation: Option<&Evaluation>) {
        let step = self.global_step();
        let by = (self.arguments.metric_for_best_model, self.arguments.load_best_model_at_end);
        if let (Some(evaluation), Some(run)) = (evaluation, &mut self.run)
            && step > 0
        {
            run.best.take(step, evaluation, &self.model, by);
        }
    }

    fn is_out_of_patience(&self) -> bool {
        let patience = self.arguments.early_stopping_patience;
        self.run.as_ref().is_some_and(|run| run.best.is_out_of_patience(patience))
    }

    /// What a run began with is what it began with before it was stopped.
    fn begun_with(&mut self, now: Option<Evaluation>) -> Option<Evaluation> {
        let run = self.run.as_mut()?;
        let before = run.beginning.0.take().filter(|begun| same_data(begun, now.as_ref())).or(now);
        run.beginning.0 = before.clone();
        before
    }

    /// The first step of the run.
    fn first_step(&self, taken: &StepLog) -> StepLog {
        let first = self.run.as_ref().and_then(|run| run.beginning.1.clone());
        first.unwrap_or_else(|| taken.clone())
    }
}

impl TrainOutput {
    fn add(&mut self, first: StepLog, taken: StepLog) {
        self.seconds += taken.seconds;
        self.tokens += taken.tokens;
        self.steps += 1;
        self.first_and_last = Some((first, taken));
    }
}
