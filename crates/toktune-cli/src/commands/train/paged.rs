//! The page of a run.

use super::closing::Tried;
use super::ready::Ready;
use crate::page::{Page, files};
use crate::proof::Proof;
use std::path::PathBuf;
use toktune::report::{REPORT_FILE, Report};
use toktune::text::AutoTokenizer;
use toktune::train::TrainOutput;

/// What a run came to.
pub(super) struct Paged<'a> {
    pub(super) ready: &'a Ready<'a>,
    pub(super) page: &'a Page,
    /// Nothing where it ended in an error.
    pub(super) output: Option<&'a TrainOutput>,
    pub(super) tried: Option<(&'a Proof, &'a Tried<'a>)>,
    pub(super) tokenizer: Option<&'a AutoTokenizer>,
}

impl Paged<'_> {
    /// Writes the page, with what is to be said first, and gives its path.
    pub(super) fn write(&self, note: Option<String>) -> Option<PathBuf> {
        let args = self.ready.args;
        // a run that had ended already has a page that knows more
        let path = args.output.join(REPORT_FILE);
        if self.output.is_some_and(|output| output.steps == 0) && path.is_file() {
            return Some(path);
        }
        let files = files([("--data", &args.data[..]), ("--eval-data", &args.run.eval_data[..])]);
        self.page.write(self.report(note), files, &args.output)
    }

    fn report(&self, note: Option<String>) -> toktune::Result<Report> {
        let (ready, tokenizer) = (self.ready, self.tokenizer);
        let mut report = Report::of(&ready.trainer, self.output, tokenizer)?;
        report.notes.extend(note);
        report.starts = ready.starts.clone().unwrap_or_default();
        report.added = ready.chosen.added.iter().copied().collect();
        if let Some((proof, Tried { before, after, causes })) = self.tried {
            report.add_emission(proof.prompts(), (*before, after), causes, tokenizer)?;
        }
        // with other settings than it began with nothing is known of its start
        let start = (!ready.args.run.resume_anyway).then(|| self.page.start());
        if ready.is_resumed() {
            let rows = if start.is_some() {
                "the rows before are those that its flags give"
            } else {
                "its rows before are not known"
            };
            report
                .notes
                .push(format!("The run was resumed: {rows}, and what it wrote before was not tried."));
        }
        report.add_rows(&ready.trainer.model, start, ready.args.steps.seed, tokenizer);
        Ok(report)
    }
}
