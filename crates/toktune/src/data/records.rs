//! Files to records: the rows of a file one after the other, each within a bound, none of them understood yet.
//!
//! A file is never held whole, packed or not. What a record means is told in [`super::row`].

mod array;
#[cfg(feature = "parquet")]
mod columns;
mod lines;
mod table;

use crate::weights::WeightsError;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::files::{Compression, DataFile, Format};
use super::{RowKeys, SampleBy, Source};
use crate::data::error::{DataError, Result};

/// The bytes of one row: a text of a million tokens. A tokenizer takes some 140 bytes of memory for each while it works.
pub(super) const LONGEST_ROW: usize = 4 << 20;
/// What is read of a file at a time.
const BUFFER: usize = 256 << 10;
/// Editors on Windows put a byte order mark before the first line.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A row as its file has it.
#[derive(Debug, PartialEq)]
pub(super) struct Record {
    /// The line that it begins on, or its number in a file without lines; from 1.
    pub line: usize,
    pub content: Content,
}

#[derive(Debug, PartialEq)]
pub(super) enum Content {
    /// Text that should be an object of JSON.
    Json(Vec<u8>),
    /// Columns by their names.
    Fields(Map<String, Value>),
    /// A text alone.
    Text(Vec<u8>),
    /// A part of one with what stands beside it; the bytes of the part itself are told.
    Part(Vec<u8>, Range<usize>),
}

impl Record {
    /// Bytes that it holds, nearly.
    pub fn size(&self) -> usize {
        match &self.content {
            Content::Json(bytes) | Content::Text(bytes) | Content::Part(bytes, _) => bytes.len(),
            Content::Fields(fields) => {
                fields.iter().map(|(key, value)| key.len() + size_of_value(value)).sum()
            }
        }
    }
}

fn size_of_value(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size_of_value).sum::<usize>() + 8,
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + size_of_value(value)).sum(),
        _ => 8,
    }
}

/// What decides how a file falls into records.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordOptions<'o> {
    pub sample_by: SampleBy,
    /// The keys that rows are known by beside the usual ones: of a table with many columns, only these are read.
    pub keys: &'o RowKeys,
    /// Whether a longer text comes in parts; else it is an error.
    pub cuts: bool,
}

/// Where a record goes, with the bytes of the file that were read by then.
type Take<'t> = &'t mut dyn FnMut(Record, u64) -> Result<()>;

/// Calls `take` with each record of a file.
pub(super) fn read_records(file: &DataFile, options: RecordOptions<'_>, take: Take<'_>) -> Result<()> {
    let opened = File::open(&file.path).map_err(WeightsError::io(&*file.shown))?;
    match file.format {
        #[cfg(feature = "parquet")]
        Format::Parquet | Format::Arrow => columns::read(file, opened, options.keys, take),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet | Format::Arrow => {
            let reason = "this toktune was built without the feature `parquet`".to_owned();
            Err(DataError::Unreadable { path: file.shown.to_path_buf(), reason }.into())
        }
        format => {
            let mut stream = Stream::open(file, opened)?;
            match format {
                Format::Separated(delimiter) => table::read(stream, delimiter, take),
                Format::Text => lines::read_text(&mut stream, options, take),
                _ if stream.skip_to_first()? == Some(b'[') => array::read(&mut stream, take),
                _ => lines::read_json(&mut stream, take),
            }
        }
    }
}

/// The unpacked bytes of a file, with what messages need of it.
pub(super) struct Stream {
    bytes: BufReader<Box<dyn Read>>,
    file: DataFile,
    /// Bytes of the file itself, packed ones where it is packed.
    read: Rc<Cell<u64>>,
    /// The line of the next byte, from 1.
    line: usize,
}

/// Counts what is read of a file.
struct Counted {
    file: File,
    read: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

impl Stream {
    fn open(file: &DataFile, opened: File) -> Result<Self> {
        let read = Rc::new(Cell::new(0));
        let counted = Counted { file: opened, read: read.clone() };
        let bytes: Box<dyn Read> = match file.compression {
            Compression::None => Box::new(counted),
            Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(counted)),
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::new(counted).map_err(WeightsError::io(&*file.shown))?;
                // a header may ask for a window of two gigabytes; zstd's own tools stop at 128 MB
                decoder.window_log_max(27).map_err(WeightsError::io(&*file.shown))?;
                Box::new(decoder)
            }
        };
        let mut stream =
            Stream { bytes: BufReader::with_capacity(BUFFER, bytes), file: file.clone(), read, line: 1 };
        if stream.fill()?.starts_with(BYTE_ORDER_MARK) {
            stream.bytes.consume(BYTE_ORDER_MARK.len());
        }
        Ok(stream)
    }

    fn at(&self, line: usize) -> Source {
        Source { file: self.file.shown.clone(), line }
    }

    /// Bytes of the file that were read.
    fn position(&self) -> u64 {
        self.read.get()
    }

    /// What is read and not taken yet; empty at the end.
    fn fill(&mut self) -> Result<&[u8]> {
        let (file, packed) = (&self.file.shown, self.file.compression != Compression::None);
        self.bytes.fill_buf().map_err(|error| match packed {
            // the system's own errors speak for themselves, and those of an unpacker are about the file
            true if error.raw_os_error().is_none() => {
                DataError::Unreadable { path: file.to_path_buf(), reason: error.to_string() }
            }
            _ => WeightsError::io(&**file)(error).into(),
        })
    }

    /// Skips blanks; the byte that follows.
    fn skip_to_first(&mut self) -> Result<Option<u8>> {
        loop {
            let ahead = self.fill()?;
            let Some(first) = ahead.first() else { return Ok(None) };
            let blanks = ahead.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            if blanks == 0 {
                return Ok(Some(*first));
            }
            let lines = memchr::memchr_iter(b'\n', &ahead[..blanks]).count();
            self.line += lines;
            self.bytes.consume(blanks);
        }
    }

    /// Adds the rest of the line to `row`, its end left out; `false` at the end of the file.
    fn read_line(&mut self, row: &mut Vec<u8>) -> Result<bool> {
        let line = self.line;
        self.read_line_up_to(row, LONGEST_ROW)?.ok_or_else(|| self.too_long(line))
    }

    /// The same for a row of `most` bytes; nothing when it has so many and its line goes on.
    fn read_line_up_to(&mut self, row: &mut Vec<u8>, most: usize) -> Result<Option<bool>> {
        let before = row.len();
        let mut any = false;
        loop {
            let ahead = self.fill()?;
            if ahead.is_empty() {
                break;
            }
            any = true;
            let end = memchr::memchr(b'\n', ahead);
            let part = &ahead[..end.unwrap_or(ahead.len())];
            let room = most.saturating_sub(row.len());
            if part.len() > room {
                row.extend_from_slice(&part[..room]);
                self.bytes.consume(room);
                return Ok(None);
            }
            row.extend_from_slice(part);
            let taken = part.len() + usize::from(end.is_some());
            self.bytes.consume(taken);
            if end.is_some() {
                self.line += 1;
                break;
            }
        }
        if row.len() > before && row.last() == Some(&b'\r') {
            row.pop();
        }
        Ok(Some(any))
    }

    fn too_long(&self, line: usize) -> DataError {
        DataError::RowTooLong { at: self.at(line), most: LONGEST_ROW }
    }
}

#[cfg(test)]
mod tests;
