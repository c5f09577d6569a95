//! Everything that is written for people, and the JSON lines for programs.

mod chats;
mod evaluation;
mod format;
mod header;
mod profile;
mod progress;
mod style;
mod table;

pub use chats::chats;
pub use evaluation::{evaluation_json, evaluation_table};
pub use format::{bytes, count, number, plural};
pub use header::{Header, LoraLine, TokenLine};
pub use profile::profile;
pub use progress::Progress;
pub use style::{Style, stdout_style};
pub use table::pairs;

use std::io::Write;

/// A remark on the standard error.
pub fn note(message: &str) {
    to_stderr(|style| style.dim("note:"), message);
}

/// A remark that something is probably not as meant.
pub fn warning(message: &str) {
    to_stderr(|style| style.yellow("warning:"), message);
}

/// Why the command failed.
pub fn error(message: &str) {
    to_stderr(|style| style.red("error:"), message);
}

fn to_stderr(label: impl FnOnce(Style) -> String, message: &str) {
    // when the standard error is closed there is nobody left to tell
    let _ = writeln!(std::io::stderr(), "{} {message}", label(style::stderr_style()));
}

/// One JSON object on the standard output.
pub fn json_line(value: &serde_json::Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}
