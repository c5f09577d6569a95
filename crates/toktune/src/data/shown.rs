//! Rows as the model sees them, for people: the text of each token, whether it is learnt, and whether its row is trained.

use super::error::{DataError, Result};
use super::{Collator, Dataset, Example};
use crate::text::AutoTokenizer;
use serde::Serialize;
use std::collections::HashSet;

/// A token as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownToken {
    /// Its id.
    pub id: u32,
    /// Its text in its place; of a character that several tokens make up, the last one has it.
    pub text: String,
    /// Whether it is a target.
    pub learnt: bool,
    /// What it counts as a target, where that is not once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f32>,
    /// Whether its row is trained.
    pub trained: bool,
}

/// A sequence of an example.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownPart {
    /// What it is where an example has several: `encoder`, `decoder`, `anchor`, `positive`, `chosen`, `rejected`; else empty.
    pub name: &'static str,
    /// Its tokens.
    pub tokens: Vec<ShownToken>,
}

impl Dataset {
    /// The sequences of `example`, which is example `index`, as the first epoch has it; the tokens `trained` are marked. Without a
    /// tokenizer the ids stand for the texts.
    ///
    /// # Errors
    /// The tokenizer's decoder fails; as [`batch`](Self::batch).
    pub fn shown(
        &self,
        (index, example): (usize, &Example),
        tokenizer: Option<&AutoTokenizer>,
        trained: &HashSet<u32>,
    ) -> Result<Vec<ShownPart>> {
        let is_label = |at: usize| example.labels.get(at).is_some_and(Option::is_some) && example.counts(at);
        let part = |name, ids: &[u32], learnt: &dyn Fn(usize) -> bool, weights: &[f32]| {
            let mut tokens = shown_tokens(ids, tokenizer, trained)?;
            for (at, token) in tokens.iter_mut().enumerate() {
                token.learnt = learnt(at);
                token.weight = weights.get(at).copied().filter(|weight| token.learnt && *weight != 1.0);
            }
            Ok::<_, DataError>(ShownPart { name, tokens })
        };
        let (ids, weights) = (&example.input_ids, &example.weights);
        Ok(match self.collator() {
            Collator::Causal if example.is_preference() => {
                let (first, before) = (ids.len(), |at: usize| weights.get(at..).unwrap_or_default());
                let in_second = |at: usize| at > 0 && is_label(first + at);
                vec![
                    part("chosen", ids, &|at| at > 0 && is_label(at), before(0))?,
                    part("rejected", &example.second, &in_second, before(first))?,
                ]
            }
            // the first token has nothing before it to be told from
            Collator::Causal => vec![part("", ids, &|at| at > 0 && is_label(at), weights)?],
            Collator::MaskedLm(_) => {
                let batch = self.batch(&[index], 0)?;
                let hidden = |at: usize| batch.targets.get(at).is_some_and(Option::is_some);
                vec![part("", ids, &hidden, weights)?]
            }
            Collator::Seq2Seq(inputs) => {
                let targets: Vec<u32> =
                    example.labels.iter().map(|label| label.unwrap_or(inputs.pad)).collect();
                vec![part("encoder", ids, &|_| false, &[])?, part("decoder", &targets, &is_label, weights)?]
            }
            Collator::SentencePairs => vec![
                part("anchor", ids, &|_| false, &[])?,
                part("positive", &example.second, &|_| false, &[])?,
            ],
        })
    }
}

/// Tokens with the text that each adds, none of them learnt; the tokens `trained` are marked. Without a tokenizer the ids stand
/// for the texts.
///
/// # Errors
/// The tokenizer's decoder fails.
pub fn shown_tokens(
    ids: &[u32],
    tokenizer: Option<&AutoTokenizer>,
    trained: &HashSet<u32>,
) -> Result<Vec<ShownToken>> {
    let mut stream = tokenizer.map(|tokenizer| tokenizer.decode_stream(false));
    let mut tokens = Vec::with_capacity(ids.len());
    for &id in ids {
        let text = match &mut stream {
            Some(stream) => stream.push(id)?.unwrap_or_default(),
            None => format!("{id} "),
        };
        tokens.push(ShownToken { id, text, learnt: false, weight: None, trained: trained.contains(&id) });
    }
    if let (Some(stream), Some(last)) = (&mut stream, tokens.last_mut()) {
        last.text.push_str(&stream.finish()?.unwrap_or_default());
    }
    Ok(tokens)
}
