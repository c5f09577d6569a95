//! What a data file holds, told without a tokenizer.

use std::collections::BTreeMap;

use super::files::files_of;
use super::records::{RecordOptions, read_records};
use super::row::{Padding, Row, Words, messages};
use super::{DataError, DataOptions, DataSource, Source};
use crate::data::error::Result;

/// The rows of a file, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survey {
    /// All rows.
    pub rows: usize,
    /// How many rows there are of each kind, by the key that a kind is known by.
    pub kinds: BTreeMap<&'static str, usize>,
    /// How many rows bring labels of their own.
    pub labelled: usize,
    /// How many of these have another number of labels than of ids, as an encoder-decoder model alone takes them.
    pub labels_apart: usize,
    /// Messages in all conversations.
    pub messages: usize,
}

/// Counts the rows of a source by their kind, after the checks that reading them for any model makes; of the options, those
/// about keys and files count.
///
/// # Errors
/// The first fault of the first faulty row; a source without rows.
pub fn survey(source: &DataSource, options: &DataOptions) -> Result<Survey> {
    let mut survey = Survey::default();
    let record_options = RecordOptions { sample_by: options.sample_by, keys: &options.keys, cuts: false };
    for file in files_of(source)? {
        read_records(&file, record_options, &mut |record, _| {
            let at = Source { file: file.shown.clone(), line: record.line };
            // without a model every id that has a place in its type may be right
            let row = Row::read(record.content, &options.keys, &at, u32::MAX as usize)?;
            survey.rows += 1;
            *survey.kinds.entry(row.key).or_default() += 1;
            match row.words {
                Words::Ids { input_ids, labels: Some(labels), padding: Padding { before, behind } } => {
                    survey.labelled += 1;
                    let (bare, padded) = (input_ids.len(), before + input_ids.len() + behind);
                    survey.labels_apart += usize::from(![bare, padded].contains(&labels.len()));
                }
                Words::Messages(conversation) => survey.messages += conversation.messages.len(),
                Words::Preference(preference) => survey.messages += messages(&preference),
                _ => {}
            }
            Ok(())
        })?;
    }
    match survey.rows {
        0 => Err(DataError::EmptyFile { path: source.shown().into() }),
        _ => Ok(survey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_by_kind_and_faults_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows.jsonl");
        let rows = "{\"input_ids\": [1], \"labels\": [1]}\n{\"text\": \"a\"}\n\n{\"text\": \"b\"}\n\
                    {\"input_ids\": [1], \"labels\": [1, 2]}\n{\"anchor\": \"a\", \"positive\": [1, 2]}\n\
                    {\"messages\": [{\"role\": \"user\"}, {\"role\": \"assistant\"}]}\n";
        std::fs::write(&path, rows).expect("written");
        let found = survey(&DataSource::new(&path), &DataOptions::new(1)).expect("sound");
        assert_eq!((found.rows, found.labelled, found.labels_apart, found.messages), (6, 2, 1, 2));
        let kinds = [("anchor", 1), ("input_ids", 2), ("messages", 1), ("text", 2)];
        assert_eq!(found.kinds, BTreeMap::from(kinds));
        std::fs::write(&path, "\n{\"text\": 1}\n").expect("written");
        let message =
            survey(&DataSource::new(&path), &DataOptions::new(1)).expect_err("no string").to_string();
        assert!(message.contains("rows.jsonl:2") && message.contains("`text` is 1"), "{message}");
        std::fs::write(&path, "\n").expect("written");
        assert!(
            survey(&DataSource::new(&path), &DataOptions::new(1))
                .expect_err("empty")
                .to_string()
                .ends_with("rows.jsonl: no rows")
        );
    }
}
