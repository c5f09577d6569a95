//! Conversations to tokens, with the assistant's turns labelled.
//!
//! Where a template marks the turns itself (`{% generation %}`), its marks are followed, as transformers does.
//! Elsewhere [`turns`] finds them: in the rendering of the whole conversation, or, where a template renders a turn in
//! another way once later ones follow and it cannot be told what has become of it, in the rendering that ends with the
//! turn, which is then a sequence of its own. A turn is its words and the token that ends it, and not the line break
//! that templates put after that token, which no model is to say.

mod notes;
mod parts;
mod switches;
mod turns;

use std::ops::Range;
use std::sync::OnceLock;

use serde_json::Value;

use super::Source;
use crate::data::error::{DataError, Result};
use crate::text::TextError;
use crate::text::{AutoTokenizer, ChatOptions, ChatTemplate, PreparedChat};
pub use notes::{ChatNotes, FieldUse};
use switches::Switch;
pub(super) use switches::turn_off;
use turns::{Found, Renderings};

/// The chat templates of a tokenizer, compiled when first needed. Several threads may encode at once.
#[derive(Debug)]
pub(super) struct ChatEncoder<'c> {
    tokenizer: &'c AutoTokenizer,
    /// Without and with tools.
    templates: [OnceLock<ChatTemplate>; 2],
}

/// The ids of a sequence and their labels, as many.
pub(super) type LabelledIds = (Vec<u32>, Vec<Option<u32>>);

/// A conversation's sequences, and what is to be known about them.
#[derive(Debug, Default)]
pub(super) struct EncodedChat {
    /// At least one.
    pub(super) sequences: Vec<LabelledIds>,
    pub(super) notes: ChatNotes,
}

/// A rendering with its tokens and which of them are learnt.
struct Labelled {
    text: String,
    tokens: Vec<(u32, (usize, usize))>,
    learnt: Vec<bool>,
}

impl<'c> ChatEncoder<'c> {
    pub(super) fn new(tokenizer: &'c AutoTokenizer) -> Self {
        ChatEncoder { tokenizer, templates: [OnceLock::new(), OnceLock::new()] }
    }

    fn template(&self, with_tools: bool) -> Result<&ChatTemplate, TextError> {
        let slot = &self.templates[usize::from(with_tools)];
        match slot.get() {
            Some(template) => Ok(template),
            None => {
                let template = self.tokenizer.compile_chat_template(with_tools)?;
                Ok(slot.get_or_init(|| template))
            }
        }
    }

    /// The tokens of a conversation and their labels: all of them (`all`), or those of the assistant's turns. Switches
    /// of single messages go before either.
    pub(super) fn encode(
        &self,
        messages: &[Value],
        options: &ChatOptions,
        all: bool,
        at: &Source,
    ) -> Result<EncodedChat> {
        let fail = |source: TextError| DataError::Chat { at: at.clone(), source: Box::new(source) };
        let (switches, messages) = switches::take(messages, at)?;
        let template = self.template(options.tools.is_some()).map_err(fail)?;
        let messages = parts::fitting(template, messages, options, at)?;
        let chat = template.prepare(&messages, options).map_err(&fail)?;
        let whole = template.render_prepared(&chat, messages.len(), false).map_err(fail)?;
        let mut notes = ChatNotes { rows: 1, ..ChatNotes::default() };
        notes.count_fields(template, &messages, options, &whole.text);
        let mut labelled = self.tokenize(whole.text)?;
        let renderings = Renderings::new(template, &chat, &messages, &labelled.text);
        let mut own = Vec::new();
        if all {
            labelled.learnt.fill(true);
        } else if template.marks_generations() {
            labelled.mark(&whole.generations, true);
        } else {
            own = self.label_turns(&mut labelled, &renderings, &switches, &mut notes)?;
        }
        let marks = template.marks_generations().then_some(&whole.generations[..]);
        self.obey(&mut labelled, &renderings, &switches, all, marks, at)?;
        notes.split_rows = usize::from(!own.is_empty());
        let mut sequences = Vec::new();
        if own.is_empty() || labelled.learnt.contains(&true) {
            sequences.push(labelled.finish());
        }
        sequences.extend(own.into_iter().map(Labelled::finish));
        Ok(EncodedChat { sequences, notes })
    }

    fn tokenize(&self, text: String) -> Result<Labelled> {
        let tokens = self.tokenizer.encode_with_offsets(&text)?;
        let learnt = vec![false; tokens.len()];
        Ok(Labelled { text, tokens, learnt })
    }

    /// Labels the turns that are found in the whole rendering; gives those that are learnt in their own.
    fn label_turns(
        &self,
        whole: &mut Labelled,
        renderings: &Renderings<'_>,
        switches: &[Switch],
        notes: &mut ChatNotes,
    ) -> Result<Vec<Labelled>> {
        let mut own = Vec::new();
        let mut behind = 0;
        for index in renderings.assistant_turns() {
            if switches[index] == Switch::Off {
                continue;
            }
            let boundary = |place: usize| whole.is_boundary(place);
            match renderings.find(index, behind, boundary) {
                Found::Whole(place) => {
                    behind = place.end;
                    self.label(whole, &place);
                }
                Found::Own(text, place) => {
                    let mut labelled = self.tokenize(text)?;
                    self.label(&mut labelled, &place);
                    own.push(labelled);
                }
                Found::Nowhere => notes.lost_turns += 1,
            }
        }
        Ok(own)
    }

    /// Labels a turn up to its last special token, if only blanks follow on that.
    fn label(&self, labelled: &mut Labelled, place: &Range<usize>) {
        let inside = labelled.inside(place);
        let turn = &labelled.tokens[inside.clone()];
        let last = turn.iter().rposition(|(id, _)| self.tokenizer.is_special(*id));
        let blank = |(start, end): (usize, usize)| {
            labelled.text.get(start..end).is_some_and(|piece| piece.trim().is_empty())
        };
        let learnt = match last {
            Some(last) if turn[last + 1..].iter().all(|(_, offsets)| blank(*offsets)) => last + 1,
            _ => turn.len(),
        };
        labelled.learnt[inside.start..inside.start + learnt].fill(true);
    }

    /// Obeys the switches that labelling turn by turn has not seen to.
    fn obey(
        &self,
        labelled: &mut Labelled,
        renderings: &Renderings<'_>,
        switches: &[Switch],
        all: bool,
        marks: Option<&[Range<usize>]>,
        at: &Source,
    ) -> Result<(), DataError> {
        for (index, switch) in switches.iter().enumerate() {
            let assistant = renderings.is_assistant(index);
            let needed = match switch {
                Switch::Unset => false,
                Switch::Off => all || (assistant && marks.is_some()),
                Switch::On => !all && !assistant,
            };
            if !needed {
                continue;
            }
            let lost = || DataError::SwitchedTurn { at: at.clone(), message: index };
            // A template that marks each turn once says itself which is which.
            let turns: Vec<usize> = renderings.assistant_turns().collect();
            let nth = turns.iter().position(|turn| *turn == index);
            let place = match (marks, nth) {
                (Some(marks), Some(nth)) if marks.len() == turns.len() && !all => Some(marks[nth].clone()),
                _ => renderings.words(index, |place| labelled.is_boundary(place)),
            };
            let place = place.ok_or_else(lost)?;
            match switch {
                Switch::On => self.label(labelled, &place),
                _ => labelled.mark(&[place], false),
            }
        }
        Ok(())
    }
}

impl Labelled {
    /// Whether a token begins or the text ends at a place.
    fn is_boundary(&self, place: usize) -> bool {
        place == self.text.len() || self.tokens.binary_search_by_key(&place, |(_, (start, _))| *start).is_ok()
    }

    /// The tokens that lie wholly in a place of the text, and one that begins with spaces before it: the first word after a
    /// prompt that ends with a space.
    fn inside(&self, place: &Range<usize>) -> Range<usize> {
        let mut first = self.tokens.partition_point(|(_, (start, _))| *start < place.start);
        if let Some((_, (start, end))) = first.checked_sub(1).map(|before| self.tokens[before]) {
            let outside = self.text.get(start..place.start).unwrap_or("?");
            first -= usize::from(end > place.start && outside.bytes().all(|byte| byte == b' '));
        }
        let count = self.tokens[first..].iter().take_while(|(_, (_, end))| *end <= place.end).count();
        first..first + count
    }

    /// Marks the tokens that touch these places, as transformers does with the text of generation blocks.
    fn mark(&mut self, places: &[Range<usize>], learnt: bool) {
        for place in places {
            for ((_, (start, end)), slot) in self.tokens.iter().zip(&mut self.learnt) {
                if *start < place.end && *end > place.start {
                    *slot = learnt;
                }
            }
        }
    }

    fn finish(self) -> LabelledIds {
        let ids: Vec<u32> = self.tokens.iter().map(|(id, _)| *id).collect();
        let labels = ids.iter().zip(self.learnt).map(|(id, learnt)| learnt.then_some(*id)).collect();
        (ids, labels)
    }
}
