//! Tokens that open and close: whether what is opened is closed.

use serde::Serialize;

/// What became of two tokens of which one closes what the other opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PairEmission {
    /// The token that opens.
    pub open: u32,
    /// The token that closes.
    pub close: u32,
    /// Texts with one of the two.
    pub texts: usize,
    /// Those of them in which every opening is closed, and nothing else is.
    pub balanced: usize,
}

impl PairEmission {
    /// The share of texts with one of the two that are balanced.
    pub fn rate(&self) -> Option<f64> {
        (self.texts > 0).then(|| self.balanced as f64 / self.texts as f64)
    }
}

/// Whether `close` is written as what closes `open`: with a slash (`<calc>`, `</calc>`; `[INST]`, `[/INST]`; `<|x|>`, `<|/x|>`), as an end to a
/// start or a beginning, or as the mirror image (`<<`, `>>`).
fn closes(open: &str, close: &str) -> bool {
    let without_slash = || close.contains('/') && close.replacen('/', "", 1) == open;
    let of_words = |start: &str, end: &str| open.contains(start) && open.replacen(start, end, 1) == close;
    let mirrored: String = open
        .chars()
        .rev()
        .map(|c| match c {
            '<' => '>',
            '[' => ']',
            '{' => '}',
            '(' => ')',
            other => other,
        })
        .collect();
    without_slash()
        || ["start", "begin"].iter().any(|start| of_words(start, "end"))
        || of_words("bo", "eo")
        || (mirrored == close && open != close && !open.chars().any(char::is_alphanumeric))
}

/// The pairs among named tokens, over texts.
pub fn pairs(names: &[(u32, String)], texts: &[Vec<u32>]) -> Vec<PairEmission> {
    let mut found = Vec::new();
    for (open, opening) in names {
        for (close, _) in names.iter().filter(|(_, closing)| closes(opening.trim(), closing.trim())) {
            let mut pair = PairEmission { open: *open, close: *close, texts: 0, balanced: 0 };
            for text in texts {
                let mut depths = Vec::new();
                let mut depth = 0i64;
                for token in text.iter().filter(|token| [open, close].contains(token)) {
                    depth += if token == open { 1 } else { -1 };
                    depths.push(depth);
                }
                pair.texts += usize::from(!depths.is_empty());
                let is_balanced = depths.last() == Some(&0) && depths.iter().all(|depth| *depth >= 0);
                pair.balanced += usize::from(is_balanced);
            }
            found.push(pair);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closings_are_known_by_their_spelling() {
        for (open, close) in [
            ("<calc>", "</calc>"),
            ("[INST]", "[/INST]"),
            ("<|im_start|>", "<|im_end|>"),
            ("<|begin_of_text|>", "<|end_of_text|>"),
            ("<<", ">>"),
            ("<|tool|>", "<|/tool|>"),
        ] {
            assert!(closes(open, close), "{open} {close}");
            assert!(!closes(close, open), "{close} {open}");
        }
        for (one, other) in [("<a>", "</b>"), ("<a>", "<b>"), ("<a>", "<a>"), ("||", "||"), ("ab", "ba")] {
            assert!(!closes(one, other), "{one} {other}");
        }
    }

    #[test]
    fn what_is_opened_is_closed_in_order() {
        let names = [(1, "<x>".to_owned()), (2, "</x>".to_owned()), (3, "<y>".to_owned())];
        let texts = [vec![9, 1, 9, 2], vec![1, 1, 2, 2], vec![2, 1], vec![1, 9], vec![9, 3], vec![1, 2, 1]];
        let found = pairs(&names, &texts);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].open, found[0].close, found[0].texts, found[0].balanced), (1, 2, 5, 2));
        assert_eq!(found[0].rate(), Some(0.4));
        assert_eq!(pairs(&names, &[])[0].rate(), None);
    }
}
