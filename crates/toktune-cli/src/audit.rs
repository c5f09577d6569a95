//! What the data show of the chosen tokens, and what is wrong with it.

use crate::failure::{Failure, Outcome};
use crate::report;
use crate::report::spelling;
use std::collections::HashSet;
use toktune::data::{Dataset, ModelKind, TokenUse};
use toktune::text::AutoTokenizer;

/// Remarks on single tokens that are made: of thousands of tokens, a few are enough to see what is wrong.
const MOST_REMARKS: usize = 24;
/// Tokens that an error names.
const MOST_NAMED: usize = 8;

/// How often the chosen tokens occur.
pub struct Audit<'a> {
    data: &'a Dataset,
    tokenizer: Option<&'a AutoTokenizer>,
    uses: Vec<TokenUse>,
}

impl<'a> Audit<'a> {
    /// Counts `ids` over `data`.
    pub fn of(data: &'a Dataset, ids: &[u32], tokenizer: Option<&'a AutoTokenizer>) -> Self {
        Self { data, tokenizer, uses: data.uses(ids) }
    }

    /// Tells what is worth knowing; the counts. Data that hold none of the tokens are refused, unless their rows learn all the
    /// same (`learns_unseen`).
    pub fn tell_or_refuse(self, learns_unseen: bool) -> Outcome<Vec<TokenUse>> {
        match self.nothing_seen() {
            Some(listed) if !learns_unseen => {
                return Err(Failure::Failed(format!(
                    "the data hold none of the chosen tokens, so that nothing can be learnt: {listed}"
                )));
            }
            Some(listed) => report::warning(&format!(
                "the data hold none of the chosen tokens: the model learns not to say them, and nothing else: {listed}"
            )),
            None => self.tell_tokens(),
        }
        Ok(self.uses)
    }

    /// Tells what is worth knowing, and refuses nothing.
    pub fn tell(self) -> Vec<TokenUse> {
        match self.nothing_seen() {
            Some(listed) => report::warning(&format!("the data hold none of the chosen tokens: {listed}")),
            None => self.tell_tokens(),
        }
        self.uses
    }

    /// The tokens, when the data hold none of them.
    fn nothing_seen(&self) -> Option<String> {
        if self.uses.is_empty() || !self.uses.iter().all(TokenUse::is_unseen) {
            return None;
        }
        let told = self
            .uses
            .iter()
            .take(MOST_NAMED)
            .map(|token| self.name(token.id) + &cut(token) + &self.neighbour(token));
        let more = if self.uses.len() > MOST_NAMED { ", ..." } else { "" };
        Some(told.collect::<Vec<_>>().join(", ") + more)
    }

    /// A remark on each token that has something odd.
    fn tell_tokens(&self) {
        let says = self.data.collator().kind() != ModelKind::SentencePairs;
        let (mut warnings, mut notes) = (Vec::new(), Vec::new());
        for token in &self.uses {
            let name = self.name(token.id);
            if token.is_unseen() {
                let (cut, neighbour) = (cut(token), self.neighbour(token));
                warnings.push(format!(
                    "{name} is nowhere in the data: its row stays as it starts{cut}{neighbour}"
                ));
                continue;
            }
            if token.labels == 0 && says {
                let cut = cut(token);
                notes.push(format!(
                    "{name} is read but never a label: the model learns to use it, not to say it{cut}"
                ));
            }
            notes.extend(self.twin(token));
        }
        let told = [
            (warnings, report::warning as fn(&str), "are nowhere in the data"),
            (notes, report::note, "are worth a look"),
        ];
        for (remarks, tell, what) in told {
            remarks.iter().take(MOST_REMARKS).for_each(|remark| tell(remark));
            if let more @ 1.. = remarks.len().saturating_sub(MOST_REMARKS) {
                tell(&format!("{} more of the chosen tokens {what}", report::count(more as u64)));
            }
        }
    }

    fn name(&self, id: u32) -> String {
        match spelling(self.tokenizer, id) {
            Some(token) => format!("'{token}' (id {id})"),
            None => format!("{id}"),
        }
    }

    /// The commonest of some tokens in the data.
    fn commonest(&self, ids: &[u32]) -> Option<TokenUse> {
        let uses = self.data.uses(ids);
        uses.into_iter().filter(|other| other.inputs > 0).max_by_key(|other| other.inputs)
    }

    /// The word with or without its space, or with another first letter, where the data hold that.
    fn neighbour(&self, token: &TokenUse) -> String {
        let others = self.tokenizer.map_or_else(Vec::new, |tokenizer| tokenizer.neighbours(token.id));
        self.commonest(&others).map_or_else(String::new, |other| {
            format!("; {} is there {}", self.name(other.id), report::plural(other.inputs, "time"))
        })
    }

    /// The same text with or without the space before it is another token: one that the data hold and nobody chose is easily
    /// overlooked.
    fn twin(&self, token: &TokenUse) -> Option<String> {
        let tokenizer = self.tokenizer?;
        let chosen: HashSet<u32> = self.uses.iter().map(|token| token.id).collect();
        let text = |id: u32| Some(tokenizer.decode(&[id], false).ok()?.trim_start().to_owned());
        let own = text(token.id)?;
        let mut others = tokenizer.neighbours(token.id);
        others.retain(|id| !chosen.contains(id) && text(*id).as_ref() == Some(&own));
        let twin = self.commonest(&others)?;
        let spelled = spelling(self.tokenizer, twin.id)?;
        Some(format!(
            "{} is another token than {}, and is there {}; --token '{spelled}' trains it too",
            self.name(twin.id),
            self.name(token.id),
            report::plural(twin.inputs, "time")
        ))
    }
}

/// How often the length limit cut a token off.
fn cut(token: &TokenUse) -> String {
    match token.cut {
        0 => String::new(),
        n => format!("; --max-length cut it off {n} times"),
    }
}
