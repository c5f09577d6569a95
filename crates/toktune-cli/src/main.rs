//! The `toktune` program: the library with the arguments of the process.

use std::process::ExitCode;

fn main() -> ExitCode {
    toktune_cli::run(std::env::args_os())
}
