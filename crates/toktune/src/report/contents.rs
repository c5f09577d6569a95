//! What a report is made of.

use super::examples::ShownExample;
use super::rows::LayerRows;
use super::texts::WrittenText;
use crate::data::{ModelKind, TokenUse};
use crate::distill::{DistilledWord, Likeness};
use crate::emission::{Cause, Emission};
use crate::peft::RowInit;
use crate::train::{EvaluatedStep, Evaluation, StepLog};
use std::collections::{BTreeMap, BTreeSet};

/// Tokens that tables list.
const LISTED: usize = 40;

/// What is known of a run. Everything in it may come from strangers: the page shows it as text and nothing else.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// What the page is called.
    pub title: String,
    /// The command line as it was typed.
    pub command: Option<String>,
    /// What was run, by groups.
    pub facts: Vec<Facts>,
    /// What is to be known first: that the run was stopped, for one.
    pub notes: Vec<String>,
    /// The kind of model.
    pub kind: ModelKind,
    /// What the loss counts, in which unit.
    pub loss_unit: String,
    /// The steps, those of the run that was resumed included.
    pub log: Vec<StepLog>,
    /// Every evaluation of held-out rows.
    pub evaluations: Vec<EvaluatedStep>,
    /// That before the first step.
    pub before: Option<Evaluation>,
    /// That of what was saved.
    pub after: Option<Evaluation>,
    /// The step whose rows were kept, where they are not those of the last one.
    pub kept_step: Option<u64>,
    /// The norm that gradients were scaled down to, where they were.
    pub max_grad_norm: Option<f64>,
    /// The spellings of tokens, where there is a tokenizer.
    pub names: BTreeMap<u32, String>,
    /// The trained tokens, each with how often it occurs in the data.
    pub uses: Vec<TokenUse>,
    /// What their rows started from, where that is known.
    pub starts: BTreeMap<u32, RowInit>,
    /// Those that the tokenizer did not have.
    pub added: BTreeSet<u32>,
    /// Those that texts are shown without.
    pub special: BTreeSet<u32>,
    /// Where their rows lie, in each layer.
    pub rows: Vec<LayerRows>,
    /// Whether they are written where they belong, where that was tried.
    pub emission: Option<TokenProof>,
    /// Some rows of the data.
    pub examples: Vec<ShownExample>,
    /// What a distillation came to.
    pub distillation: Option<Distillation>,
}

/// What was run, by name and value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What it is about.
    pub title: String,
    /// Names and values.
    pub facts: Vec<(String, String)>,
}

/// What came of trying the tokens.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TokenProof {
    /// Before training, where it was tried.
    pub before: Option<Emission>,
    /// And after.
    pub after: Emission,
    /// What is probably wrong with each token of it.
    pub causes: Vec<Option<Cause>>,
    /// Some of the texts.
    pub texts: Vec<WrittenText>,
}

/// How near distilled tokens are to the pieces of their words.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Distillation {
    /// With the rows that the run began with.
    pub untrained: Likeness,
    /// And at its end.
    pub trained: Likeness,
    /// The words.
    pub words: Vec<DistilledToken>,
}

/// One of them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DistilledToken {
    /// The word.
    pub word: DistilledWord,
    /// Snippets that it was trained on.
    pub train: usize,
    /// Snippets that were held out.
    pub held_out: usize,
    /// Measured on these, before and after; nothing was measured where they have no row.
    pub likeness: (Likeness, Likeness),
}

impl Distillation {
    /// What was measured of all words together, before and after.
    pub fn new(untrained: Likeness, trained: Likeness) -> Self {
        Self { untrained, trained, words: Vec::new() }
    }
}

impl DistilledToken {
    /// A word, with how many snippets were trained on and held out, and what was measured on these before and after.
    pub fn new(
        word: DistilledWord,
        (train, held_out): (usize, usize),
        likeness: (Likeness, Likeness),
    ) -> Self {
        Self { word, train, held_out, likeness }
    }
}

impl Facts {
    /// A group of facts.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), facts: Vec::new() }
    }

    /// Adds one.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.facts.push((name.into(), value.into()));
    }
}

impl TokenProof {
    /// What is probably wrong with a token.
    pub(super) fn cause(&self, id: u32) -> Option<Cause> {
        let at = self.after.tokens.iter().position(|token| token.id == id)?;
        self.causes.get(at).copied().flatten()
    }

    /// Tokens with which nothing is wrong, such with which something is, and such that no row was to have.
    pub(super) fn tally(&self) -> (usize, usize, usize) {
        let of = |token: &crate::emission::TokenEmission| (self.cause(token.id), token.expected);
        self.after.tokens.iter().fold((0, 0, 0), |(fine, wrong, untried), token| match of(token) {
            (Some(_), _) => (fine, wrong + 1, untried),
            (None, 0) => (fine, wrong, untried + 1),
            (None, _) => (fine + 1, wrong, untried),
        })
    }
}

impl Report {
    /// The trained tokens that tables list: those first with which something is wrong, then the others in their order.
    pub(super) fn listed(&self) -> Vec<u32> {
        let is_fine = |id: &u32| self.emission.as_ref().and_then(|proof| proof.cause(*id)).is_none();
        let (fine, wrong): (Vec<u32>, Vec<u32>) = self.uses.iter().map(|of| of.id).partition(is_fine);
        let mut listed = if self.uses.len() > LISTED { [wrong, fine].concat() } else { self.ids() };
        listed.truncate(LISTED);
        listed
    }

    fn ids(&self) -> Vec<u32> {
        self.uses.iter().map(|of| of.id).collect()
    }

    /// How many of the tokens tables do not list.
    pub(super) fn unlisted(&self) -> usize {
        self.uses.len().saturating_sub(LISTED)
    }

    /// The first and the last step with a finite loss: their numbers and losses.
    pub(super) fn first_and_last(&self) -> Option<((u64, f64), (u64, f64))> {
        let mut finite = self.log.iter().filter(|step| step.loss.is_finite()).map(|of| (of.step, of.loss));
        let first = finite.next()?;
        Some((first, finite.next_back().unwrap_or(first)))
    }

    /// A token's spelling, or its id.
    pub(super) fn name(&self, id: u32) -> String {
        self.names.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }
}
