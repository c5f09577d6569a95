//! Reading little-endian values off the front of a GGUF file, each checked against the bytes that are left.

use crate::{Result, WeightsError};
use std::path::Path;

/// A position in the file, and what is being read there for the messages.
pub(super) struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    what: String,
}

impl<'a> Reader<'a> {
    pub fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, at: 0, what: String::new() }
    }

    /// The file's name.
    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.at as u64
    }

    /// Says what is read from here on.
    pub fn enter(&mut self, what: impl FnOnce() -> String) {
        self.what = what();
    }

    /// What is being read.
    pub fn what(&self) -> String {
        self.what.clone()
    }

    fn left(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    fn truncated(&self, needed: u64) -> WeightsError {
        let (path, available) = (self.path.to_path_buf(), self.left().len() as u64);
        WeightsError::Truncated { path, what: self.what(), needed, available }
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let taken = usize::try_from(count).ok().and_then(|count| self.left().get(..count));
        let taken = taken.ok_or_else(|| self.truncated(count))?;
        self.at += taken.len();
        Ok(taken)
    }

    /// The next `N` bytes.
    pub fn chunk<const N: usize>(&mut self) -> Result<[u8; N]> {
        let chunk = self.left().first_chunk::<N>().ok_or_else(|| self.truncated(N as u64))?;
        self.at += N;
        Ok(*chunk)
    }

    /// `count` values of `N` bytes each.
    pub fn chunks<const N: usize>(&mut self, count: u64) -> Result<&'a [[u8; N]]> {
        Ok(self.take(count.saturating_mul(N as u64))?.as_chunks().0)
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.chunk().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64> {
        self.chunk().map(u64::from_le_bytes)
    }

    /// A truth value: 0 or 1.
    pub fn truth(&self, byte: u8) -> Result<bool> {
        match byte {
            0 => Ok(false),
            1 => Ok(true),
            found => {
                Err(WeightsError::MetadataBool { path: self.path.to_path_buf(), what: self.what(), found })
            }
        }
    }

    /// Refuses a number of things that, at `least` bytes each, cannot be in what is left: before anything is
    /// allocated for them.
    pub fn check_count(&self, count: u64, least: u64) -> Result<usize> {
        let needed = count.saturating_mul(least);
        if needed > self.left().len() as u64 {
            return Err(self.truncated(needed));
        }
        usize::try_from(count).map_err(|_| self.truncated(needed))
    }

    /// A key or a tensor's name, which must be text.
    pub fn name(&mut self) -> Result<String> {
        let length = self.u64()?;
        let bytes = self.take(length)?;
        match std::str::from_utf8(bytes) {
            Ok(name) => Ok(name.to_owned()),
            Err(_) => Err(WeightsError::NotUtf8 { path: self.path.to_path_buf(), what: self.what() }),
        }
    }

    /// A string value. Files with stray bytes in one are in circulation and of use, so those bytes become
    /// U+FFFD.
    pub fn text(&mut self) -> Result<String> {
        let length = self.u64()?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }
}
