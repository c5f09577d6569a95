//! Files of lines: JSON, an object a line, and plain text.

use super::{Content, Record, Stream, Take};
use crate::data::SampleBy;
use crate::data::error::Result;

/// An object of JSON a line; blank lines are skipped.
pub(super) fn read_json(stream: &mut Stream, take: Take<'_>) -> Result<()> {
    loop {
        let (line, mut row) = (stream.line, Vec::new());
        if !stream.read_line(&mut row)? {
            return Ok(());
        }
        if !row.trim_ascii().is_empty() {
            take(Record { line, content: Content::Json(row) }, stream.position())?;
        }
    }
}

/// A text a line, a paragraph (up to a blank line) or a file.
pub(super) fn read_text(stream: &mut Stream, by: SampleBy, take: Take<'_>) -> Result<()> {
    let (mut first, mut text) = (stream.line, Vec::new());
    loop {
        let (line, before) = (stream.line, text.len());
        // the break between two lines of one text
        if before > 0 {
            text.push(b'\n');
        }
        let start = text.len();
        let more = stream.read_line(&mut text)?;
        let is_blank = text[start..].trim_ascii().is_empty();
        if before == 0 {
            first = line;
        }
        let ends = match by {
            SampleBy::Line => true,
            SampleBy::Paragraph => is_blank,
            SampleBy::Document => false,
        };
        if ends || !more {
            if is_blank {
                text.truncate(before);
            }
            let whole = std::mem::take(&mut text);
            if !whole.trim_ascii().is_empty() {
                take(Record { line: first, content: Content::Text(whole) }, stream.position())?;
            }
        } else if before == 0 && is_blank {
            // blank lines before a text are none of it
            text.clear();
        }
        if !more {
            return Ok(());
        }
    }
}
