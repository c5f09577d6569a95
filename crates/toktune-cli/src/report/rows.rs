//! Rows of tokens for people: what is read, what is learnt, and which tokens are trained.
//!
//! What colours say is also said without them: learnt and read text stand in lines of their own, and trained tokens between
//! marks.

use super::style::Style;
use toktune::data::ShownToken;

/// Around a trained token.
const MARKS: (char, char) = ('⟦', '⟧');

/// A run of tokens under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it is: `read`, `learnt`, `learnt x0.5`.
    pub name: String,
    /// The text, marked.
    pub text: String,
}

/// The runs of tokens that are read and learnt alike, with what they count where that is not once; `part` stands before the names where a row has several.
pub fn shown_lines(tokens: &[ShownToken], part: &str, style: Style) -> Vec<Line> {
    let part = if part.is_empty() { String::new() } else { format!("{part} ") };
    let run = |run: &[ShownToken]| {
        let learnt = run.first().is_some_and(|token| token.learnt);
        let text = run.iter().map(|token| {
            let text = plain(&token.text);
            match (token.trained, learnt) {
                (true, _) => style.reverse(&format!("{}{text}{}", MARKS.0, MARKS.1)),
                (false, true) => style.green(&text),
                (false, false) => style.dim(&text),
            }
        });
        let name = if learnt { "learnt" } else { "read" };
        let weight = run.first().and_then(|token| token.weight).map_or(String::new(), |x| format!(" x{x}"));
        Line { name: format!("{part}{name}{weight}"), text: text.collect() }
    };
    tokens.chunk_by(|a, b| (a.learnt, a.weight) == (b.learnt, b.weight)).map(run).collect()
}

/// Text whose line breaks can be seen and whose control characters do nothing.
pub(super) fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => shown.push('⏎'),
            '\t' => shown.push('⇥'),
            other if other.is_control() => shown.extend(other.escape_unicode()),
            other => shown.push(other),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_told_without_colours() {
        let token = |text: &str, learnt: bool, trained: bool| ShownToken {
            id: 1,
            text: text.into(),
            learnt,
            weight: None,
            trained,
        };
        let tokens = [
            token("a\n", false, false),
            token("<x>", false, true),
            token(" b", true, false),
            token("<x>", true, true),
            token("\u{1b}[31m", false, false),
        ];
        let line = |name: &str, text: &str| Line { name: name.into(), text: text.into() };
        let expected = [line("read", "a⏎⟦<x>⟧"), line("learnt", " b⟦<x>⟧"), line("read", "\\u{1b}[31m")];
        assert_eq!(shown_lines(&tokens, "", Style::PLAIN), expected);
        assert_eq!(shown_lines(&tokens[..1], "encoder", Style::PLAIN), [line("encoder read", "a⏎")]);
        assert!(shown_lines(&[], "", Style::PLAIN).is_empty());
        let counting = |weight, text: &str| ShownToken { weight, ..token(text, true, false) };
        let tokens = [counting(Some(0.5), "a"), counting(Some(0.5), "b"), counting(None, "c")];
        let expected = [line("learnt x0.5", "ab"), line("learnt", "c")];
        assert_eq!(shown_lines(&tokens, "", Style::PLAIN), expected);
    }
}
