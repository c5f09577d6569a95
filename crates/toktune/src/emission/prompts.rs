//! Held-out rows as prompts: what stands before their labels, and what was to be written.

use crate::data::{Dataset, Example};
use crate::error::Result;

/// A text goes on for as many tokens as twice what was to be written, and these.
const SLACK: usize = 16;
/// And for no more than this.
const MOST: usize = 512;

/// A row that is gone on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The tokens before the first label.
    pub ids: Vec<u32>,
    /// The labels: what was to be written.
    pub expected: Vec<u32>,
    /// The whole row, and what each of its tokens is to predict.
    pub row: Vec<u32>,
    /// For each token of the row the one that follows it, where that is a label.
    pub targets: Vec<Option<u32>>,
}

impl Prompt {
    /// Of a decoder's example; nothing where no token stands before the first label.
    pub fn of(example: &Example) -> Option<Self> {
        let label = |at: usize| example.labels.get(at).copied().flatten().filter(|_| example.counts(at));
        // the first token is predicted by nothing
        let first = (1..example.labels.len()).find(|at| label(*at).is_some())?;
        let row = &example.input_ids;
        Some(Self {
            ids: row.get(..first)?.to_vec(),
            expected: (first..example.labels.len()).filter_map(label).collect(),
            row: row.clone(),
            targets: (0..row.len()).map(|at| label(at + 1)).collect(),
        })
    }

    /// How many tokens are written at most.
    pub fn room(&self) -> usize {
        (2 * self.expected.len() + SLACK).min(MOST)
    }
}

/// At most `most` examples of `data` that can be gone on with: the first in which one of the tokens `chosen` is to be written, and as far
/// as these do not suffice the first of the others; in their order.
///
/// # Errors
/// An example cannot be read.
pub fn prompts(data: &Dataset, most: usize, chosen: &[u32]) -> Result<Vec<Prompt>> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for (at, example) in data.examples().enumerate() {
        if with.len() == most {
            break;
        }
        let Some(prompt) = Prompt::of(&example?) else { continue };
        let has_one = prompt.expected.iter().any(|id| chosen.contains(id));
        let of = if has_one { &mut with } else { &mut without };
        if of.len() < most {
            of.push((at, prompt));
        }
    }
    without.truncate(most - with.len());
    with.extend(without);
    with.sort_by_key(|(at, _)| *at);
    Ok(with.into_iter().map(|(_, prompt)| prompt).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Source;
    use std::path::Path;

    fn example(input_ids: &[u32], labels: &[Option<u32>]) -> Example {
        Example {
            input_ids: input_ids.to_vec(),
            second: Vec::new(),
            labels: labels.to_vec(),
            weights: Vec::new(),
            cut: Vec::new(),
            source: Source { file: Path::new("rows").into(), line: 1 },
        }
    }

    #[test]
    fn a_prompt_ends_before_the_first_label() {
        let prompt = Prompt::of(&example(&[1, 2, 3, 4], &[None, None, Some(3), Some(4)])).expect("a prompt");
        assert_eq!((&prompt.ids[..], &prompt.expected[..]), (&[1, 2][..], &[3, 4][..]));
        assert_eq!(prompt.targets, [None, Some(3), Some(4), None]);
        // where everything is learnt, the first token is given
        let prompt = Prompt::of(&example(&[1, 2], &[Some(1), Some(2)])).expect("a prompt");
        assert_eq!((&prompt.ids[..], &prompt.expected[..]), (&[1][..], &[2][..]));
        assert_eq!(Prompt::of(&example(&[1, 2], &[Some(1), None])), None);
        assert_eq!(Prompt::of(&example(&[], &[])), None);
        let weighted =
            Example { weights: vec![1.0, 0.0, 1.0], ..example(&[1, 2, 3], &[None, Some(2), Some(3)]) };
        assert_eq!(Prompt::of(&weighted).expect("a prompt").ids, [1, 2]);
    }
}
