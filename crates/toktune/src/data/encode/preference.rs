//! Two answers to one prompt: both sequences begin with the same tokens, and the answers' are labelled.

use super::{Encoder, end};
use crate::data::error::Result;
use crate::data::form::SIDES;
use crate::data::row::{Conversation, Preference};
use crate::data::{DataError, EncodingNotes, Example, LossOn, Source};

/// A sequence with its labels.
type LabelledIds = (Vec<u32>, Vec<Option<u32>>);

impl Encoder<'_> {
    /// A row with two answers. Texts are tokenised apart from their prompt; of conversations the turns behind the prompt are learnt as
    /// they are in others.
    pub(super) fn preference(
        &self,
        preference: Preference,
        key: &'static str,
        at: Source,
        notes: &mut EncodingNotes,
    ) -> Result<Example> {
        if self.options.loss_on == Some(LossOn::All) {
            let problem = "`loss_on` is all, but two answers are compared by what is learnt of each alone";
            return Err(DataError::NotObeyed { at, key: key.to_owned(), problem: problem.to_owned() });
        }
        let sides = match preference {
            Preference::Ids { prompt, chosen, rejected } => {
                [chosen, rejected].map(|answer| behind(&prompt, answer))
            }
            Preference::Texts { prompt, chosen, rejected } => {
                let tokenizer = self.tokenizer(key, &at)?;
                let mut before = self.before.clone();
                before.extend(tokenizer.encode(&prompt, false)?);
                let answer = |text: &str| -> Result<LabelledIds> {
                    let mut ids = tokenizer.encode(text, false)?;
                    end(&mut ids, tokenizer);
                    Ok(behind(&before, ids))
                };
                [answer(&chosen)?, answer(&rejected)?]
            }
            Preference::Chats { chosen, rejected } => {
                let mut side = |of: Conversation, side| self.answered(of, (key, side), &at, notes);
                [side(chosen, SIDES[0])?, side(rejected, SIDES[1])?]
            }
        };
        self.cut_answers(sides, at)
    }

    /// A conversation that ends with an answer.
    fn answered(
        &self,
        conversation: Conversation,
        (key, side): (&'static str, &'static str),
        at: &Source,
        notes: &mut EncodingNotes,
    ) -> Result<LabelledIds> {
        let mut sequences = self.conversation(conversation, key, at, notes)?;
        let problem = match (sequences.len(), sequences.pop()) {
            (1, Some(sequence)) if sequence.1.iter().any(Option::is_some) => return Ok(sequence),
            (1, _) => {
                "nothing in it is the assistant's, or its turn is not found in what the template writes"
            }
            _ => {
                "the chat template writes its turns in another way once later ones follow, so that they are no one text; \
                 give one turn"
            }
        };
        Err(DataError::NotObeyed { at: at.clone(), key: side.to_owned(), problem: problem.to_owned() })
    }

    /// The example of both sequences, cut at their ends where they are too long.
    fn cut_answers(&self, sides: [LabelledIds; 2], at: Source) -> Result<Example> {
        let mut cut = Vec::new();
        let mut sequences = Vec::with_capacity(2);
        for (side, (mut ids, mut labels)) in SIDES.into_iter().zip(sides) {
            let first = labels.iter().position(Option::is_some).unwrap_or(labels.len());
            cut.extend(self.cut(&mut ids, 0));
            labels.truncate(ids.len());
            if let (Some(max_length), true) = (self.options.max_length, first >= ids.len()) {
                return Err(DataError::AnswerCut { at, side, max_length, prompt: first });
            }
            // the first token of all has nothing before it
            if !labels.iter().skip(1).any(Option::is_some) {
                return Err(DataError::EmptyRow { at, key: side.to_owned() });
            }
            sequences.push((ids, labels));
        }
        if sequences[0] == sequences[1] {
            let with = if cut.is_empty() { " as tokens" } else { " as far as `max_length` leaves them" };
            return Err(DataError::EqualAnswers { at, with });
        }
        let (mut labels, mut both) = (Vec::new(), Vec::with_capacity(2));
        for (ids, of) in sequences {
            labels.extend(of);
            both.push(ids);
        }
        let (second, input_ids) = (both.pop().unwrap_or_default(), both.pop().unwrap_or_default());
        Ok(Example { input_ids, second, labels, weights: Vec::new(), cut, source: at })
    }
}

/// A sequence of what is read and what is learnt.
fn behind(prompt: &[u32], answer: Vec<u32>) -> LabelledIds {
    let labels = prompt.iter().map(|_| None).chain(answer.iter().copied().map(Some)).collect();
    (prompt.iter().copied().chain(answer).collect(), labels)
}
