//! Files of lines: JSON, an object a line, and plain text.

use super::{Content, LONGEST_ROW, Record, RecordOptions, Stream, Take};
use crate::data::SampleBy;
use crate::data::error::Result;
use crate::data::pieces::{BESIDE, border, letter};

/// Bytes of a text that are held at a time, where it comes in parts.
const PART: usize = 1 << 20;

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

/// A text a line, a paragraph (up to a blank line) or a file; a long one in parts if the options say so.
pub(super) fn read_text(stream: &mut Stream, options: RecordOptions<'_>, take: Take<'_>) -> Result<()> {
    let (mut first, mut text) = (stream.line, Vec::new());
    // where the next part of a text begins in what is held of it
    let mut begun = None;
    let most = if options.cuts { PART } else { LONGEST_ROW };
    loop {
        let (line, before) = (stream.line, text.len());
        // the break between two lines of one text
        if before > 0 {
            text.push(b'\n');
        }
        if before == 0 {
            first = line;
        }
        let mut start = Some(text.len());
        let more = loop {
            match stream.read_line_up_to(&mut text, most)? {
                Some(any) => break any,
                None if !options.cuts => return Err(stream.too_long(line)),
                None => {
                    let part = first_part(&mut text, &mut begun);
                    take(Record { line: first, content: part }, stream.position())?;
                    start = None;
                }
            }
        };
        // a line that was cut is taken for one with something in it
        let is_blank = start.is_some_and(|start| text[start..].trim_ascii().is_empty());
        let ends = match options.sample_by {
            SampleBy::Line => true,
            SampleBy::Paragraph => is_blank,
            SampleBy::Document => false,
        };
        if ends || !more {
            if is_blank {
                text.truncate(before);
            }
            let whole = std::mem::take(&mut text);
            let begun = begun.take();
            if !whole.trim_ascii().is_empty() {
                let content = match begun {
                    Some(own) => {
                        let own = own..whole.len();
                        Content::Part(whole, own)
                    }
                    None => Content::Text(whole),
                };
                take(Record { line: first, content }, stream.position())?;
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

/// Takes the first part off a text that goes on; what stands beside the next one stays.
fn first_part(text: &mut Vec<u8>, begun: &mut Option<usize>) -> Content {
    let own = begun.unwrap_or(0)..border(text, text.len().saturating_sub(BESIDE));
    // the last letter may not be whole
    let part = text[..letter(text, text.len().saturating_sub(4))].to_vec();
    let rest = letter(text, own.end.saturating_sub(BESIDE));
    *begun = Some(own.end - rest);
    text.drain(..rest);
    Content::Part(part, own)
}
