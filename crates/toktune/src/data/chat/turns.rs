//! Where an assistant's turn lies in a rendering.
//!
//! What a template writes for a turn, it writes after the prompt that asks for the turn. So turn `i` in the rendering
//! that ends with it is what that has behind the prompt after messages `0..i`: its own text. In the rendering of the
//! whole conversation the turn is the piece of its own text that stands there at the same place: all of it, or what
//! remains when the template drops earlier reasoning, or an end that only the last turn has. The message's words must
//! be in the piece, and what is left out behind must be no words.

use std::ops::Range;

use serde_json::Value;

use super::PreparedChat;
use crate::text::ChatTemplate;

/// Bytes that are compared in the search for one turn; more is no template's doing.
const MOST_COMPARED: usize = 1 << 24;
/// How many bytes before a turn tell its place when the text further up has changed.
const HEADER: usize = 24;
/// Words that no template has, to see what it writes before them.
const PROBE: &str = "\u{1}@\u{1}";

/// What was found of a turn.
pub(super) enum Found {
    /// Its place in the whole rendering.
    Whole(Range<usize>),
    /// The rendering that ends with it, and its place there.
    Own(String, Range<usize>),
    /// Neither.
    Nowhere,
}

/// The renderings of a conversation's beginnings.
pub(super) struct Renderings<'r> {
    template: &'r ChatTemplate,
    chat: &'r PreparedChat,
    messages: &'r [Value],
    whole: String,
}

impl<'r> Renderings<'r> {
    pub(super) fn new(
        template: &'r ChatTemplate,
        chat: &'r PreparedChat,
        messages: &'r [Value],
        whole: &str,
    ) -> Self {
        Renderings { template, chat, messages, whole: whole.to_owned() }
    }

    pub(super) fn is_assistant(&self, index: usize) -> bool {
        self.messages[index].get("role").and_then(Value::as_str) == Some("assistant")
    }

    pub(super) fn assistant_turns(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.messages.len()).filter(|index| self.is_assistant(*index))
    }

    /// The first messages; nothing where the template refuses a conversation that stops there.
    fn render(&self, count: usize, asking: bool) -> Option<String> {
        if count == self.messages.len() && !asking {
            return Some(self.whole.clone());
        }
        self.template.render_prepared(self.chat, count, asking).ok().map(|chat| chat.text)
    }

    /// Finds an assistant's turn, in the whole rendering not before `behind`.
    pub(super) fn find(&self, index: usize, behind: usize, boundary: impl Fn(usize) -> bool) -> Found {
        let Some((own, place)) = self.own(index) else { return Found::Nowhere };
        match self.in_whole(index, &own, &place, behind, boundary) {
            Some(place) => Found::Whole(place),
            None => Found::Own(own, place),
        }
    }

    /// The place of any message's words in the whole rendering.
    pub(super) fn words(&self, index: usize, boundary: impl Fn(usize) -> bool) -> Option<Range<usize>> {
        if self.is_assistant(index) {
            let (own, place) = self.own(index)?;
            return self.in_whole(index, &own, &place, 0, boundary);
        }
        let before = if index == 0 { String::new() } else { self.render(index, false)? };
        let after = self.render(index + 1, false)?;
        if !after.starts_with(&before) || !self.whole.starts_with(&after) {
            return None;
        }
        let words = self.messages[index].get("content").and_then(Value::as_str)?.trim();
        let added = &after[before.len()..];
        let mut places = added.match_indices(words);
        match (words.is_empty(), places.next(), places.next()) {
            (false, Some((at, _)), None) => Some(before.len() + at..after.len()),
            _ => None,
        }
    }

    /// The rendering that ends with a turn, and the turn's place there.
    fn own(&self, index: usize) -> Option<(String, Range<usize>)> {
        let own = self.render(index + 1, false)?;
        let start = match self.render(index, true) {
            Some(asking) if own.starts_with(&asking) => {
                if self.render(index, false).is_some_and(|base| base == asking) {
                    let place = self.without_headers(index, &own, &asking);
                    return self.holds_words(index, &own[place.clone()]).then_some((own, place));
                }
                asking.len()
            }
            Some(asking) => {
                let base = self.render(index, false)?;
                let prompt = asking.strip_prefix(&*base)?;
                match !base.is_empty() && own.starts_with(&base) {
                    // The prompt says more than the turn keeps: a thought that it begins.
                    true => base.len() + whole_marks(&own[base.len()..common_prefix(&own, &asking)]),
                    // What comes before is written differently once the turn follows.
                    false => {
                        let start = after_last(&own, prompt).or_else(|| after_last(&own, &self.prompt()?))?;
                        self.behind_previous(index, &own, &base, start)?
                    }
                }
            }
            // The template refuses a conversation that stops before the turn.
            None => {
                let base = if index == 0 { String::new() } else { self.render(index, false)? };
                self.behind_previous(index, &own, &base, after_last(&own, &self.prompt()?)?)?
            }
        };
        let place = start..own.len();
        self.holds_words(index, &own[place.clone()]).then_some((own, place))
    }

    /// The turn behind a conversation where the template does not ask for turns, or always does: without the role's name
    /// that it writes before the words, and without what it asks for the next turn with. Blanks are the turn's.
    fn without_headers(&self, index: usize, own: &str, base: &str) -> Range<usize> {
        let turn = &own[base.len()..];
        let answer = self.template.render_answer(self.chat, index, PROBE).ok();
        let header = answer
            .as_ref()
            .and_then(|answer| answer.text.strip_prefix(base)?.split_once(PROBE))
            .map(|(header, _)| header.trim_end_matches(' '))
            .filter(|header| !header.trim().is_empty() && turn.starts_with(header));
        let start = base.len() + header.map_or(0, str::len);
        let words = start + self.words_end(index, &own[start..]).unwrap_or(0);
        let same = own.len() - common_suffix(&own[words..], base);
        let end = own.as_bytes()[same..].iter().position(|byte| b">]".contains(byte)).map(|at| same + at + 1);
        let end = end.filter(|end| !own[*end..].trim().is_empty()).unwrap_or(own.len());
        start..end
    }

    /// A turn's start, unless it may be that of a message before, from which the template does not part the turn.
    fn behind_previous(&self, index: usize, own: &str, base: &str, start: usize) -> Option<usize> {
        let words = |index: usize| {
            self.messages[index].get("content").and_then(Value::as_str).unwrap_or_default().trim()
        };
        let previous = index.checked_sub(1).map_or("", words);
        let said =
            !previous.is_empty() && own[start..].contains(previous) && !words(index).contains(previous);
        (start >= common_prefix(own, base) && !said).then_some(start)
    }

    /// What the template asks for a turn with, wherever it does.
    fn prompt(&self) -> Option<String> {
        (1..=self.messages.len()).rev().find_map(|count| {
            let asking = self.render(count, true)?;
            let prompt = asking.strip_prefix(&*self.render(count, false)?)?;
            (!prompt.is_empty()).then(|| prompt.to_owned())
        })
    }

    /// Whether a piece of text has a message's words.
    fn holds_words(&self, index: usize, piece: &str) -> bool {
        self.words_end(index, piece).is_some()
    }

    /// Where a message's words end in a piece of text.
    fn words_end(&self, index: usize, piece: &str) -> Option<usize> {
        let message = &self.messages[index];
        let content = message.get("content").and_then(Value::as_str).unwrap_or_default();
        // Templates drop a thought that stands in the words.
        let content = content.rsplit_once("</think>").map_or(content, |(_, behind)| behind).trim();
        let said = piece.rfind(content).map(|at| at + content.len()).filter(|_| !content.is_empty());
        let mut called = None;
        for call in message.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
            let function = call.get("function").unwrap_or(call);
            let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
            let at = piece.rfind(name).filter(|_| !name.is_empty());
            called = called.max(at.map(|at| at + name.len()));
        }
        // Some templates write either the words or the calls.
        match said.max(called) {
            None if content.is_empty() => Some(0),
            end => end,
        }
    }

    /// The turn's place in the whole rendering.
    fn in_whole(
        &self,
        index: usize,
        own: &str,
        place: &Range<usize>,
        behind: usize,
        boundary: impl Fn(usize) -> bool,
    ) -> Option<Range<usize>> {
        if self.whole.starts_with(own) {
            return (place.start >= behind).then(|| place.clone());
        }
        let (before, turn) = (&own[..place.start], &own[place.clone()]);
        let whole = &self.whole;
        let header;
        let starts = if whole.starts_with(before) {
            vec![before.len()]
        } else {
            header = self.header(index, before);
            if header.is_empty() {
                return None;
            }
            whole.match_indices(header).map(|(at, _)| at + header.len()).collect()
        };
        let mut compared = 0;
        let mut best: Option<(usize, Range<usize>)> = None;
        let mut tied = false;
        for start in starts.into_iter().filter(|start| *start >= behind) {
            let Some(length) = self.piece(index, turn, &whole[start..], &mut compared) else { continue };
            let end = start + length;
            if length == 0 || !boundary(end) {
                continue;
            }
            let alike = common_suffix(before, &whole[..start]);
            match &best {
                Some((most, _)) if alike < *most => {}
                Some((most, _)) if alike == *most => tied = true,
                _ => (best, tied) = (Some((alike, start..end)), false),
            }
        }
        best.filter(|_| !tied).map(|(_, place)| place)
    }

    /// What asks for a turn: what the prompt adds to the conversation before, or the last mark in that.
    fn header<'t>(&self, index: usize, before: &'t str) -> &'t str {
        let base = self.render(index, false).unwrap_or_default();
        match before.strip_prefix(&*base).filter(|prompt| !prompt.is_empty() && !base.is_empty()) {
            Some(prompt) => prompt,
            None => {
                let tail = &before[floor(before, before.len().saturating_sub(HEADER))..];
                tail.rfind(['<', '[']).map_or(tail, |at| &tail[at..])
            }
        }
    }

    /// How long the piece of a turn is that a text begins with.
    fn piece(&self, index: usize, turn: &str, text: &str, compared: &mut usize) -> Option<usize> {
        let mut best: Option<(usize, usize)> = None;
        for (from, _) in turn.char_indices() {
            let length = common_prefix(&turn[from..], text);
            *compared += length + 1;
            if *compared > MOST_COMPARED {
                return None;
            }
            if best.is_none_or(|(_, longest)| length > longest) {
                best = Some((from, length));
            }
        }
        let (from, length) = best?;
        let words = self.words_end(index, turn)?;
        let piece = &turn[from..from + length];
        let inside = self.words_end(index, piece)?;
        if words > 0 && (inside == 0 || from + length < words) {
            return None;
        }
        // Two marks may begin alike: what ends the turn here, and what begins the next one there.
        let length = match from + length == turn.len() {
            true => length,
            false => inside + whole_marks(&piece[inside..]),
        };
        // The piece has something of what ends the turn where there is such, and no words are left out behind. An empty
        // answer is its end alone, all of it.
        let content = self.messages[index].get("content").and_then(Value::as_str).unwrap_or_default();
        let blanks = content.len() - content.trim_end().len();
        let ended = match words {
            0 => from + length >= turn.trim_end().len(),
            _ => length > inside + blanks || turn[words..].trim().is_empty(),
        };
        let rest = turn[from + length..].trim();
        (ended && !rest.contains(char::is_whitespace)).then_some(length)
    }
}

/// The place behind the last prompt in a text, or the last of the prompt's first lines: it may begin a thought that the
/// turn has not.
fn after_last(text: &str, mut prompt: &str) -> Option<usize> {
    while !prompt.trim().is_empty() {
        if let Some(at) = text.rfind(prompt) {
            return Some(at + prompt.len());
        }
        let line = prompt.trim_end_matches('\n').rfind('\n')?;
        prompt = &prompt[..=line];
    }
    None
}

/// How many bytes two texts have in common at their beginning, in whole letters.
fn common_prefix(a: &str, b: &str) -> usize {
    let common = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    floor(a, common)
}

/// How many bytes two texts have in common at their end.
fn common_suffix(a: &str, b: &str) -> usize {
    a.bytes().rev().zip(b.bytes().rev()).take_while(|(a, b)| a == b).count()
}

/// The letter's beginning at or before a place.
fn floor(text: &str, mut place: usize) -> usize {
    while !text.is_char_boundary(place) {
        place -= 1;
    }
    place
}

/// The length of a text without a mark that it begins and does not end: `<th`.
fn whole_marks(text: &str) -> usize {
    match text.rfind(['<', '[']) {
        Some(at) if !text[at..].contains(['>', ']']) => at,
        _ => text.len(),
    }
}
