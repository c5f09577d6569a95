//! A file that is one array of JSON: its values are cut apart without being understood, so that it is never held whole.

use std::io::BufRead;

use super::{Content, LONGEST_ROW, Record, Stream, Take};
use crate::data::DataError;
use crate::data::error::Result;

/// Where the reader stands between two bytes.
#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Between values.
    Between,
    /// In a value, outside of strings.
    Value,
    /// In a string.
    Text,
    /// Behind a backslash in a string.
    Escape,
    /// Behind the array.
    End,
}

/// The array that begins at the stream's next byte.
pub(super) fn read(stream: &mut Stream, take: Take<'_>) -> Result<()> {
    stream.bytes.consume(1);
    let mut cutter =
        Cutter { state: State::Between, depth: 0, row: Vec::new(), line: stream.line, comma: true };
    loop {
        let position = stream.position();
        let (line, file) = (stream.line, stream.file.shown.clone());
        let ahead = stream.fill()?;
        if ahead.is_empty() {
            break;
        }
        let count = ahead.len();
        let mut line = line;
        for &byte in ahead {
            let wrong = |reason: &str| DataError::NotJson {
                at: crate::data::Source { file: file.clone(), line },
                reason: reason.to_owned(),
            };
            if let Some(row) = cutter.next(byte, line).map_err(wrong)? {
                take(Record { line: cutter.line, content: Content::Json(row) }, position)?;
            }
            if cutter.row.len() > LONGEST_ROW {
                let at = crate::data::Source { file: file.clone(), line: cutter.line };
                return Err(DataError::RowTooLong { at, most: LONGEST_ROW });
            }
            line += usize::from(byte == b'\n');
        }
        stream.bytes.consume(count);
        stream.line = line;
    }
    match cutter.state {
        State::End => Ok(()),
        _ => {
            let reason = "the file ends inside of its array".to_owned();
            Err(DataError::NotJson { at: stream.at(stream.line), reason })
        }
    }
}

/// Cuts values apart, byte by byte.
struct Cutter {
    state: State,
    /// Brackets that are open in the value.
    depth: usize,
    /// The value so far.
    row: Vec<u8>,
    /// Where it begins.
    line: usize,
    /// Whether a value may begin: behind a comma, or at the start.
    comma: bool,
}

impl Cutter {
    /// Takes a byte; a value when it ends there.
    fn next(&mut self, byte: u8, line: usize) -> Result<Option<Vec<u8>>, &'static str> {
        self.state = match (self.state, byte) {
            (State::Between | State::Value, _) => return self.outside(byte, line),
            (State::End, byte) if byte.is_ascii_whitespace() => return Ok(None),
            (State::End, _) => return Err("there is more behind the array"),
            (State::Text, b'"') => State::Value,
            (State::Text, b'\\') => State::Escape,
            (State::Text | State::Escape, _) => State::Text,
        };
        self.row.push(byte);
        Ok(None)
    }

    /// Takes a byte outside of strings.
    fn outside(&mut self, byte: u8, line: usize) -> Result<Option<Vec<u8>>, &'static str> {
        let begins = self.state == State::Between;
        match byte {
            b',' | b']' if self.depth == 0 => {
                if begins && byte == b',' && self.comma {
                    return Err("a comma where a value should be");
                }
                self.comma = byte == b',';
                self.state = if byte == b']' { State::End } else { State::Between };
                let row = std::mem::take(&mut self.row);
                return Ok((!row.is_empty()).then_some(row));
            }
            _ if begins && byte.is_ascii_whitespace() => return Ok(None),
            _ if begins && !self.comma => return Err("no comma between two values"),
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.checked_sub(1).ok_or("a bracket that was not opened")?,
            _ => {}
        }
        if begins {
            (self.line, self.comma) = (line, false);
        }
        self.state = if byte == b'"' { State::Text } else { State::Value };
        self.row.push(byte);
        Ok(None)
    }
}
