//! Who is told of a run, and can stop it.

use super::evaluate::Evaluation;
use super::leak::Leak;
use super::log::StepLog;
use super::norms::OddRow;
pub use crate::error::ChangedSetting;
use crate::peft::PeftModel;
use std::ops::ControlFlow;
use std::path::Path;

/// Something that did not end the run and that its user should know.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TrainerWarning {
    /// The run was to be resumed, and there is no checkpoint: it begins with the first step.
    NoCheckpoint,
    /// The run goes on with other settings than it began with.
    OtherSettings(Vec<ChangedSetting>),
    /// No more constants are kept between steps; what is kept is used, and the rest computed anew.
    CacheEnded {
        /// Why.
        reason: String,
    },
    /// A trained row is less than half or more than twice as long as the median row of the vocabulary, and was not when the run
    /// began. Told once a run.
    OddNorm(OddRow),
    /// The trained tokens take more than half a percent of probability where another token is the label, and did not when the run
    /// began. Told once a run.
    Leaking(Leak),
}

/// Told of what happens in a run, as transformers' class of this name. Every method may be left out. Where one breaks, the run
/// ends with a checkpoint and the rows as they are, so that it can be resumed.
pub trait TrainerCallback {
    /// The steps begin; `step` of them were taken by the run that is resumed.
    fn on_train_begin(&mut self, model: &PeftModel, step: u64) {
        let _ = (model, step);
    }

    /// A step was taken.
    fn on_step_end(&mut self, model: &PeftModel, log: &StepLog) -> ControlFlow<()> {
        let _ = (model, log);
        ControlFlow::Continue(())
    }

    /// Asked after every step: whether a checkpoint is to be written.
    fn should_save(&mut self) -> bool {
        false
    }

    /// Called between the batches of an evaluation, which can take long.
    fn on_prediction_step(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// The held-out rows were evaluated after `step` steps.
    fn on_evaluate(&mut self, model: &PeftModel, step: u64, evaluation: &Evaluation) -> ControlFlow<()> {
        let _ = (model, step, evaluation);
        ControlFlow::Continue(())
    }

    /// A checkpoint or the adapter was written into `folder`.
    fn on_save(&mut self, folder: &Path) {
        let _ = folder;
    }

    /// Something is not as it was asked for.
    fn on_warning(&mut self, warning: &TrainerWarning) {
        let _ = warning;
    }
}

/// A callback that does nothing.
impl TrainerCallback for () {}

/// Two callbacks, told one after the other. The run ends, or is saved, where one of them wants it.
impl<A: TrainerCallback, B: TrainerCallback> TrainerCallback for (A, B) {
    fn on_train_begin(&mut self, model: &PeftModel, step: u64) {
        self.0.on_train_begin(model, step);
        self.1.on_train_begin(model, step);
    }

    fn on_step_end(&mut self, model: &PeftModel, log: &StepLog) -> ControlFlow<()> {
        either(self.0.on_step_end(model, log), self.1.on_step_end(model, log))
    }

    fn should_save(&mut self) -> bool {
        let wants = [self.0.should_save(), self.1.should_save()];
        wants.contains(&true)
    }

    fn on_prediction_step(&mut self) -> ControlFlow<()> {
        either(self.0.on_prediction_step(), self.1.on_prediction_step())
    }

    fn on_evaluate(&mut self, model: &PeftModel, step: u64, evaluation: &Evaluation) -> ControlFlow<()> {
        let first = self.0.on_evaluate(model, step, evaluation);
        either(first, self.1.on_evaluate(model, step, evaluation))
    }

    fn on_save(&mut self, folder: &Path) {
        self.0.on_save(folder);
        self.1.on_save(folder);
    }

    fn on_warning(&mut self, warning: &TrainerWarning) {
        self.0.on_warning(warning);
        self.1.on_warning(warning);
    }
}

fn either(a: ControlFlow<()>, b: ControlFlow<()>) -> ControlFlow<()> {
    if a.is_break() { a } else { b }
}

/// One that is lent is told as its owner would be; one that is not there is not.
impl<C: TrainerCallback + ?Sized> TrainerCallback for Option<&mut C> {
    fn on_train_begin(&mut self, model: &PeftModel, step: u64) {
        if let Some(callback) = self {
            callback.on_train_begin(model, step);
        }
    }

    fn on_step_end(&mut self, model: &PeftModel, log: &StepLog) -> ControlFlow<()> {
        self.as_mut().map_or(ControlFlow::Continue(()), |callback| callback.on_step_end(model, log))
    }

    fn should_save(&mut self) -> bool {
        self.as_mut().is_some_and(|callback| callback.should_save())
    }

    fn on_prediction_step(&mut self) -> ControlFlow<()> {
        self.as_mut().map_or(ControlFlow::Continue(()), |callback| callback.on_prediction_step())
    }

    fn on_evaluate(&mut self, model: &PeftModel, step: u64, evaluation: &Evaluation) -> ControlFlow<()> {
        self.as_mut().map_or(ControlFlow::Continue(()), |of| of.on_evaluate(model, step, evaluation))
    }

    fn on_save(&mut self, folder: &Path) {
        if let Some(callback) = self {
            callback.on_save(folder);
        }
    }

    fn on_warning(&mut self, warning: &TrainerWarning) {
        if let Some(callback) = self {
            callback.on_warning(warning);
        }
    }
}
