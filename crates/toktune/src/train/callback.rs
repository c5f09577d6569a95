//! Who is told of a run, and can stop it.

use super::evaluate::Evaluation;
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
