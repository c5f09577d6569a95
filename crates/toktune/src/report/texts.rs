//! What the model wrote for some held-out prompts, before and after.

use crate::data::{ShownToken, shown_tokens};
use crate::emission::{Emission, Prompt};
use crate::error::Result;
use crate::text::AutoTokenizer;
use std::collections::{BTreeSet, HashSet};

/// Prompts that are shown.
const SHOWN: usize = 6;
/// Tokens of a prompt's end, and of what was written.
const PROMPT: usize = 200;
const WRITTEN: usize = 300;

/// A prompt with what was written.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WrittenText {
    /// Which of the prompts that were tried it is, from 1.
    pub number: usize,
    /// Its tokens; of a long one the last ones.
    pub prompt: Cut,
    /// What was to be written.
    pub expected: Cut,
    /// What was written before training, where that was tried.
    pub before: Option<Cut>,
    /// And after.
    pub after: Cut,
    /// Trained tokens that were to be written, and were not.
    pub missing: Vec<u32>,
    /// Trained tokens that were not to be written, and were.
    pub unasked: Vec<u32>,
}

/// Some tokens of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cut {
    /// Those that are shown.
    pub tokens: Vec<ShownToken>,
    /// How many are left out.
    pub left_out: usize,
}

/// Some of the prompts: those first that miss a trained token or have one too many, then others in their order.
pub(super) fn written_texts(
    prompts: &[Prompt],
    (before, after): (Option<&Emission>, &Emission),
    chosen: &[u32],
    tokenizer: Option<&AutoTokenizer>,
) -> Result<Vec<WrittenText>> {
    let trained: HashSet<u32> = chosen.iter().copied().collect();
    let in_it =
        |ids: &[u32]| -> BTreeSet<u32> { ids.iter().filter(|id| trained.contains(id)).copied().collect() };
    let faults = |at: usize| {
        let (wanted, found) = (in_it(&prompts[at].expected), in_it(&after.texts[at]));
        let missing: Vec<u32> = wanted.difference(&found).copied().collect();
        (missing, found.difference(&wanted).copied().collect::<Vec<u32>>())
    };
    let all: Vec<usize> = (0..prompts.len().min(after.texts.len())).collect();
    let is_faulty = |at: &usize| {
        let (missing, unasked) = faults(*at);
        !(missing.is_empty() && unasked.is_empty())
    };
    let (faulty, fine): (Vec<usize>, Vec<usize>) = all.into_iter().partition(is_faulty);
    // where much is wrong something that went well is worth a look too
    let kept = faulty.len().min(SHOWN.saturating_sub(fine.len().min(SHOWN / 2)));
    let mut chosen: Vec<usize> = faulty[..kept].to_vec();
    chosen.extend(fine.into_iter().take(SHOWN - kept));
    let first = |ids: &[u32]| -> Result<Cut> {
        let tokens = shown_tokens(&ids[..ids.len().min(WRITTEN)], tokenizer, &trained)?;
        Ok(Cut { tokens, left_out: ids.len().saturating_sub(WRITTEN) })
    };
    let of = |at: usize| {
        let prompt = &prompts[at];
        let left_out = prompt.ids.len().saturating_sub(PROMPT);
        let (missing, unasked) = faults(at);
        let before = before.and_then(|before| before.texts.get(at));
        Ok(WrittenText {
            number: at + 1,
            prompt: Cut { tokens: shown_tokens(&prompt.ids[left_out..], tokenizer, &trained)?, left_out },
            expected: first(&prompt.expected)?,
            before: before.map(|ids| first(ids)).transpose()?,
            after: first(&after.texts[at])?,
            missing,
            unasked,
        })
    };
    chosen.into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(expected: &[u32]) -> Prompt {
        Prompt { ids: (0..250).collect(), expected: expected.to_vec(), row: vec![], targets: vec![] }
    }

    #[test]
    fn what_went_wrong_comes_first() {
        let prompts: Vec<Prompt> = (0..20).map(|_| prompt(&[1, 2])).collect();
        let mut after = Emission { texts: vec![vec![1, 2]; 20], ..Emission::default() };
        (after.texts[4], after.texts[9]) = (vec![1], vec![1, 2, 3]);
        let shown = written_texts(&prompts, (None, &after), &[1, 2, 3], None).expect("texts");
        assert_eq!(shown.iter().map(|of| of.number).collect::<Vec<_>>(), [5, 10, 1, 2, 3, 4]);
        assert_eq!((&shown[0].missing[..], &shown[1].unasked[..]), (&[2][..], &[3][..]));
        assert_eq!((shown[0].prompt.left_out, shown[0].prompt.tokens.len()), (50, 200));
        assert!(shown[0].after.tokens[0].trained && shown[0].before.is_none());
        // where all is wrong three of them leave room for nothing else
        after.texts = vec![vec![]; 20];
        let shown = written_texts(&prompts, (Some(&after), &after), &[1], None).expect("texts");
        assert_eq!(shown.len(), 6);
        assert!(shown.iter().all(|of| of.missing == [1] && of.before.is_some()));
        assert!(written_texts(&[], (None, &Emission::default()), &[1], None).expect("texts").is_empty());
    }
}
