//! The `toktune` command line, as a library: [`run`] is all of it, and the program hands it its arguments.
//!
//! The library never prints; everything that a user reads comes from here. Results go to the standard output:
//! a run's header, steps and closing table, generated text, tables of `eval` and `inspect`, or JSON with
//! `--log-format json`. Notes, warnings, the progress bar and errors go to the standard error, so that the
//! output can be piped.
//!
//! Exit status: 0 done (also when the reader of the output went away), 1 failed, 2 unusable arguments, 3 a required proof failed, 130 and 143 stopped by
//! Ctrl-C or TERM with the run saved.

mod about;
mod args;
mod audit;
mod choose;
mod chosen;
mod commands;
mod config_file;
mod data;
mod failure;
mod fields;
mod load;
mod lookalikes;
mod machine;
mod page;
mod processes;
mod proof;
mod report;
mod signals;
mod starts;
mod template;
mod typed;

use failure::Failure;
use std::ffi::OsString;
use std::process::ExitCode;
use typed::Typed;

/// Runs the command line: `arguments` are the program's name and what was typed behind it, as [`std::env::args_os`] gives them.
///
/// It prints, and `train` answers Ctrl-C and TERM while it runs. The exit status is that of the program (see above).
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    toktune::runtime::keep_freed_memory();
    let typed: Vec<OsString> = arguments.into_iter().collect();
    let parsed = config_file::parse(typed.iter().cloned());
    let result = parsed.and_then(|cli| commands::run(cli.command, Typed(&typed)));
    let (status, fails) = match result {
        // a reader that has seen enough, as `head`, is no failure
        Ok(()) | Err(Failure::BrokenPipe) => (0, false),
        Err(Failure::Stopped(status)) => (status, false),
        Err(Failure::Arguments(error)) => {
            // clap writes help and versions to the standard output and faults to the standard error
            let _ = error.print();
            (u8::from(error.use_stderr()) * 2, false)
        }
        Err(Failure::Usage(message)) => {
            report::error(&message);
            (2, true)
        }
        Err(Failure::Unproven(message)) => {
            report::error(&message);
            (3, false)
        }
        Err(Failure::Failed(message)) => {
            report::error(&message);
            (1, true)
        }
    };
    match fails {
        // other processes of the run would wait for this one for ever
        true => toktune_mpi::abort(status),
        false => toktune_mpi::leave(),
    }
    ExitCode::from(status)
}
