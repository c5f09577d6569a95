//! Runs that a signal has stopped.

use crate::report::Progress;
use crate::typed::Typed;
use serde_json::json;
use toktune::train::TrainOutput;

/// Tells how a run that was stopped goes on.
pub(super) fn tell(progress: &Progress<'_>, output: &TrainOutput, total: u64, typed: Typed<'_>) {
    let step = output.global_step;
    if progress.is_json() {
        return progress.json(
            &json!({"event": "stopped", "step": step, "steps": total, "resume": typed.resume_command()}),
        );
    }
    progress.lines(&[
        format!("stopped after step {step} of {total}; to go on:"),
        format!("  {}", typed.resume_command()),
    ]);
}
