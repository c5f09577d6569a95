//! What of a batch does not depend on the trained rows, kept from one step to the next.
//!
//! Kept are the keys and values of constant rows in every block, where later rows see them, and of each example's constant
//! labelled rows the final hidden state and the frozen part of the loss. Rows that several examples begin with are kept once.
//! A step that finds rows here does not compute them. The numbers are kept as they were, so a run with the cache is a run
//! without it.

use crate::error::{EngineError, Result};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Where constants are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheLocation {
    /// In memory.
    Memory,
    /// In a temporary file in this folder, which must exist; it is gone when the run ends, however it ends.
    Folder(PathBuf),
}

/// Whether and how constants are kept between steps.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheConstants {
    /// Where.
    pub location: CacheLocation,
    /// At most so many bytes; what no longer fits is computed anew whenever it is needed.
    pub limit: u64,
    /// Kept is only what several examples begin with.
    pub shared_only: bool,
}

impl CacheConstants {
    /// All constants are kept, at most `limit` bytes of them.
    pub fn new(location: CacheLocation, limit: u64) -> Self {
        CacheConstants { location, limit, shared_only: false }
    }

    /// Kept is only what several examples begin with, at most `limit` bytes of it.
    pub fn of_shared(location: CacheLocation, limit: u64) -> Self {
        CacheConstants { location, limit, shared_only: true }
    }
}

/// What numbers are kept under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// Keys and values of a segment's constant rows, block by block, each `[rows, width]`.
    Segment(u32),
    /// Those of the constant rows that an example has for itself.
    Own(usize),
    /// What does not change of the losses of an example's constant rows: `[labels, d + 2]`, of each its row after the final
    /// norm, then the frozen part of its loss.
    Labels(usize),
}

/// Constants by what they belong to.
#[derive(Debug)]
pub struct ConstantCache {
    store: Store,
    limit: u64,
    shared_only: bool,
    used: u64,
    /// Why no more is kept, when the file could not be written.
    ended: Option<String>,
}

#[derive(Debug)]
enum Store {
    Memory(HashMap<Key, Vec<f32>>),
    /// Where each lies in the file: its start and its floats.
    File {
        file: File,
        folder: PathBuf,
        places: HashMap<Key, (u64, usize)>,
    },
}

impl ConstantCache {
    /// An empty cache.
    ///
    /// # Errors
    /// No file can be made in the folder.
    pub fn new(settings: &CacheConstants) -> Result<Self> {
        let store = match &settings.location {
            CacheLocation::Memory => Store::Memory(HashMap::new()),
            CacheLocation::Folder(folder) => {
                let file = tempfile::tempfile_in(folder).map_err(EngineError::io(folder))?;
                Store::File { file, folder: folder.clone(), places: HashMap::new() }
            }
        };
        let (limit, shared_only) = (settings.limit, settings.shared_only);
        Ok(Self { store, limit, shared_only, used: 0, ended: None })
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> u64 {
        self.used
    }

    /// How many runs of rows, and lists of labels, are kept.
    pub fn len(&self) -> usize {
        match &self.store {
            Store::Memory(kept) => kept.len(),
            Store::File { places, .. } => places.len(),
        }
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn contains(&self, key: Key) -> bool {
        match &self.store {
            Store::Memory(kept) => kept.contains_key(&key),
            Store::File { places, .. } => places.contains_key(&key),
        }
    }

    /// Whether `floats` under `key` would be kept, beside `others` that are to be kept too.
    pub(crate) fn takes(&self, key: Key, floats: usize, others: usize) -> bool {
        let wanted = !self.shared_only || matches!(key, Key::Segment(_));
        wanted && self.ended.is_none() && self.used + bytes(floats + others) <= self.limit
    }

    /// Why no more is kept, told once.
    pub fn take_ending(&mut self) -> Option<String> {
        self.ended.take_if(|reason| !reason.is_empty()).inspect(|_| self.ended = Some(String::new()))
    }

    /// What is kept under a key.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn get(&self, key: Key) -> Result<Option<Cow<'_, [f32]>>> {
        match &self.store {
            Store::Memory(kept) => Ok(kept.get(&key).map(|floats| Cow::Borrowed(&floats[..]))),
            Store::File { file, folder, places } => {
                let Some(&(start, floats)) = places.get(&key) else { return Ok(None) };
                read(file, start, floats)
                    .map(|floats| Some(Cow::Owned(floats)))
                    .map_err(EngineError::io(folder))
            }
        }
    }

    /// Keeps floats, if there is room. A file that cannot be written, on a full disk, say, ends the cache and nothing else:
    /// what is in it stays, and the rest is computed anew.
    pub(crate) fn insert(&mut self, key: Key, floats: Vec<f32>) {
        if self.contains(key) || !self.takes(key, floats.len(), 0) {
            return;
        }
        let (start, size) = (self.used, bytes(floats.len()));
        match &mut self.store {
            Store::Memory(kept) => {
                kept.insert(key, floats);
            }
            Store::File { file, folder, places } => {
                if let Err(error) = write(file, start, &floats) {
                    self.ended = Some(format!("{}: {error}", folder.display()));
                    return;
                }
                places.insert(key, (start, floats.len()));
            }
        }
        self.used += size;
    }
}

fn bytes(floats: usize) -> u64 {
    (floats * size_of::<f32>()) as u64
}

fn write(mut file: &File, start: u64, floats: &[f32]) -> std::io::Result<()> {
    use std::io::{BufWriter, Seek, SeekFrom, Write};
    file.seek(SeekFrom::Start(start))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    for x in floats {
        out.write_all(&x.to_le_bytes())?;
    }
    out.flush()
}

fn read(mut file: &File, start: u64, floats: usize) -> std::io::Result<Vec<f32>> {
    use std::io::{Read, Seek, SeekFrom};
    file.seek(SeekFrom::Start(start))?;
    let mut stored = vec![0u8; floats * size_of::<f32>()];
    file.read_exact(&mut stored)?;
    Ok(stored.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// A cache with the example that each sequence of a batch is.
#[derive(Debug)]
pub struct CachedExamples<'a> {
    /// The cache.
    pub cache: &'a mut ConstantCache,
    /// Which example each sequence of the batch is.
    pub examples: &'a [usize],
}

/// Checks that a folder can hold the file of a cache; for a message before a run begins.
///
/// # Errors
/// It is no folder.
pub fn check_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let (name, expected) = ("cache_constants", "RAM or a folder that exists");
    Err(EngineError::Argument { name, expected, found: folder.display().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(location: CacheLocation, limit: u64) -> CacheConstants {
        CacheConstants { location, limit, shared_only: false }
    }

    #[test]
    fn what_is_kept_comes_back_the_same_until_the_room_is_used_up() {
        let folder = tempfile::tempdir().expect("a folder");
        for location in [CacheLocation::Memory, CacheLocation::Folder(folder.path().into())] {
            let floats = |seed: f32| -> Vec<f32> { (0..24).map(|i| seed + i as f32).collect() };
            let mut cache = ConstantCache::new(&settings(location, 2 * bytes(24))).expect("a cache");
            assert!(cache.is_empty() && !cache.contains(Key::Own(7)));
            cache.insert(Key::Own(7), floats(1.0));
            cache.insert(Key::Labels(7), floats(2.0));
            cache.insert(Key::Segment(7), floats(3.0));
            assert_eq!((cache.len(), cache.bytes()), (2, 2 * bytes(24)));
            assert!(!cache.contains(Key::Segment(7)) && !cache.takes(Key::Own(1), 1, 0));
            assert_eq!(cache.get(Key::Labels(7)).expect("read").expect("there"), floats(2.0));
            assert_eq!(cache.get(Key::Own(7)).expect("read").expect("there"), floats(1.0));
            assert!(cache.get(Key::Segment(7)).expect("read").is_none());
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "the file has no name");
    }

    #[test]
    fn what_one_example_has_for_itself_can_be_left_out() {
        let settings = CacheConstants { shared_only: true, ..settings(CacheLocation::Memory, 1 << 20) };
        let mut cache = ConstantCache::new(&settings).expect("a cache");
        for key in [Key::Own(1), Key::Labels(1), Key::Segment(1)] {
            cache.insert(key, vec![1.0]);
        }
        assert!(cache.len() == 1 && cache.contains(Key::Segment(1)));
    }

    #[test]
    fn a_folder_that_is_none_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("written");
        for path in [file, folder.path().join("missing")] {
            let message = check_folder(&path).expect_err("no folder").to_string();
            assert!(message.contains(&*path.to_string_lossy()), "{message}");
        }
        assert!(check_folder(folder.path()).is_ok());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_ends_the_cache_and_nothing_else() {
        let file =
            File::options().read(true).write(true).open("/dev/full").expect("a device that is always full");
        let store = Store::File { file, folder: PathBuf::from("/dev/full"), places: HashMap::new() };
        let mut cache = ConstantCache { store, limit: 1 << 20, shared_only: false, used: 0, ended: None };
        cache.insert(Key::Own(1), vec![1.0; 8]);
        assert!(cache.is_empty() && !cache.takes(Key::Own(1), 1, 0) && cache.bytes() == 0);
        let reason = cache.take_ending().expect("told");
        assert!(reason.starts_with("/dev/full: No space left"), "{reason}");
        assert_eq!(cache.take_ending(), None, "told once");
        assert!(!cache.takes(Key::Own(1), 1, 0));
        assert!(cache.get(Key::Own(1)).expect("no fault").is_none());
    }
}
