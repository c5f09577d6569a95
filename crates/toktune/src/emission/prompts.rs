//! Held-out rows as prompts: what stands before their labels, and what was to be written.

use crate::data::{Dataset, Example};
use crate::error::Result;
use std::collections::{BTreeSet, HashMap};

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
        let row = &example.input_ids;
        // behind them are the labels of a rejected answer, which nobody is to write
        let labels = example.labels.len().min(row.len());
        let first = (1..labels).find(|at| label(*at).is_some())?;
        Some(Self {
            ids: row.get(..first)?.to_vec(),
            expected: (first..labels).filter_map(label).collect(),
            row: row.clone(),
            targets: (1..=row.len()).map(|at| label(at).filter(|_| at < labels)).collect(),
        })
    }

    /// How many tokens are written at most.
    pub fn room(&self) -> usize {
        (2 * self.expected.len() + SLACK).min(MOST)
    }
}

/// At most `most` examples of `data` that can be gone on with, in their order: such that each of the tokens `chosen` is to be written in as
/// many of them as there is room for, then others with such tokens, then any.
///
/// # Errors
/// An example cannot be read.
pub fn prompts(data: &Dataset, most: usize, chosen: &[u32]) -> Result<Vec<Prompt>> {
    let share = (most / chosen.len().max(1)).max(1);
    let mut counts: HashMap<u32, usize> = chosen.iter().map(|id| (*id, 0)).collect();
    let [mut wanted, mut with, mut without] = [(); 3].map(|()| Vec::new());
    for (at, example) in data.examples().enumerate() {
        if wanted.len() == most {
            break;
        }
        let Some(prompt) = Prompt::of(&example?) else { continue };
        let own: BTreeSet<u32> =
            prompt.expected.iter().filter(|id| counts.contains_key(id)).copied().collect();
        let is_wanted = own.iter().any(|id| counts[id] < share);
        if is_wanted {
            own.iter().for_each(|id| *counts.entry(*id).or_default() += 1);
            wanted.push((at, prompt));
            continue;
        }
        let of = if own.is_empty() { &mut without } else { &mut with };
        if of.len() < most {
            of.push((at, prompt));
        }
    }
    wanted.extend(with.into_iter().chain(without));
    wanted.truncate(most);
    wanted.sort_by_key(|(at, _)| *at);
    Ok(wanted.into_iter().map(|(_, prompt)| prompt).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Collator, Source};
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
    fn each_token_gets_its_share_of_the_prompts() {
        let of = |ids: &[u32]| {
            let input_ids = [&[9], ids].concat();
            let labels =
                input_ids.iter().enumerate().map(|(at, id)| Some(*id).filter(|_| at > 0)).collect::<Vec<_>>();
            example(&input_ids, &labels)
        };
        let rows = [of(&[5]), of(&[1]), of(&[1]), of(&[1]), of(&[1]), of(&[2, 1]), of(&[5])];
        let data = Dataset::from_examples(&rows, Collator::Causal, 10).expect("a set");
        let chosen = |most: usize, tokens: &[u32]| {
            let prompts = prompts(&data, most, tokens).expect("prompts");
            prompts.iter().map(|prompt| prompt.expected.clone()).collect::<Vec<_>>()
        };
        // the rare token comes late, and is among the first two all the same
        assert_eq!(chosen(2, &[1, 2]), [vec![1], vec![2, 1]]);
        assert_eq!(chosen(3, &[1, 2]), [vec![1], vec![1], vec![2, 1]]);
        assert_eq!(chosen(9, &[1, 2]).len(), 7);
        assert_eq!(chosen(2, &[7]), [vec![5], vec![1]]);
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
