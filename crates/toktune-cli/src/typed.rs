//! The command line as it was typed, to be typed again.

use std::ffi::OsString;

/// The program's name and what was typed behind it.
#[derive(Clone, Copy, Debug)]
pub struct Typed<'a>(pub &'a [OsString]);

impl Typed<'_> {
    /// The command that was typed, as a shell reads it.
    pub fn command(self) -> String {
        self.words().join(" ")
    }

    fn words(self) -> Vec<String> {
        self.0.iter().map(|word| quoted(&word.to_string_lossy())).collect()
    }

    /// The same with `--resume`.
    pub fn resume_command(self) -> String {
        let mut words = self.words();
        if !words.iter().any(|word| word == "--resume" || word == "--resume-anyway") {
            words.push("--resume".to_owned());
        }
        words.join(" ")
    }
}

/// A word that a shell reads as it is.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Typed, quoted};

    #[test]
    fn words_are_quoted_where_a_shell_would_read_them_otherwise() {
        for (word, expected) in
            [("--max-steps=3", "--max-steps=3"), ("<calc>", "'<calc>'"), ("it's", r"'it'\''s'"), ("", "''")]
        {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn a_run_goes_on_by_what_was_typed() {
        for (typed, expected) in [
            (&["toktune", "train", "--token", "<a>"][..], "toktune train --token '<a>' --resume"),
            (&["toktune", "train", "--resume-anyway"], "toktune train --resume-anyway"),
        ] {
            let words: Vec<_> = typed.iter().map(Into::into).collect();
            assert_eq!(Typed(&words).resume_command(), expected);
            assert!(expected.starts_with(&Typed(&words).command()));
        }
    }
}
