//! A run whose flags, model, tokens and data have been read and checked.

use super::heading;
use super::opened::Opened;
use super::prepared::Prepared;
use crate::args::TrainArgs;
use crate::audit::Audit;
use crate::choose::{Chosen, Texts};
use crate::data::{self, Sources};
use crate::failure::{Failure, Outcome};
use crate::load;
use crate::machine::Machine;
use crate::proof::Proof;
use crate::report::Header;
use crate::starts::{self, Starts};
use toktune::data::{Collator, TokenUse};
use toktune::text::AutoTokenizer;
use toktune::train::Trainer;
use toktune_mpi::Process;

/// What a run has before its first step.
pub(super) struct Ready<'a> {
    pub(super) args: &'a TrainArgs,
    /// Where it is one of several.
    pub(super) process: Option<Process>,
    pub(super) machine: Machine,
    pub(super) trainer: Trainer,
    /// Taken by the run, which lends it to what is told while the trainer changes.
    pub(super) tokenizer: Option<AutoTokenizer>,
    pub(super) chosen: Chosen,
    pub(super) starts: Option<Starts>,
    /// How often each token occurs in the data.
    pub(super) uses: Vec<TokenUse>,
    pub(super) opened: Opened,
}

impl<'a> Ready<'a> {
    /// Reads all that the flags name; nothing is written.
    pub(super) fn of(args: &'a TrainArgs, process: Option<&Process>) -> Outcome<Self> {
        let arguments = args.training_arguments();
        arguments.check()?;
        if process.is_none_or(|process| process.rank == 0) {
            arguments.check_output()?;
        }
        let mut machine = load::machine(&args.machine)?;
        let (mut base, mut tokenizer) = load::model(&args.model, &machine.handle)?;
        load::set_languages(&mut tokenizer, &args.languages)?;
        let sources = Sources::find(&args.data, true)?;
        let mut collator = Collator::of(&base, tokenizer.as_ref().ok(), args.steps.seed);
        machine.set_precision(&mut base);
        let prepared = Prepared::of(args, base, tokenizer, &sources)?;
        let opened = Opened::tell(&prepared);
        let Prepared { mut model, tokenizer, chosen, starts } = prepared;
        model.set_base_name(&load::base_name(&args.model));
        args.masks.apply(&mut collator, &model.token_indices()).map_err(Failure::Usage)?;
        // what the first process leaves in the cache of encoded rows, the others map
        let read = |sources: &Sources| {
            let read = || data::read(sources, &tokenizer, &args.options, model.base(), &collator);
            process.map_or_else(read, |process| process.after_first(read))
        };
        let train = read(&sources)?;
        args.preference.check(&train).map_err(Failure::Usage)?;
        let eval = match args.run.eval_data.as_slice() {
            [] => None,
            files => {
                let sources = Sources::find(files, false)?;
                Some(read(&sources)?)
            }
        };
        // a new token's row of the head learns in every place where it is not to be said
        let learns_unseen = !chosen.added.is_empty() && model.base().has_head();
        let plain = data::options(&args.options, &Collator::Causal, model.base().vocabulary());
        let texts = Texts { sources: &sources, options: &plain };
        let audit = Audit::of(&train, &model.token_indices(), tokenizer.as_ref().ok());
        let audit = audit.with_texts(texts, &chosen.added.difference(&chosen.words).copied().collect())?;
        // an adapter's tokens were not chosen for these data
        let uses =
            audit.tell_or_refuse(args.run.allow_unseen || args.tokens.adapter.is_some(), learns_unseen)?;
        let tokenizer = tokenizer.ok();
        // the estimate of the run's memory counts what is held now
        toktune::runtime::release_freed_memory();
        let mut trainer = Trainer::new(model, arguments, train)?;
        if let Some(eval) = eval {
            trainer = trainer.with_eval(eval)?;
        }
        if let Some(saved) = tokenizer.as_ref().filter(|_| chosen.changed_tokenizer) {
            trainer = trainer.with_tokenizer(saved.clone());
        }
        if let Some(process) = process {
            trainer = trainer.with_workers(process.workers())?;
        }
        Ok(Self {
            args,
            process: process.cloned(),
            machine,
            trainer,
            tokenizer,
            chosen,
            starts,
            uses,
            opened,
        })
    }

    /// Whether the run goes on from a checkpoint.
    pub(super) fn is_resumed(&self) -> bool {
        self.args.run.resume || self.args.run.resume_anyway
    }

    /// What is told before the first step.
    pub(super) fn header(&self, tokenizer: Option<&AutoTokenizer>) -> Outcome<Header> {
        let mut header = heading::of(self, tokenizer)?;
        if let (Some(starts), false) = (&self.starts, self.is_resumed()) {
            header.starts = starts::told(starts, &self.trainer, tokenizer)?;
        }
        Ok(header)
    }

    /// What the tokens are tried on, where they are.
    pub(super) fn proof(&self) -> Outcome<Option<Proof>> {
        let trainer = &self.trainer;
        let kind = trainer.model.base().kind();
        let mut tokens = trainer.model.token_indices();
        tokens.retain(|id| !self.chosen.only_read.contains(id));
        Proof::of(&self.args.emission, 30, (kind, trainer.eval_data()), &tokens)
    }
}
