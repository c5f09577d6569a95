//! The commands, one a file.

mod chat;
mod combine;
mod distill;
mod eval;
mod export;
mod generate;
mod inspect;
mod inspect_adapter;
mod manual;
mod merge;
mod preview;
mod stopped;
mod tokens;
mod train;

use crate::args::Command;
use crate::failure::Outcome;
use crate::typed::Typed;

/// Runs a command, which was typed so.
pub fn run(command: Command, typed: Typed<'_>) -> Outcome {
    match command {
        Command::Train(args) => train::run(&args, typed),
        Command::Chat(args) => chat::run(&args),
        Command::Combine(args) => combine::run(&args),
        Command::Distill(args) => distill::run(&args, typed),
        Command::Eval(args) => eval::run(&args),
        Command::Preview(args) => preview::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Tokens(args) => tokens::run(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::pages(&args),
    }
}
