//! The zip archive that `torch.save` writes: where each of its files lies.
//!
//! torch stores files as they are, without compression, so that a tensor can be mapped where it lies; a file that
//! is compressed all the same is refused when it is asked for. Checksums are not compared: weights are mapped, not
//! read through.

use super::Bytes;
use crate::{Result, WeightsError};
use std::collections::HashMap;
use std::path::Path;

/// What ends the archive, before a comment: `PK\5\6` and 18 bytes more.
const END: &[u8; 4] = b"PK\x05\x06";
const END_BYTES: usize = 22;
/// The longest comment behind it.
const MAX_COMMENT: usize = u16::MAX as usize;
/// Before the end, where numbers of four bytes do not do: where the end with longer numbers lies.
const LOCATOR: &[u8; 4] = b"PK\x06\x07";
const LOCATOR_BYTES: usize = 20;
const LONG_END: &[u8; 4] = b"PK\x06\x06";
/// An entry of the directory: this and 42 bytes more, then name, extra fields and comment.
const ENTRY: &[u8; 4] = b"PK\x01\x02";
const ENTRY_BYTES: usize = 46;
/// What lies before a file's bytes: this and 26 bytes more, then name and extra fields.
const LOCAL: &[u8; 4] = b"PK\x03\x04";
const LOCAL_BYTES: usize = 30;
/// The extra field with numbers of eight bytes.
const LONG_FIELD: u16 = 1;

/// A zip archive, mapped or in memory.
pub(super) struct Archive<'a> {
    path: &'a Path,
    bytes: &'a Bytes,
    files: HashMap<&'a str, Listed>,
}

/// What the directory says of a file.
#[derive(Clone, Copy)]
struct Listed {
    flags: u16,
    method: u16,
    packed: u64,
    size: u64,
    header: u64,
}

impl<'a> Archive<'a> {
    /// Reads the directory.
    ///
    /// # Errors
    /// It is damaged, or names a file twice.
    pub fn read(path: &'a Path, bytes: &'a Bytes) -> Result<Self> {
        let mut archive = Self { path, bytes, files: HashMap::new() };
        let (start, length) = archive.directory()?;
        let mut rest = archive.range("the directory", start, length)?;
        while !rest.is_empty() {
            rest = archive.entry(rest)?;
        }
        Ok(archive)
    }

    /// The names of all files, in no order.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.files.keys().copied()
    }

    /// The bytes of a file; `None` when there is none of this name.
    ///
    /// # Errors
    /// It is compressed or encrypted, or lies outside of the archive.
    pub fn file(&self, name: &str) -> Result<Option<Bytes>> {
        let Some(file) = self.files.get(name) else { return Ok(None) };
        if file.method != 0 || file.flags & 1 != 0 || file.packed != file.size {
            let how = if file.flags & 1 != 0 { "encrypted" } else { "compressed" };
            return Err(
                self.fault(format!("'{name}' is {how}; files stored as they are, as torch does, are read"))
            );
        }
        let header = self.range(name, file.header, LOCAL_BYTES as u64)?;
        if !header.starts_with(LOCAL) {
            return Err(self.fault(format!("there is no header of '{name}' at byte {}", file.header)));
        }
        // at most 2^18 behind a header that lies inside: no overflow
        let start =
            file.header + LOCAL_BYTES as u64 + u64::from(u16_at(header, 26)) + u64::from(u16_at(header, 28));
        self.range(name, start, file.size)?;
        let start = start as usize;
        Ok(self.bytes.slice(start..start + file.size as usize))
    }

    pub fn fault(&self, problem: impl Into<String>) -> WeightsError {
        WeightsError::PytorchArchive { path: self.path.to_path_buf(), problem: problem.into() }
    }

    /// `length` bytes from `start` on.
    fn range(&self, what: &str, start: u64, length: u64) -> Result<&'a [u8]> {
        let end = start.checked_add(length).and_then(|end| usize::try_from(end).ok());
        end.and_then(|end| self.bytes.get(start as usize..end)).ok_or_else(|| WeightsError::Truncated {
            path: self.path.to_path_buf(),
            what: format!("{what} at byte {start}"),
            needed: length,
            available: (self.bytes.len() as u64).saturating_sub(start),
        })
    }

    /// Where the directory lies: its first byte and its length.
    fn directory(&self) -> Result<(u64, u64)> {
        let bytes: &'a [u8] = self.bytes;
        let first = bytes.len().saturating_sub(END_BYTES + MAX_COMMENT);
        let place = bytes[first..].windows(END_BYTES).rposition(|window| window.starts_with(END));
        let Some(place) = place.map(|place| first + place) else {
            return Err(self.fault("the directory at the end is missing: the file is cut short or damaged"));
        };
        let end = &bytes[place..];
        let short = (u64::from(u32_at(end, 16)), u64::from(u32_at(end, 12)));
        let locator = place.checked_sub(LOCATOR_BYTES).map(|start| &bytes[start..place]);
        let Some(locator) = locator.filter(|locator| locator.starts_with(LOCATOR)) else { return Ok(short) };
        let long = self.range("the end of the directory", u64_at(locator, 8), 56)?;
        if !long.starts_with(LONG_END) {
            return Err(
                self.fault(format!("there is no end of the directory at byte {}", u64_at(locator, 8)))
            );
        }
        Ok((u64_at(long, 48), u64_at(long, 40)))
    }

    /// Takes the first entry of what is left of the directory; what is left behind it.
    fn entry(&mut self, rest: &'a [u8]) -> Result<&'a [u8]> {
        if rest.len() < ENTRY_BYTES || !rest.starts_with(ENTRY) {
            return Err(self.fault(format!("entry {} of the directory is damaged", self.files.len())));
        }
        let parts = [28, 30, 32].map(|at| usize::from(u16_at(rest, at)));
        let (fixed, tail) = rest.split_at(ENTRY_BYTES);
        let (Some(name), Some(extra), Some(rest)) =
            (tail.get(..parts[0]), tail.get(parts[0]..parts[0] + parts[1]), tail.get(parts.iter().sum()..))
        else {
            return Err(self.fault(format!("entry {} of the directory is cut short", self.files.len())));
        };
        let what = || format!("the name of entry {} of the directory", self.files.len());
        let name = std::str::from_utf8(name)
            .map_err(|_| WeightsError::NotUtf8 { path: self.path.to_path_buf(), what: what() })?;
        let mut file = Listed {
            flags: u16_at(fixed, 8),
            method: u16_at(fixed, 10),
            packed: u32_at(fixed, 20).into(),
            size: u32_at(fixed, 24).into(),
            header: u32_at(fixed, 42).into(),
        };
        let mut long = long_numbers(extra);
        for number in [&mut file.size, &mut file.packed, &mut file.header] {
            if *number == u64::from(u32::MAX) {
                *number =
                    long.next().ok_or_else(|| self.fault(format!("the sizes of '{name}' are missing")))?;
            }
        }
        if self.files.insert(name, file).is_some() {
            return Err(self.fault(format!("'{name}' is there twice")));
        }
        Ok(rest)
    }
}

/// The numbers of eight bytes among the extra fields of an entry.
fn long_numbers(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    let mut numbers: &[u8] = &[];
    while extra.len() >= 4 {
        let (kind, length) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let Some(field) = extra.get(4..4 + length) else { break };
        if kind == LONG_FIELD {
            numbers = field;
        }
        extra = &extra[4 + length..];
    }
    numbers.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
}

/// A number of two bytes; the caller has seen that they are there.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
