//! Ranges of bytes that are cheap to hand around, in a mapped file, in memory, or in memory that somebody else owns.
//!
//! Owns the mapping and its lifetime; knows nothing of what the bytes mean.

use crate::{Result, WeightsError};
use memmap2::Mmap;
use std::fmt;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

/// What holds memory that is not this library's: a tensor of another program's, an arena.
///
/// It must give the same bytes whenever it is asked, for as long as it lives, and nobody may change them meanwhile: a
/// matrix checks its shape once.
pub type Owner = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A range of bytes of a mapped file or of memory. Clones and sub-ranges share the same source.
#[derive(Clone)]
pub struct Bytes {
    source: Arc<Source>,
    range: Range<usize>,
}

enum Source {
    Mapped(Mmap),
    Owned(Vec<u8>),
    Borrowed(Owner),
}

impl Source {
    fn bytes(&self) -> &[u8] {
        match self {
            Source::Mapped(map) => map,
            Source::Owned(bytes) => bytes,
            Source::Borrowed(owner) => (**owner).as_ref(),
        }
    }
}

impl Bytes {
    /// Maps a whole file, read-only.
    ///
    /// The file must stay as it is for as long as the mapping lives: a program that shortens it meanwhile
    /// makes the system end this one at the next access. Replacing it by a rename, as
    /// [`write_atomically`](crate::write_atomically) does, is harmless.
    ///
    /// # Errors
    /// The file cannot be opened or mapped.
    pub fn map(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(WeightsError::io(path))?;
        // SAFETY: the mapping is read-only and only ever seen as bytes, of which every value is valid. That
        // nothing writes to the file meanwhile cannot be ensured by any program; the contract is stated
        // above, as every reader of mapped checkpoints has it.
        let map = unsafe { Mmap::map(&file) }.map_err(WeightsError::io(path))?;
        Ok(Self { range: 0..map.len(), source: Arc::new(Source::Mapped(map)) })
    }

    /// Bytes held in memory.
    pub fn owned(bytes: Vec<u8>) -> Self {
        Self { range: 0..bytes.len(), source: Arc::new(Source::Owned(bytes)) }
    }

    /// All bytes of an owner, which lives as long as they are used.
    pub fn borrowed(owner: Owner) -> Self {
        Self { range: 0..(*owner).as_ref().len(), source: Arc::new(Source::Borrowed(owner)) }
    }

    /// A part of these bytes; `None` when the range is reversed or reaches outside.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.len() {
            return None;
        }
        let start = self.range.start;
        Some(Self { source: self.source.clone(), range: start + range.start..start + range.end })
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.source.bytes()[self.range.clone()]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_file_and_of_memory_are_the_same() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("data");
        std::fs::write(&path, b"0123456789").expect("a written file");
        let sources = [
            Bytes::map(&path).expect("a mapped file"),
            Bytes::owned(b"0123456789".to_vec()),
            Bytes::borrowed(Arc::new("0123456789".to_owned())),
        ];
        for bytes in sources {
            let part = bytes.slice(2..8).expect("a range inside");
            assert_eq!(&*part, b"234567");
            assert_eq!(&*part.slice(1..3).expect("a range inside"), b"34");
            assert_eq!(&*part.slice(6..6).expect("an empty range"), b"");
            assert!(part.slice(3..7).is_none() && bytes.slice(0..11).is_none());
            #[expect(clippy::reversed_empty_ranges, reason = "what is tested")]
            let reversed = bytes.slice(3..2);
            assert!(reversed.is_none());
            drop(bytes);
            assert_eq!(&*part, b"234567", "a part outlives the whole");
        }
    }

    #[test]
    fn an_empty_file_and_a_missing_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("empty");
        std::fs::write(&path, b"").expect("a written file");
        assert!(Bytes::map(&path).expect("a mapped file").is_empty());
        let message = Bytes::map(&folder.path().join("none")).expect_err("no such file").to_string();
        assert!(message.contains("none"), "{message}");
    }
}
