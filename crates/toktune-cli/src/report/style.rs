//! Colours, where they can be seen and are wanted.

use std::io::IsTerminal;

/// How to mark text: by colours, or not at all.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    on: bool,
}

impl Style {
    /// Without colours.
    #[cfg(test)]
    pub const PLAIN: Style = Style { on: false };

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_string() }
    }

    /// What stands out.
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// What stands back.
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// What deserves a look.
    pub fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// What is good.
    pub fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// What is picked out.
    pub fn reverse(self, text: &str) -> String {
        self.wrap("7", text)
    }

    /// What is wrong.
    pub fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }
}

/// Colours are off when `NO_COLOR` is set (no-color.org: to anything but the empty text) or the terminal has
/// none.
fn style(is_terminal: bool) -> Style {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    Style {
        on: is_terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
    }
}

/// Of the standard output.
pub fn stdout_style() -> Style {
    style(std::io::stdout().is_terminal())
}

/// Of the standard error.
pub fn stderr_style() -> Style {
    style(std::io::stderr().is_terminal())
}
