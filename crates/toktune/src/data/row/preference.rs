//! Rows with two answers to one prompt, as TRL has them: a chosen and a rejected one, texts or messages, with the prompt beside them
//! or at the beginning of both; or ids.

use serde_json::Value;

use super::{Conversation, DataError, Reader, RowKeys, Words};
use crate::data::chat::turn_off;
use crate::data::form::{SIDES, prompt_beside};

/// Two answers to one prompt.
#[derive(Debug, PartialEq)]
pub(in crate::data) enum Preference {
    Texts {
        prompt: String,
        chosen: String,
        rejected: String,
    },
    /// Two conversations that begin alike; what they are to go on from is not learnt.
    Chats {
        chosen: Conversation,
        rejected: Conversation,
    },
    Ids {
        prompt: Vec<u32>,
        chosen: Vec<u32>,
        rejected: Vec<u32>,
    },
}

impl Reader<'_> {
    /// Two answers, texts or messages.
    pub(super) fn preference(&self, keys: &RowKeys) -> Result<Words, DataError> {
        let prompt = keys.prompt();
        let is_list = |key: &str| matches!(self.fields.get(key), Some(Value::Array(_) | Value::Object(_)));
        let of_messages = SIDES.iter().any(|key| is_list(key));
        // a text beside whole conversations is their first turn once more, as in UltraFeedback
        let has_prompt = self.fields.contains_key(prompt) && (is_list(prompt) || !of_messages);
        if self.fields.get(SIDES[0]) == self.fields.get(SIDES[1]) {
            return Err(DataError::EqualAnswers { at: self.at(), with: "" });
        }
        let preference = match of_messages {
            true => self.preference_of_messages(has_prompt.then_some(prompt))?,
            false if has_prompt => {
                let [chosen, rejected] = [self.answer(SIDES[0])?, self.answer(SIDES[1])?];
                Preference::Texts { prompt: self.string(prompt)?, chosen, rejected }
            }
            false => self.preference_without_prompt()?,
        };
        Ok(Words::Preference(preference))
    }

    /// Two lists of ids behind a third.
    pub(super) fn preference_of_ids(&self, vocab_size: usize) -> Result<Words, DataError> {
        let [chosen, rejected] = ["chosen_ids", "rejected_ids"].map(|key| self.some_ids(key, vocab_size));
        let preference = Preference::Ids {
            prompt: self.some_ids("prompt_ids", vocab_size)?,
            chosen: chosen?,
            rejected: rejected?,
        };
        Ok(Words::Preference(preference))
    }

    /// A text that is not empty.
    fn answer(&self, key: &str) -> Result<String, DataError> {
        let text = self.string(key)?;
        if text.is_empty() { Err(self.empty(key)) } else { Ok(text) }
    }

    fn preference_of_messages(&self, prompt: Option<&str>) -> Result<Preference, DataError> {
        let [chosen, rejected] = [self.messages(SIDES[0])?, self.messages(SIDES[1])?];
        let (mut before, answers) = match prompt {
            Some(prompt) => (self.messages(prompt)?, [chosen, rejected]),
            None => {
                let alike = begin_alike(&chosen, &rejected);
                let before = chosen[..alike].to_vec();
                (before, [chosen[alike..].to_vec(), rejected[alike..].to_vec()])
            }
        };
        if before.is_empty() {
            return Err(DataError::NoSharedPrompt { at: self.at() });
        }
        before.iter_mut().filter_map(Value::as_object_mut).for_each(turn_off);
        let [chosen, rejected] =
            answers.map(|answer| self.conversation(before.iter().cloned().chain(answer).collect()));
        Ok(Preference::Chats { chosen: chosen?, rejected: rejected? })
    }

    /// Two texts that begin with their prompt.
    fn preference_without_prompt(&self) -> Result<Preference, DataError> {
        if let Some(prompt) = prompt_beside(self.fields) {
            let problem =
                format!("found beside `{prompt}`; if that is its prompt, name it as the key of prompts");
            return Err(DataError::NotObeyed { at: self.at(), key: SIDES[0].to_owned(), problem });
        }
        let [chosen, rejected] = [self.answer(SIDES[0])?, self.answer(SIDES[1])?];
        let chars: [Vec<char>; 2] = [&chosen, &rejected].map(|text| text.chars().collect());
        let mut alike = begin_alike(&chars[0], &chars[1]);
        // the space belongs to the answer
        if alike > 0 && chars[0][alike - 1] == ' ' {
            alike -= 1;
        }
        if alike == 0 {
            return Err(DataError::NoSharedPrompt { at: self.at() });
        }
        let text = |chars: &[char]| chars.iter().collect::<String>();
        Ok(Preference::Texts {
            prompt: text(&chars[0][..alike]),
            chosen: text(&chars[0][alike..]),
            rejected: text(&chars[1][alike..]),
        })
    }
}

/// How far two lists agree; where one begins with the other, all but its last item, so that something is left of both. It is
/// TRL's `extract_prompt`.
fn begin_alike<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let shorter = a.len().min(b.len());
    let alike = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    alike.min(shorter.saturating_sub(1))
}

/// What the messages of both answers are, each of the prompt once.
pub(in crate::data) fn messages(preference: &Preference) -> usize {
    match preference {
        Preference::Chats { chosen, rejected } => {
            let alike = begin_alike(&chosen.messages, &rejected.messages);
            chosen.messages.len() + rejected.messages.len() - alike
        }
        _ => 0,
    }
}
