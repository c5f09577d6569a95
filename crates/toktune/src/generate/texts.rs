//! Texts that grow together, token by token.

use super::config::GenerationConfig;
use super::sampler::Sampler;
use crate::engine::runner::Session;
use crate::error::Result;
use crate::text::{AutoTokenizer, DecodeStream};

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// The last token is one of [`GenerationConfig::eos_token_ids`].
    EndToken,
    /// The text holds one of [`GenerationConfig::stop_strings`], which its last token has completed.
    StopString,
    /// There are [`GenerationConfig::max_new_tokens`] of them.
    MaxNewTokens,
    /// Prompt and text fill the positions that the model was made for.
    MaxPositions,
}

/// Strings that end a text, and what makes text of tokens.
#[derive(Clone, Debug)]
pub(super) struct Stop<'a> {
    pub(super) tokenizer: &'a AutoTokenizer,
    pub(super) strings: Vec<String>,
}

/// Prompts that the same adapter continues.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) session: Box<dyn Session + 'a>,
    /// Which of all texts they are.
    pub(super) members: Vec<usize>,
    /// What an encoder-decoder begins its texts with.
    pub(super) first: Option<u32>,
    /// The positions that the model was made for.
    pub(super) most: Option<usize>,
}

/// Texts that grow together: every call of [`Texts::advance`] gives each that goes on its next token.
///
/// The first call runs the whole prompts, every later one a single token of each. An end token is given too, as transformers
/// does, and nothing after it; after an error there is nothing either.
#[derive(Debug)]
pub struct Texts<'a> {
    groups: Vec<Group<'a>>,
    texts: Vec<Text<'a>>,
    config: GenerationConfig,
    failed: bool,
}

/// One of them.
#[derive(Debug)]
struct Text<'a> {
    sampler: Sampler,
    /// Tokens that have not been run yet: the prompt, then the last token.
    pending: Vec<u32>,
    generated: usize,
    /// The logits that the last token was chosen from.
    logits: Vec<f32>,
    finished: Option<FinishReason>,
    tail: Option<Tail<'a>>,
}

/// The end of a text, in which strings are looked for.
#[derive(Debug)]
struct Tail<'a> {
    stream: DecodeStream<'a>,
    text: String,
    strings: Vec<String>,
}

impl Tail<'_> {
    /// Whether the next token completes one of the strings.
    fn ends_with(&mut self, token: u32) -> Result<bool> {
        if let Some(piece) = self.stream.push(token)? {
            self.text.push_str(&piece);
        }
        let found = self.strings.iter().any(|stop| self.text.contains(stop.as_str()));
        // no string reaches further back than its length
        let longest = self.strings.iter().map(String::len).max().unwrap_or(0);
        let mut start = self.text.len().saturating_sub(longest);
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        self.text.drain(..start);
        Ok(found)
    }
}

impl<'a> Texts<'a> {
    pub(super) fn new(
        groups: Vec<Group<'a>>,
        prompts: &[&[u32]],
        config: &GenerationConfig,
        stop: Option<Stop<'a>>,
    ) -> Result<Self> {
        let mut texts = Vec::with_capacity(prompts.len());
        for (i, prompt) in prompts.iter().enumerate() {
            let group = groups.iter().find(|group| group.members.contains(&i));
            let of = GenerationConfig { seed: config.seed.wrapping_add(i as u64), ..config.clone() };
            let tail = stop.as_ref().map(|stop| Tail {
                stream: stop.tokenizer.decode_stream(false),
                text: String::new(),
                strings: stop.strings.clone(),
            });
            texts.push(Text {
                sampler: Sampler::new(&of, prompt)?,
                pending: group
                    .and_then(|group| group.first)
                    .map_or_else(|| prompt.to_vec(), |first| vec![first]),
                generated: 0,
                logits: Vec::new(),
                finished: None,
                tail,
            });
        }
        Ok(Self { groups, texts, config: config.clone(), failed: false })
    }

    /// The next token of each text that goes on, with its number; nothing when all have ended.
    ///
    /// # Errors
    /// A logit is not finite, or a token cannot be decoded.
    pub fn advance(&mut self) -> Result<Vec<(usize, u32)>> {
        if self.failed {
            return Ok(Vec::new());
        }
        let advanced = self.advance_groups();
        self.failed = advanced.is_err();
        advanced
    }

    fn advance_groups(&mut self) -> Result<Vec<(usize, u32)>> {
        let mut chosen = Vec::new();
        for group in 0..self.groups.len() {
            let going: Vec<(usize, usize)> = {
                let Group { session, members, most, .. } = &self.groups[group];
                for (place, &at) in members.iter().enumerate() {
                    let positions = session.len(place) + self.texts[at].pending.len();
                    self.texts[at].check_limits(positions, *most, &self.config);
                }
                let places = members.iter().copied().enumerate();
                places.filter(|(_, at)| self.texts[*at].finished.is_none()).collect()
            };
            self.choose(group, &going, &mut chosen)?;
        }
        chosen.sort_by_key(|(at, _)| *at);
        Ok(chosen)
    }

    /// Chooses the next token of the texts `going`, each with its place in the group.
    fn choose(
        &mut self,
        group: usize,
        going: &[(usize, usize)],
        chosen: &mut Vec<(usize, u32)>,
    ) -> Result<()> {
        let Group { session, first, most, .. } = &mut self.groups[group];
        let is_forced = |text: &Text<'_>| first.is_some() && text.generated == 0;
        let forced = self.config.forced_bos_token_id;
        let (begun, run): (Vec<_>, Vec<_>) =
            going.iter().partition(|(_, at)| forced.is_some() && is_forced(&self.texts[*at]));
        if !run.is_empty() {
            let next: Vec<(usize, &[u32])> =
                run.iter().map(|(place, at)| (*place, &self.texts[*at].pending[..])).collect();
            let logits = session.advance(&next)?;
            for (&(_, at), logits) in run.iter().zip(logits) {
                let text = &mut self.texts[at];
                text.pending.clear();
                text.logits = logits;
            }
        }
        for &(place, at) in begun.iter().chain(&run) {
            let text = &mut self.texts[at];
            // a forced token is run together with what begins the text
            let token = match forced.filter(|_| first.is_some() && text.generated == 0) {
                Some(token) => token,
                None => text.sampler.choose(&text.logits)?,
            };
            text.pending.push(token);
            text.generated += 1;
            chosen.push((at, token));
            if self.config.eos_token_ids.contains(&token) {
                text.finished = Some(FinishReason::EndToken);
            } else if text.tail.as_mut().map_or(Ok(false), |tail| tail.ends_with(token))? {
                text.finished = Some(FinishReason::StopString);
            } else {
                let positions = session.len(place) + text.pending.len();
                text.check_limits(positions, *most, &self.config);
            }
        }
        Ok(())
    }

    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Why a text ended; `None` while it goes on, and after an error.
    pub fn finish_reason(&self, text: usize) -> Option<FinishReason> {
        self.texts.get(text)?.finished
    }

    /// The logits that a text's last token was chosen from, before any processing; empty before the first.
    pub fn logits(&self, text: usize) -> &[f32] {
        self.texts.get(text).map_or(&[], |text| &text.logits)
    }
}

impl Text<'_> {
    fn check_limits(&mut self, positions: usize, most: Option<usize>, config: &GenerationConfig) {
        if self.finished.is_some() {
        } else if self.generated >= config.max_new_tokens {
            self.finished = Some(FinishReason::MaxNewTokens);
        } else if most.is_some_and(|limit| positions >= limit) {
            self.finished = Some(FinishReason::MaxPositions);
        }
    }
}

/// The tokens of one text, computed as they are asked for.
#[derive(Debug)]
pub struct Tokens<'a>(Texts<'a>);

impl<'a> Tokens<'a> {
    /// The first of some texts.
    pub(super) fn of(texts: Texts<'a>) -> Self {
        Self(texts)
    }

    /// Why the text ended; `None` while it goes on, and after an error.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.0.finish_reason(0)
    }

    /// The logits that the last token was chosen from, before any processing; empty before the first.
    pub fn logits(&self) -> &[f32] {
        self.0.logits(0)
    }
}

impl Iterator for Tokens<'_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Result<u32>> {
        self.0.advance().map(|next| next.first().map(|(_, token)| *token)).transpose()
    }
}

impl std::iter::FusedIterator for Tokens<'_> {}
