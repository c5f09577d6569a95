//! Data files to examples.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use super::encode::Encoder;
use super::row::Row;
use super::{ChatNotes, Collator, DataError, DataOptions, RaggedBatch};
use crate::text::AutoTokenizer;
use crate::{Error, Result};

/// Where a row comes from; written as `file:line`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file.
    pub file: Arc<Path>,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.file.display(), self.line)
    }
}

/// A tokenised row.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The tokens: of an encoder-decoder model the encoder's, of a pair the first sequence's.
    pub input_ids: Vec<u32>,
    /// The second sequence of a pair; empty for every other row.
    pub second: Vec<u32>,
    /// What each position is labelled, in the position's own place: for a decoder the shift comes later.
    /// `None` (Python's -100) is not learnt.
    ///
    /// An encoder-decoder model's are its decoder's targets, of a length of their own. A masked language model's
    /// are empty when the tokens to guess are chosen anew in every epoch, and those of a pair always are.
    pub labels: Vec<Option<u32>>,
    /// Tokens that `max_length` cut off.
    pub cut: Vec<u32>,
    /// The row it comes from.
    pub source: Source,
}

/// All examples in file order.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The examples.
    pub examples: Vec<Example>,
    /// What is made of them.
    pub collator: Collator,
    /// Rows of the model: ids lie below.
    pub vocab_size: usize,
    /// What is to be known about the conversations among the rows.
    pub chat: ChatNotes,
}

impl Dataset {
    /// Reads and tokenises JSONL files, one after the other. Blank lines are skipped.
    ///
    /// `tokenizer` may be absent when every row holds `input_ids`.
    ///
    /// # Errors
    /// The first fault of the first faulty line; a file without rows; no label anywhere that could be learnt.
    pub fn read<P: AsRef<Path>>(
        files: &[P],
        tokenizer: Option<&AutoTokenizer>,
        options: &DataOptions,
    ) -> Result<Self> {
        if files.is_empty() {
            return Err(DataError::NoFiles.into());
        }
        let mut encoder = Encoder::new(tokenizer, options)?;
        let mut examples = Vec::new();
        for path in files {
            let before = examples.len();
            let path = path.as_ref();
            let file = File::open(path).map_err(Error::io(path))?;
            read_lines(
                BufReader::new(file),
                path,
                |row, at| {
                    examples.extend(encoder.encode(row, at)?);
                    Ok(())
                },
                options.vocab_size,
            )?;
            if examples.len() == before {
                return Err(DataError::EmptyFile { path: path.to_owned() }.into());
            }
        }
        let (collator, vocab_size) = (options.collator.clone(), options.vocab_size);
        let dataset = Dataset { examples, collator, vocab_size, chat: encoder.notes };
        if dataset.rows_without_labels() == dataset.len() {
            let (rows, cut_rows) = (dataset.examples.len(), dataset.cut_rows());
            return Err(DataError::NoLabels { rows, cut_rows }.into());
        }
        Ok(dataset)
    }

    /// The number of examples.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether there are no examples; a dataset that was read has some.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// The batch of the examples `indices`, as epoch `epoch` has it: for evaluation always the same one, 0.
    ///
    /// Panics when an index is not there: it is the caller's to check.
    pub fn batch(&self, indices: &[usize], epoch: u64) -> RaggedBatch {
        let examples = indices.iter().map(|&index| (index, &self.examples[index]));
        self.collator.batch(examples, epoch, self.vocab_size)
    }

    /// The number of tokens that the model reads in one pass over all examples.
    pub fn tokens(&self) -> usize {
        self.examples.iter().map(|example| self.collator.inputs(example).count()).sum()
    }

    /// The number of labels the model learns from in one pass: in the first, where tokens are masked anew in each.
    pub fn label_tokens(&self) -> usize {
        let of = |(index, example)| self.collator.label_tokens(example, index, 0, self.vocab_size);
        self.examples.iter().enumerate().map(of).sum()
    }

    /// How many examples were cut by `max_length`.
    pub fn cut_rows(&self) -> usize {
        self.examples.iter().filter(|example| !example.cut.is_empty()).count()
    }

    /// How many examples leave nothing to learn.
    pub fn rows_without_labels(&self) -> usize {
        self.examples.iter().filter(|example| !self.collator.can_learn(example)).count()
    }
}

/// Calls `take` with each row of a file.
pub(super) fn read_lines(
    mut lines: impl BufRead,
    path: &Path,
    mut take: impl FnMut(Row, Source) -> Result<()>,
    vocab_size: usize,
) -> Result<()> {
    let file: Arc<Path> = Arc::from(path);
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        if lines.read_until(b'\n', &mut bytes).map_err(Error::io(path))? == 0 {
            break;
        }
        let at = Source { file: file.clone(), line };
        let text = std::str::from_utf8(&bytes).map_err(|_| DataError::NotText { at: at.clone() })?;
        // Editors on Windows put a byte order mark before the first line.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
        if !text.is_empty() {
            take(Row::parse(text, &at, vocab_size)?, at)?;
        }
    }
    Ok(())
}
