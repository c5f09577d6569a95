//! `report.html`: what a run came to, as a page in its folder.

use crate::report;
use crate::typed::Typed;
use std::path::{Path, PathBuf};
use toktune::data::DataSource;
use toktune::report::{Facts, Report, StartRows, bytes};
use toktune::train::Trainer;

/// What a page needs that is gone when the run has ended.
pub struct Page {
    start: StartRows,
    command: String,
}

impl Page {
    /// Of a run that is about to begin.
    pub fn of(trainer: &Trainer, typed: Typed<'_>) -> Self {
        Self { start: StartRows::of(&trainer.model), command: typed.command() }
    }

    /// The rows that the run began with.
    pub fn start(&self) -> &StartRows {
        &self.start
    }

    /// Writes what is known into `folder`; a page that cannot be written is no reason to fail.
    pub fn write(&self, report: toktune::Result<Report>, files: Facts, folder: &Path) -> Option<PathBuf> {
        let written = report.and_then(|mut report| {
            report.command = Some(self.command.clone());
            let at = report.facts.iter().position(|group| group.title == files.title);
            match at {
                Some(at) => report.facts[at].facts.extend(files.facts),
                None => report.facts.push(files),
            }
            report.write(folder)
        });
        match written {
            Ok(path) => Some(path),
            Err(fault) => {
                report::warning(&format!("--report: {fault}; there is no page of the run"));
                None
            }
        }
    }
}

/// The files that flags name, with their sizes.
pub fn files<'n>(named: impl IntoIterator<Item = (&'n str, &'n [String])>) -> Facts {
    let mut facts = Facts::new("Data");
    for (flag, texts) in named {
        for text in texts {
            let path = DataSource::parse(text).ok().map(|source| source.path);
            let file = path.and_then(|path| path.metadata().ok()).filter(std::fs::Metadata::is_file);
            let size = file.map_or(String::new(), |file| format!(", {}", bytes(file.len())));
            facts.add(flag, format!("{text}{size}"));
        }
    }
    facts
}
