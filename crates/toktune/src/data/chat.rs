//! Conversations to tokens, with the assistant's turns labelled.
//!
//! Where a template marks them itself (`{% generation %}`), its marks are followed. Elsewhere the turn of
//! message `i` is what rendering messages `0..=i` adds to rendering `0..i` with the prompt for an answer: its
//! words and the token that ends the turn, and not the line break that templates put after that token, which
//! no model is to say.

use std::ops::Range;

use serde_json::{Map, Value};

use super::{DataError, Source};
use crate::text::{AutoTokenizer, ChatOptions, ChatTemplate};
use crate::{Error, Result};

/// The chat templates of a tokenizer, compiled when first needed.
#[derive(Clone)]
pub(super) struct ChatEncoder<'c> {
    tokenizer: &'c AutoTokenizer,
    /// Without and with tools.
    templates: [Option<ChatTemplate>; 2],
}

impl<'c> ChatEncoder<'c> {
    pub(super) fn new(tokenizer: &'c AutoTokenizer) -> Self {
        ChatEncoder { tokenizer, templates: [None, None] }
    }

    /// The tokens of a conversation and their labels: all of them, or those of the assistant's turns.
    pub(super) fn encode(
        &mut self,
        messages: &[Value],
        tools: Option<Value>,
        documents: Option<Value>,
        variables: Map<String, Value>,
        all: bool,
        at: &Source,
    ) -> Result<(Vec<u32>, Vec<Option<u32>>)> {
        let fail = |source: Error| DataError::Chat { at: at.clone(), source: Box::new(source) };
        let slot = &mut self.templates[usize::from(tools.is_some())];
        let template = match slot.take() {
            Some(template) => slot.insert(template),
            None => slot.insert(self.tokenizer.compile_chat_template(tools.is_some()).map_err(fail)?),
        };
        let options =
            ChatOptions { tools, documents, variables, add_generation_prompt: false, ..Default::default() };
        let chat = template.render(messages, &options).map_err(fail)?;
        let tokens = self.tokenizer.encode_with_offsets(&chat.text)?;
        let ids: Vec<u32> = tokens.iter().map(|(id, _)| *id).collect();
        if all {
            let labels = ids.iter().copied().map(Some).collect();
            return Ok((ids, labels));
        }
        let marked = !chat.generations.is_empty();
        let turns = match marked {
            true => chat.generations,
            false => turns(template, messages, &options, &chat.text, at)?,
        };
        let mut labels = vec![None; ids.len()];
        for turn in turns {
            let inside =
                |(_, (start, end)): &&(u32, (usize, usize))| *start >= turn.start && *end <= turn.end;
            let first = tokens.iter().take_while(|token| !inside(token)).count();
            let count = tokens[first..].iter().take_while(inside).count();
            let turn = &tokens[first..first + count];
            let learnt = if marked { count } else { self.without_tail(turn, &chat.text) };
            for index in first..first + learnt {
                labels[index] = Some(ids[index]);
            }
        }
        Ok((ids, labels))
    }

    /// How many tokens of a turn remain when blank text after its last special token is left out.
    fn without_tail(&self, turn: &[(u32, (usize, usize))], text: &str) -> usize {
        let Some(last) = turn.iter().rposition(|(id, _)| self.tokenizer.is_special(*id)) else {
            return turn.len();
        };
        let blank = turn[last + 1..]
            .iter()
            .all(|(_, (start, end))| text.get(*start..*end).is_some_and(|piece| piece.trim().is_empty()));
        if blank { last + 1 } else { turn.len() }
    }
}

/// Where each assistant's turn lies in the rendered text.
fn turns(
    template: &ChatTemplate,
    messages: &[Value],
    options: &ChatOptions,
    text: &str,
    at: &Source,
) -> Result<Vec<Range<usize>>> {
    let asking = ChatOptions { add_generation_prompt: true, ..options.clone() };
    let mut turns = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        if message.get("role").and_then(Value::as_str) != Some("assistant") {
            continue;
        }
        // A template may refuse a conversation that stops here; then its turn cannot be told either.
        let before = template.render(&messages[..index], &asking).ok();
        let after = template.render(&messages[..=index], options).ok();
        let stable = |before: &str, after: &str| after.starts_with(before) && text.starts_with(after);
        match before.zip(after) {
            Some((before, after)) if stable(&before.text, &after.text) => {
                turns.push(before.text.len()..after.text.len());
            }
            _ => return Err(DataError::UnstableTemplate { at: at.clone(), message: index }.into()),
        }
    }
    Ok(turns)
}
