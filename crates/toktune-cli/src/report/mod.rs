//! Everything that is written for people, and the JSON lines for programs.

mod chats;
mod distillation;
mod emission;
mod evaluation;
mod format;
mod header;
mod profile;
mod progress;
mod reading;
mod rows;
mod starts;
mod style;
mod table;

pub use chats::chats;
pub use distillation::Distilled;
pub use emission::{emission_json, emission_table};
pub use evaluation::{evaluation_json, evaluation_table};
pub use format::{bytes, count, number, plural, spelling};
pub use header::{Header, LoraLine, NAMED, PreferenceLine, ProcessesLine, TokenLine};
pub use profile::profile;
pub use progress::Progress;
pub use reading::ReadingBar;
pub use rows::shown_lines;
pub use starts::{NeighbourLine, PlaceLine, StartLine, tell_prior};
pub use style::{Style, stdout_style};
pub use table::pairs;

use std::io::Write;
use std::sync::OnceLock;

/// What this process is called where it speaks of errors alone: another one of the run says the rest.
static ERRORS_ALONE: OnceLock<String> = OnceLock::new();

/// Has this process, called so, say nothing but errors from now on.
pub fn speak_errors_alone(name: String) {
    // it is said once, before anything else
    let _ = ERRORS_ALONE.set(name);
}

/// Whether another process of the run says what there is to say.
fn is_silent() -> bool {
    ERRORS_ALONE.get().is_some()
}

/// A remark on the standard error.
pub fn note(message: &str) {
    if is_silent() {
        return;
    }
    to_stderr(|style| style.dim("note:"), message);
}

/// A remark that something is probably not as meant.
pub fn warning(message: &str) {
    if is_silent() {
        return;
    }
    to_stderr(|style| style.yellow("warning:"), message);
}

/// Why the command failed.
pub fn error(message: &str) {
    let name = ERRORS_ALONE.get().map_or(String::new(), |name| format!("{name}: "));
    to_stderr(|style| style.red("error:"), &format!("{name}{message}"));
}

fn to_stderr(label: impl FnOnce(Style) -> String, message: &str) {
    // when the standard error is closed there is nobody left to tell
    let _ = writeln!(std::io::stderr(), "{} {}", label(style::stderr_style()), shortened(&harmless(message)));
}

/// Text of a stranger's, without what a terminal would act on.
pub fn harmless(text: &str) -> std::borrow::Cow<'_, str> {
    let acts = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(acts) {
        return text.into();
    }
    text.chars()
        .flat_map(|c| if acts(c) { c.escape_default().collect() } else { vec![c] })
        .collect::<String>()
        .into()
}

/// A message that does not fill the terminal with what it repeats.
fn shortened(message: &str) -> String {
    const MOST: usize = 2000;
    let length = message.chars().count();
    if length <= MOST {
        return message.to_owned();
    }
    let part = |skip: usize, take: usize| message.chars().skip(skip).take(take).collect::<String>();
    let (begin, end) = (MOST * 3 / 4, MOST / 4);
    format!(
        "{} [... {} characters ...] {}",
        part(0, begin),
        count((length - MOST) as u64),
        part(length - end, end)
    )
}

/// One JSON object on the standard output.
pub fn json_line(value: &serde_json::Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_harmless_and_of_a_bearable_length() {
        assert_eq!(harmless("a\tb\nc é"), "a\tb\nc é");
        assert_eq!(harmless("a\u{1b}[31m\r\u{7}\u{9b}"), "a\\u{1b}[31m\\r\\u{7}\\u{9b}");
        assert_eq!(shortened("short"), "short");
        let long = format!("begin{}end", "x".repeat(5000));
        let short = shortened(&long);
        assert!(
            short.chars().count() < 2100 && short.starts_with("begin") && short.ends_with("end"),
            "{short}"
        );
    }
}
