//! What the data show of the chosen tokens, and what is wrong with it.

use crate::choose::Texts;
use crate::failure::{Failure, Outcome};
use crate::lookalikes;
use crate::report;
use crate::report::spelling;
use std::collections::{BTreeMap, HashSet};
use toktune::data::{Dataset, ModelKind, TokenUse};
use toktune::text::AutoTokenizer;

/// Remarks on single tokens that are made: of thousands of tokens, a few are enough to see what is wrong.
const MOST_REMARKS: usize = 24;
/// Tokens that an error names.
const MOST_NAMED: usize = 8;
/// Data of more tokens are not read once more for texts that look like tokens which are found.
const MOST_READ: usize = 4_000_000;

/// How often the chosen tokens occur.
pub struct Audit<'a> {
    data: &'a Dataset,
    tokenizer: Option<&'a AutoTokenizer>,
    uses: Vec<TokenUse>,
    /// What looks like a token in the data and is cut into others.
    lookalikes: BTreeMap<u32, String>,
}

impl<'a> Audit<'a> {
    /// Counts `ids` over `data`.
    pub fn of(data: &'a Dataset, ids: &[u32], tokenizer: Option<&'a AutoTokenizer>) -> Self {
        Self { data, tokenizer, uses: data.uses(ids), lookalikes: BTreeMap::new() }
    }

    /// The same with what looks like the tokens in the texts of the data: like those of `added`, and those that are never learnt.
    pub fn with_texts(mut self, texts: Texts<'_>, added: &HashSet<u32>) -> Outcome<Self> {
        // every text is read for it
        let is_small = self.data.tokens() <= MOST_READ;
        let is_wanted = |token: &&TokenUse| token.is_never_learnt() || is_small && added.contains(&token.id);
        let ids: Vec<u32> = self.uses.iter().filter(is_wanted).map(|token| token.id).collect();
        if let Some(tokenizer) = self.tokenizer {
            self.lookalikes = lookalikes::find(&ids, tokenizer, &texts.sources.list, texts.options)?;
        }
        Ok(self)
    }

    /// Tells what is worth knowing; the counts. Tokens of which nothing can be learnt are refused beside others, unless they are allowed;
    /// data that hold none of them always are, but for new tokens of a head, which learn not to be said (`learns_unseen`): a warning.
    pub fn tell_or_refuse(self, allowed: bool, learns_unseen: bool) -> Outcome<Vec<TokenUse>> {
        let never: Vec<&TokenUse> = self.uses.iter().filter(|token| token.is_never_learnt()).collect();
        if never.is_empty() {
            self.tell_tokens();
            return Ok(self.uses);
        }
        let all = never.len() == self.uses.len();
        let listed =
            never.iter().take(MOST_NAMED).map(|token| self.why_never(token)).collect::<Vec<_>>().join("; ");
        let more = if never.len() > MOST_NAMED { "; ..." } else { "" };
        if all && !learns_unseen {
            return Err(Failure::Failed(format!(
                "the data hold nothing to learn of the chosen tokens: {listed}{more}"
            )));
        }
        // of added tokens alone that are nowhere, the head learns something all the same
        if !allowed && !all {
            return Err(Failure::Failed(format!(
                "{} of {} {} never learnt: {listed}{more} (--allow-unseen goes on: such a row stays as it starts, and one of a \
                 head learns not to be said)",
                report::count(never.len() as u64),
                report::plural(self.uses.len(), "chosen token"),
                if never.len() == 1 { "is" } else { "are" }
            )));
        }
        match all {
            true => report::warning(&format!(
                "the data hold none of the chosen tokens: the model learns not to say them, and nothing else: {listed}{more}"
            )),
            false => self.tell_tokens(),
        }
        Ok(self.uses)
    }

    /// Tells what is worth knowing, and refuses nothing.
    pub fn tell(self) -> Vec<TokenUse> {
        self.tell_tokens();
        self.uses
    }

    /// Why nothing can be learnt of a token.
    fn why_never(&self, token: &TokenUse) -> String {
        let (name, cut, neighbour) = (self.name(token.id), cut(token), self.neighbour(token));
        let looks = self.lookalikes.get(&token.id).map(|looks| format!("; what looks like it: {looks}"));
        let why = match token.inputs {
            0 => "is nowhere in the data".to_owned(),
            times => {
                format!("is read {}, is no label, and no label comes after it", report::plural(times, "time"))
            }
        };
        format!("{name} {why}{cut}{neighbour}{}", looks.unwrap_or_default())
    }

    /// A remark on each token that has something odd.
    fn tell_tokens(&self) {
        let says = self.data.collator().kind() != ModelKind::SentencePairs;
        let (mut warnings, mut notes) = (Vec::new(), Vec::new());
        for token in &self.uses {
            let name = self.name(token.id);
            if token.is_never_learnt() {
                warnings.push(self.why_never(token));
                continue;
            }
            if let Some(looks) = self.lookalikes.get(&token.id) {
                notes.push(format!("not every text that looks like {name} is cut into it: {looks}"));
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
            (warnings, report::warning as fn(&str), "are never learnt"),
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
