//! `toktune train`.
//!
//! Everything is checked before anything is written: arguments, output folder, machine, model, tokens, data.

mod closing;
mod heading;
mod opened;
mod paged;
mod prepared;
mod ready;

use crate::args::{LogFormat, TrainArgs};
use crate::failure::{Failure, Outcome};
use crate::page::Page;
use crate::processes;
use crate::proof::{self, Proof};
use crate::report::{self, Progress};
use crate::signals::Signals;
use crate::typed::Typed;
use closing::{Closing, Tried};
use paged::Paged;
use ready::Ready;
use toktune::Error;
use toktune::emission::Emission;
use toktune::train::{MemoryRoom, TensorBoard};

/// The exit status of a program that TERM ends.
const TERMINATED: u8 = 143;

/// Trains; `typed` is what a run that is stopped goes on by.
pub fn run(args: &TrainArgs, typed: Typed<'_>) -> Outcome {
    let process = processes::join(&args.machine)?;
    let mut ready = Ready::of(args, process.as_ref())?;
    let tokenizer = ready.tokenizer.take();
    let tokenizer = tokenizer.as_ref();
    let total = ready.trainer.schedule().total_steps;
    let mut progress =
        Progress::new(args.run.log_format == LogFormat::Json, args.run.log_every, total, tokenizer);
    if process.is_some() {
        progress.carried();
    }
    warn_of_memory(&ready)?;
    let header = ready.header(tokenizer)?;
    // the first process tries the tokens for all
    let proof = if ready.trainer.leads() { ready.proof()? } else { None };
    progress.header(&header);
    report::tell_prior(&header.starts, ready.trainer.model.base().vocabulary());
    let signals = Signals::listen();
    progress.listen(signals.clone());
    // a run that is resumed has begun with other rows than it has now
    let before = match proof.as_ref().filter(|_| !ready.is_resumed()) {
        Some(proof) => try_tokens(proof, &ready, tokenizer, &signals)?,
        None => None,
    };
    if args.run.profile {
        toktune::profile::start();
    }
    let leads = ready.trainer.leads();
    let mut board = (leads && args.run.tensorboard).then(|| TensorBoard::new(&args.output));
    let page = (leads && args.run.report).then(|| Page::of(&ready.trainer, typed));
    let result = ready.trainer.train(&mut (Some(&mut progress), board.as_mut()));
    progress.finish();
    if let Some(fault) = board.as_ref().and_then(TensorBoard::fault) {
        report::warning(&format!("--tensorboard: {fault}; no more of the run was written there"));
    }
    let paged = |output, tried, note| {
        let page = page.as_ref()?;
        Paged { ready: &ready, page, output, tried, tokenizer }.write(note)
    };
    if let Err(fault @ Error::Diverged { .. }) = &result {
        paged(None, None, Some(fault.to_string()));
    }
    let output = result?;
    if output.stopped {
        // another process of the run may have had the signal
        let status = signals.status().unwrap_or(TERMINATED);
        paged(Some(&output), None, None);
        super::stopped::tell(&progress, &output, total, typed);
        return Err(Failure::Stopped(status));
    }
    let after = match &proof {
        Some(proof) => try_tokens(proof, &ready, tokenizer, &signals)?,
        None => None,
    };
    let tried = after.as_ref().map(|after| {
        let model = &ready.trainer.model;
        let labels = |id: u32| ready.uses.iter().find(|of| of.id == id).map(|of| of.labels);
        let causes = proof::causes(after, model.base(), &model.active(), tokenizer, &labels);
        Tried { before: before.as_ref(), after, causes }
    });
    let page = paged(Some(&output), proof.as_ref().zip(tried.as_ref()), None);
    let (page, tried) = (page.as_deref(), tried.as_ref());
    Closing { args, ready: &ready, output: &output, tried, page, tokenizer }.tell(&progress);
    if args.run.profile {
        report::profile(&progress, &toktune::profile::finish(), output.seconds);
    }
    match (&proof, &after) {
        (Some(proof), Some(after)) => proof.check(after, tokenizer),
        (Some(_), None) => Err(Failure::Stopped(signals.status().unwrap_or(1))),
        (None, _) => Ok(()),
    }
}

/// Says it where a step needs more memory than there is room for, though nothing is kept.
fn warn_of_memory(ready: &Ready<'_>) -> Outcome {
    let memory = ready.trainer.memory_estimate()?;
    if let MemoryRoom::Process(budget) = ready.trainer.memory_room()
        && memory > budget
    {
        report::warning(&format!(
            "--memory-budget: about {} are needed when nothing is kept, more than {}; smaller batches need less",
            report::bytes(memory),
            report::bytes(budget)
        ));
    }
    Ok(())
}

/// Tries the tokens as they are now; nothing when a signal ends it.
fn try_tokens(
    proof: &Proof,
    ready: &Ready<'_>,
    tokenizer: Option<&toktune::text::AutoTokenizer>,
    signals: &Signals,
) -> Outcome<Option<Emission>> {
    let model = &ready.trainer.model;
    proof.run(model.base(), model.active(), tokenizer, &mut || signals.asked())
}
