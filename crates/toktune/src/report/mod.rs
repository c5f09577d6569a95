//! `report.html`: what came of a run, as one page that needs nothing else.
//!
//! ```no_run
//! # use toktune::report::{Report, StartRows};
//! # fn f(mut trainer: toktune::Trainer, tokenizer: &toktune::AutoTokenizer) -> toktune::Result<()> {
//! let start = StartRows::of(&trainer.model);
//! let output = trainer.train(&mut ())?;
//! let mut report = Report::of(&trainer, Some(&output), Some(tokenizer))?;
//! report.add_rows(&trainer.model, Some(&start), 42, Some(tokenizer));
//! report.write(&trainer.arguments().output_dir)?;
//! # Ok(())
//! # }
//! ```
//!
//! | file | owns |
//! | --- | --- |
//! | `contents`, `gather` | what is known of a run, and where it comes from |
//! | `rows`, `projection`, `texts`, `examples` | rows among the vocabulary, what was written, rows of the data |
//! | `page`, `style.css` | the page and its sections |
//! | `verdict`, `curves`, `tokens`, `written`, `map_drawing`, `preview` | a section each |
//! | `html`, `table`, `chart`, `axis`, `format` | escaped markup, tables, drawings, numbers |
//!
//! The page has no script, fetches nothing, and is of a bounded size: long curves are thinned, long texts and tables cut, with a word
//! on it.

mod axis;
mod chart;
mod contents;
mod curves;
mod examples;
mod format;
mod gather;
mod html;
mod map_drawing;
mod page;
mod preview;
mod projection;
mod rows;
mod table;
#[cfg(test)]
mod tests;
mod texts;
mod tokens;
mod verdict;
mod written;

pub use contents::{Distillation, DistilledToken, Facts, Report, TokenProof};
pub use examples::{ShownExample, ShownWindow};
pub use format::{bytes, count, duration, number, percent, plural};
pub use rows::{LayerRows, MapPoint, RowMap, StartRows};
pub use texts::{Cut, WrittenText};

use crate::error::Result;
use crate::weights::{WeightsError, write_atomically};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The name of the page in a run's folder.
pub const REPORT_FILE: &str = "report.html";

impl Report {
    /// Writes the page into `folder`, and gives its path. What was there before is replaced when the new one is whole.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let (path, text) = (folder.join(REPORT_FILE), self.html());
        write_atomically(&path, |file| file.write_all(text.as_bytes()).map_err(WeightsError::io(&path)))?;
        Ok(path)
    }
}
