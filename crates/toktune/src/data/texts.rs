//! The texts of data files, as they stand: what a choice of tokens is made by, before anything is tokenised.

use serde_json::Value;

use super::files::files_of;
use super::records::{RecordOptions, read_records};
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
    let record_options = RecordOptions { sample_by: options.sample_by, keys: &options.keys };
    for file in sources.iter().map(files_of).collect::<Result<Vec<_>>>()?.iter().flatten() {
        read_records(file, record_options, &mut |record, _| {
            let at = Source { file: file.shown.clone(), line: record.line };
            let row = Row::read(record.content, &options.keys, &at, u32::MAX as usize)?;
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
        })?;
    }
    Ok(())
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
}
