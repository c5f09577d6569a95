//! Who is told of a run, and can stop it.

use super::evaluate::Evaluation;
use super::log::StepLog;
pub use crate::error::ChangedSetting;
use std::path::Path;

/// What a callback may ask of the run; named after transformers' class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrainerControl {
    /// The run ends after this step, with a checkpoint and the rows as they are, so that it can be resumed.
    pub should_training_stop: bool,
    /// A checkpoint is written after this step.
    pub should_save: bool,
}

/// Something that did not end the run and that its user should know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrainerWarning {
    /// The run was to be resumed, and there is no checkpoint: it begins with the first step.
    NoCheckpoint,
    /// The run goes on with other settings than it began with.
    OtherSettings(Vec<ChangedSetting>),
    /// No more constants are kept between epochs; what is kept is used, and the rest computed anew.
    CacheEnded {
        /// Why.
        reason: String,
    },
}

/// Told of what happens in a run, as transformers' class of this name. Every method may be left out.
pub trait TrainerCallback {
    /// The steps begin; `step` of them were taken by the run that is resumed.
    fn on_train_begin(&mut self, step: u64) {
        let _ = step;
    }

    /// A step was taken; by `control` more can be asked of the run.
    fn on_step_end(&mut self, log: &StepLog, control: &mut TrainerControl) {
        let _ = (log, control);
    }

    /// Asked between the batches of an evaluation, which can take long: whether the run is to end, as after a step.
    fn should_training_stop(&mut self) -> bool {
        false
    }

    /// The held-out rows were evaluated after `step` steps.
    fn on_evaluate(&mut self, step: u64, evaluation: &Evaluation) {
        let _ = (step, evaluation);
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
