//! `toktune completions` and `toktune man`: what is made of the table of flags for shells and for `man`.

use crate::about;
use crate::args::{CompletionsArgs, ManArgs};
use crate::failure::{Failure, Outcome};
use crate::report;
use std::io::Write;

/// Writes a shell's completions to the standard output.
pub fn completions(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut about::command(), "toktune", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(())
}

/// Writes a page for the program and one for each command.
pub fn pages(args: &ManArgs) -> Outcome {
    let fault = |error: std::io::Error| Failure::Failed(format!("{}: {error}", args.output.display()));
    std::fs::create_dir_all(&args.output).map_err(fault)?;
    clap_mangen::generate_to(about::command(), &args.output).map_err(fault)?;
    report::note(&format!("the pages are in {}", args.output.display()));
    Ok(())
}
