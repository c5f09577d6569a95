//! The texts of data files, as they stand: what a choice of tokens is made by, before anything is tokenised.

use serde_json::Value;
use std::ops::Range;

use super::files::files_of;
use super::pieces::Piece;
use super::records::{Content, RecordOptions, read_records};
use super::row::{Preference, Row, Sequence, Words};
use super::{DataOptions, DataSource, Source};
use crate::data::error::Result;

/// Calls `take` with every text of the sources: texts, prompts and completions, both of a pair, and what the messages of
/// conversations say. Rows of ids have none. Of the options, those about keys and files count.
///
/// # Errors
/// The first fault of the first faulty row, after the checks that reading it for any model makes.
pub fn texts(
    sources: &[DataSource],
    options: &DataOptions,
    take: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    each(sources, options, false, &mut |text, _| take(text))
}

/// Calls `take` with every text of the sources as [`texts`] does, long ones in parts. Texts of a plain text file may be of any
/// length; the rows of other files are bounded as they are for training.
///
/// # Errors
/// As [`texts`].
pub fn pieces(
    sources: &[DataSource],
    options: &DataOptions,
    take: &mut dyn FnMut(Piece<'_>) -> Result<()>,
) -> Result<()> {
    each(sources, options, true, &mut |text, own| Piece::each(text, own, &mut *take))
}

/// What takes a text, and which bytes of it are to be looked at.
type TakeText<'t> = &'t mut dyn FnMut(&str, Range<usize>) -> Result<()>;

fn each(sources: &[DataSource], options: &DataOptions, cuts: bool, take: TakeText<'_>) -> Result<()> {
    let record_options = RecordOptions { sample_by: options.sample_by, keys: &options.keys, cuts };
    for file in sources.iter().map(files_of).collect::<Result<Vec<_>>>()?.iter().flatten() {
        read_records(file, record_options, &mut |record, _| {
            let at = Source { file: file.shown.clone(), line: record.line };
            let own = match &record.content {
                Content::Part(_, own) => Some(own.clone()),
                _ => None,
            };
            let row = Row::read(record.content, &options.keys, &at, u32::MAX as usize)?;
            of_row(&row, &mut |text| take(text, own.clone().unwrap_or(0..text.len())))
        })?;
    }
    Ok(())
}

/// The texts of a row.
fn of_row(row: &Row, take: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    match &row.words {
        Words::Ids { .. } => Ok(()),
        Words::Text(text) => take(text),
        Words::Prompt { prompt, completion } => {
            take(prompt)?;
            take(completion)
        }
        Words::Pair { anchor, positive } => {
            for sequence in [anchor, positive] {
                if let Sequence::Text(text) = sequence {
                    take(text)?;
                }
            }
            Ok(())
        }
        Words::Messages(conversation) => {
            conversation.messages.iter().try_for_each(|message| said(message.get("content"), take))
        }
        Words::Preference(Preference::Ids { .. }) => Ok(()),
        Words::Preference(Preference::Texts { prompt, chosen, rejected }) => {
            [prompt, chosen, rejected].into_iter().try_for_each(|text| take(text))
        }
        Words::Preference(Preference::Chats { chosen, rejected }) => {
            let messages = chosen.messages.iter().chain(&rejected.messages);
            messages.into_iter().try_for_each(|message| said(message.get("content"), take))
        }
    }
}

/// What the content of a message says: a text, or the texts of its parts.
fn said(content: Option<&Value>, take: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
    match content {
        Some(Value::String(text)) => take(text),
        Some(Value::Array(parts)) => {
            let texts = parts.iter().filter_map(|part| part.get("text").unwrap_or(part).as_str());
            texts.into_iter().try_for_each(take)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::SampleBy;

    #[test]
    fn every_form_gives_its_texts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows.jsonl");
        let rows = r#"{"text": "a"}
{"prompt": "b", "completion": "c"}
{"messages": [{"role": "user", "content": "d"}, {"role": "assistant", "content": [{"type": "text", "text": "e"}]}]}
{"anchor": "f", "positive": [1]}
{"input_ids": [1, 2]}
"#;
        std::fs::write(&path, rows).expect("written");
        let mut found = String::new();
        let mut take = |text: &str| {
            found += text;
            Ok(())
        };
        texts(&[DataSource::new(&path)], &DataOptions::new(9), &mut take).expect("sound");
        assert_eq!(found, "abcdef");
    }

    #[test]
    fn a_text_of_any_length_comes_in_parts_that_lose_no_word() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("long.txt");
        // a phrase at every 4999th letter, so that some stand across the borders of both kinds
        let filler = "ab \u{e4}\u{1f600}c de ".repeat(400);
        let text = format!("{}x y\n", filler.chars().take(3600).collect::<String>()).repeat(1200);
        for (by, line) in [(SampleBy::Paragraph, text.clone()), (SampleBy::Line, text.replace('\n', " "))] {
            std::fs::write(&path, &line).expect("written");
            let mut options = DataOptions::new(9);
            options.sample_by = by;
            let (mut found, mut longest, mut own) = (0, 0, String::new());
            let mut take = |piece: Piece<'_>| {
                found +=
                    piece.text.match_indices("x y").filter(|(place, _)| piece.own.contains(place)).count();
                longest = longest.max(piece.text.len());
                own += &piece.text[piece.own.clone()];
                Ok(())
            };
            pieces(&[DataSource::new(&path)], &options, &mut take).expect("sound");
            assert_eq!(found, 1200, "{by:?}");
            assert_eq!(own.trim_end(), line.trim_end(), "{by:?}");
            assert!(longest <= 70 << 10, "{longest}");
            assert!(texts(&[DataSource::new(&path)], &options, &mut |_| Ok(())).is_err(), "{by:?}");
        }
    }
}
