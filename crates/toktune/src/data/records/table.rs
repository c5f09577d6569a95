//! Tables: a heading, and a row a line, with columns apart by commas or tabs.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use serde_json::{Map, Value};

use super::{Content, LONGEST_ROW, Record, Stream, Take};
use crate::data::DataError;
use crate::data::error::Result;

/// Columns whose cells are JSON when they look like it.
const STRUCTURED: [&str; 7] =
    ["input_ids", "labels", "loss_weights", "messages", "conversations", "tools", "documents"];
/// Columns whose cells are numbers.
const NUMBERS: [&str; 1] = ["loss_weight"];
/// Columns whose cells are text, or lists of messages.
const CONVERSATIONAL: [&str; 2] = ["prompt", "completion"];

/// Rows with the heading's names for keys. An empty cell is no value.
pub(super) fn read(stream: Stream, delimiter: u8, take: Take<'_>) -> Result<()> {
    let (file, position) = (stream.file.clone(), stream.read.clone());
    let allowance = Rc::new(Cell::new(LONGEST_ROW));
    let bytes = Allowed { bytes: stream.bytes, allowance: allowance.clone() };
    let mut table = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(bytes);
    let fault = |error: csv::Error, line: usize| -> crate::data::error::DataError {
        let at = crate::data::Source { file: file.shown.clone(), line };
        match error.kind() {
            csv::ErrorKind::Io(reason) if reason.kind() == io::ErrorKind::FileTooLarge => {
                DataError::RowTooLong { at, most: LONGEST_ROW }
            }
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                DataError::CellCount { at, found: *len, expected: *expected_len }
            }
            csv::ErrorKind::Utf8 { .. } => DataError::NotText { at },
            _ => DataError::Unreadable { path: file.shown.to_path_buf(), reason: error.to_string() },
        }
    };
    let heading = table.headers().map_err(|error| fault(error, 1))?.clone();
    let mut record = csv::StringRecord::new();
    let mut line = 2;
    loop {
        allowance.set(LONGEST_ROW);
        let line_of = |error: &csv::Error| error.position().map(|at| at.line() as usize);
        let more = match table.read_record(&mut record) {
            Ok(more) => more,
            Err(error) => {
                let line = line_of(&error).unwrap_or(line);
                return Err(fault(error, line));
            }
        };
        if !more {
            return Ok(());
        }
        line = record.position().map_or(line, |at| at.line() as usize);
        let cells = heading.iter().zip(record.iter()).filter(|(_, cell)| !cell.is_empty());
        let fields: Map<String, Value> =
            cells.map(|(name, cell)| (name.trim().to_owned(), value(name.trim(), cell))).collect();
        if !fields.is_empty() {
            take(Record { line, content: Content::Fields(fields) }, position.get())?;
        }
        line += 1;
    }
}

/// A cell's value: text, but for lists and numbers in the columns that hold some.
fn value(name: &str, cell: &str) -> Value {
    if NUMBERS.contains(&name) {
        // what is no number is told by whoever reads the row
        return serde_json::from_str(cell).ok().filter(Value::is_number).unwrap_or_else(|| cell.into());
    }
    let structured = STRUCTURED.contains(&name);
    if !(structured || CONVERSATIONAL.contains(&name)) || !cell.trim_start().starts_with(['[', '{']) {
        return cell.into();
    }
    match serde_json::from_str(cell) {
        Ok(Value::Array(items)) if structured || items.iter().all(Value::is_object) => Value::Array(items),
        Ok(object @ Value::Object(_)) if structured => object,
        _ => cell.into(),
    }
}

/// A reader that stops when a row, which may go over many lines, takes more than it may.
struct Allowed<R> {
    bytes: R,
    allowance: Rc<Cell<usize>>,
}

impl<R: Read> Read for Allowed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        // what is read ahead belongs to the next rows, and is less than a buffer
        let left = self.allowance.get().checked_sub(count);
        self.allowance.set(left.ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?);
        Ok(count)
    }
}
