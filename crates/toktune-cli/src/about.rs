//! What this program is: version, commit, features, instruction sets; and its manual, made of the table of flags.

use crate::args::Cli;
use clap::{Command, CommandFactory};
use std::sync::OnceLock;
use toktune::runtime::Isa;

/// The version with what it was built of and what it can use here.
fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let commit = option_env!("TOKTUNE_COMMIT").map(|commit| format!("commit {commit}; "));
        let features = if cfg!(feature = "hub") { "hub" } else { "none" };
        let sets: Vec<&str> = Isa::available().map(|isa| isa.name()).collect();
        format!(
            "{} ({}features: {features}; instruction sets here: {})",
            env!("CARGO_PKG_VERSION"),
            commit.unwrap_or_default(),
            sets.join(", ")
        )
    })
}

/// The table of commands and flags, with the version.
pub fn command() -> Command {
    Cli::command().version(version())
}
