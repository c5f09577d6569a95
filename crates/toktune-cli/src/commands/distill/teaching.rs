//! The teacher of a run: run once, and kept where there is room for what it gives.

use crate::args::DistillArgs;
use crate::failure::{Failure, Outcome};
use crate::report;
use crate::signals::Signals;
use toktune::distill::{Snippet, Teacher};
use toktune::engine::constants::CacheLocation;
use toktune::models::PretrainedModel;
use toktune::train::bytes_to_hold;
use toktune::weights::WeightsError;

/// Runs the teacher; what it gives is told before, and lies in a file where it is too much for the memory that the run may take.
pub(super) fn teacher(
    args: &DistillArgs,
    base: &PretrainedModel,
    snippets: &[Snippet],
    signals: &Signals,
) -> Outcome<Teacher> {
    let (bytes, most) =
        (Teacher::bytes(base, snippets, args.loss), bytes_to_hold(args.run.memory_budget, base));
    let states = format!(
        "the teacher's states of {} take {}",
        report::plural(snippets.len(), "snippet"),
        report::bytes(bytes)
    );
    let location = if bytes > most {
        report::note(&format!(
            "{states}, more than the {} of memory that they may; they are kept in a temporary file in {} (--memory-budget; fewer or \
             shorter snippets take less: --snippets-per-word, --tokens-after)",
            report::bytes(most),
            args.output.display()
        ));
        std::fs::create_dir_all(&args.output)
            .map_err(|error| toktune::Error::from(WeightsError::io(&args.output)(error)))?;
        CacheLocation::Folder(args.output.clone())
    } else {
        report::note(&format!("{states} of memory"));
        CacheLocation::Memory
    };
    let read = Teacher::read_to(&location, base, snippets, args.loss, &mut |_| signals.asked());
    let found = match read {
        Ok(Some(teacher)) => return Ok(teacher),
        Ok(None) => stopped(signals),
        Err(error) => error.into(),
    };
    // a folder that was made for the file; one with something in it stays
    let _ = std::fs::remove_dir(&args.output);
    Err(found)
}

/// A run that a signal ends before it has taken a step.
pub(super) fn stopped(signals: &Signals) -> Failure {
    report::note("stopped before the first step: there is nothing to go on from");
    Failure::Stopped(signals.status().unwrap_or(1))
}
