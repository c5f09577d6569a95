//! Some rows of the data as the model sees them.

use crate::data::{Dataset, ShownPart, ShownToken};
use crate::error::Result;
use crate::text::AutoTokenizer;
use std::collections::{BTreeSet, HashSet};

/// Rows that are shown.
const SHOWN: usize = 4;
/// Rows that are looked at for trained tokens.
const LOOKED_AT: usize = 512;
/// Tokens of a sequence that are shown.
const TOKENS: usize = 320;
/// Of these at its beginning, where the rest is further behind.
const BEGINNING: usize = 40;
/// And before the first one that is learnt or trained.
const LEAD: usize = 40;

/// A row of the data.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ShownExample {
    /// Which of the examples it is, from 1.
    pub number: usize,
    /// Where it stands.
    pub source: String,
    /// Its sequences.
    pub parts: Vec<ShownWindow>,
    /// Tokens that the length limit cut off.
    pub cut: usize,
}

/// A sequence, of which the middle may be left out.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ShownWindow {
    /// What it is where a row has several.
    pub name: &'static str,
    /// The beginning.
    pub beginning: Vec<ShownToken>,
    /// Tokens that are left out behind it.
    pub skipped: usize,
    /// What goes on from there.
    pub rest: Vec<ShownToken>,
    /// Tokens that are left out at the end.
    pub left_out: usize,
}

/// Some examples, such that each trained token is among those that are learnt where that is possible, and the first ones.
pub(super) fn examples(
    data: &Dataset,
    tokenizer: Option<&AutoTokenizer>,
    tokens: &[u32],
) -> Result<Vec<ShownExample>> {
    let trained: HashSet<u32> = tokens.iter().copied().collect();
    let (mut seen, mut chosen) = (HashSet::new(), BTreeSet::new());
    for (at, example) in data.examples().take(LOOKED_AT).enumerate() {
        if chosen.len() == SHOWN || seen.len() == trained.len() {
            break;
        }
        let example = example?;
        let own: HashSet<u32> = data.collator().inputs(&example).filter(|id| trained.contains(id)).collect();
        if own.iter().any(|id| !seen.contains(id)) {
            seen.extend(own);
            chosen.insert(at);
        }
    }
    for at in 0..data.len().min(SHOWN) {
        if chosen.len() < SHOWN {
            chosen.insert(at);
        }
    }
    let of = |at: usize| {
        let example = data.example(at)?;
        let parts = data.shown((at, &example), tokenizer, &trained)?;
        let parts = parts.into_iter().map(window).collect();
        Ok(ShownExample { number: at + 1, source: example.source.to_string(), parts, cut: example.cut.len() })
    };
    chosen.into_iter().map(of).collect()
}

/// A sequence with what is worth to be seen of it.
fn window(part: ShownPart) -> ShownWindow {
    let ShownPart { name, tokens } = part;
    let length = tokens.len();
    if length <= TOKENS {
        return ShownWindow { name, beginning: tokens, skipped: 0, rest: Vec::new(), left_out: 0 };
    }
    let first = tokens.iter().position(|token| token.learnt || token.trained).unwrap_or(0);
    let start = first.saturating_sub(LEAD).clamp(BEGINNING, length - (TOKENS - BEGINNING));
    let end = start + TOKENS - BEGINNING;
    ShownWindow {
        name,
        beginning: tokens[..BEGINNING].to_vec(),
        skipped: start - BEGINNING,
        rest: tokens[start..end].to_vec(),
        left_out: length - end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_row_is_shown_where_something_is_learnt() {
        let tokens = |length: usize, learnt: usize| -> Vec<ShownToken> {
            let of = |at| ShownToken {
                id: at as u32,
                text: String::new(),
                learnt: at >= learnt,
                weight: None,
                trained: false,
            };
            (0..length).map(of).collect()
        };
        let of = |length, learnt| window(ShownPart { name: "", tokens: tokens(length, learnt) });
        let counts = |of: &ShownWindow| (of.beginning.len(), of.skipped, of.rest.len(), of.left_out);
        assert_eq!(counts(&of(320, 10)), (320, 0, 0, 0));
        assert_eq!(counts(&of(1000, 10)), (40, 0, 280, 680));
        let late = of(1000, 500);
        assert_eq!((counts(&late), late.rest[0].id), ((40, 420, 280, 260), 460));
        assert_eq!(counts(&of(1000, 999)), (40, 680, 280, 0));
    }
}
