//! Whether trained tokens become likely where they do not belong.
//!
//! What the rows of the head learn at their own labels raises them everywhere, and a rate that is too high leaves them there:
//! greedy texts fall into the tokens, and every other label loses what they take.

use super::evaluate::{Evaluation, TokenEvaluation};

/// Probability that trained tokens take in places of other tokens, beyond which it is worth a word.
const MOST: f64 = 0.005;
/// Tokens that had so much before are told of when they have this many times as much.
const TIMES: f64 = 2.0;

/// Trained tokens that are likely where another token is the label.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Leak {
    /// After so many steps.
    pub step: u64,
    /// The mean probability of all of them together there.
    pub probability: f64,
    /// The token that takes the most of it.
    pub token: u32,
    /// The mean probability of that one.
    pub of_token: f64,
}

/// What a run knows of how its tokens leak.
#[derive(Clone, Debug, Default)]
pub(super) struct LeakWatch {
    has_told: bool,
}

impl LeakWatch {
    /// What an evaluation after `step` steps shows of a leak that is larger than it was `before` the run, once. Where most labels are
    /// trained tokens they are asked for in most places, and nothing is told.
    pub(super) fn take(
        &mut self,
        step: u64,
        evaluation: &Evaluation,
        before: Option<&Evaluation>,
    ) -> Option<Leak> {
        let probability = evaluation.leak.filter(|_| !self.has_told && step > 0)?;
        let began = before.and_then(|before| before.leak).unwrap_or(0.0);
        // a token that the model has may be a frequent one
        let most = if began > MOST { TIMES * began } else { MOST };
        let of_tokens: usize = evaluation.tokens.iter().map(|token| token.labels).sum();
        if probability <= most || 2 * of_tokens > evaluation.labels {
            return None;
        }
        let elsewhere = |token: &TokenEvaluation| token.elsewhere.unwrap_or(0.0);
        let worst = evaluation.tokens.iter().max_by(|a, b| elsewhere(a).total_cmp(&elsewhere(b)))?;
        self.has_told = true;
        Some(Leak { step, probability, token: worst.id, of_token: elsewhere(worst) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(leak: f64, of_tokens: usize) -> Evaluation {
        let token = |id, part: f64| TokenEvaluation {
            id,
            labels: of_tokens / 2,
            loss: None,
            elsewhere: Some(part * leak),
        };
        Evaluation {
            loss: 1.0,
            perplexity: 1.0,
            labels: 10,
            nearest: None,
            preference: None,
            token_loss: None,
            leak: Some(leak),
            emission: None,
            tokens: vec![token(7, 0.25), token(8, 0.75)],
        }
    }

    #[test]
    fn a_leak_is_told_once_with_the_token_that_has_most_of_it() {
        let mut watch = LeakWatch::default();
        let before = evaluation(0.001, 2);
        assert_eq!(watch.take(0, &evaluation(0.2, 2), None), None, "nothing is learnt yet");
        assert_eq!(watch.take(1, &evaluation(0.005, 2), Some(&before)), None);
        let leak = watch.take(2, &evaluation(0.008, 2), Some(&before)).expect("told");
        assert_eq!((leak.step, leak.probability, leak.token), (2, 0.008, 8));
        assert!((leak.of_token - 0.006).abs() < 1e-12);
        assert_eq!(watch.take(3, &evaluation(0.5, 2), Some(&before)), None, "told once");
    }

    #[test]
    fn what_is_asked_for_or_was_there_before_is_no_leak() {
        let of = |leak, tokens, before| LeakWatch::default().take(4, &evaluation(leak, tokens), before);
        assert_eq!(of(0.4, 6, None), None, "most of the labels");
        assert!(of(0.4, 4, None).is_some());
        let frequent = evaluation(0.02, 2);
        assert_eq!(of(0.03, 2, Some(&frequent)), None);
        assert!(of(0.05, 2, Some(&frequent)).is_some());
    }
}
