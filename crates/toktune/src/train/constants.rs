//! What of a sequence does not depend on the trained rows, kept from one epoch to the next.
//!
//! For every example that has been seen: the keys and values of its constant rows in every block, where later rows need
//! them, and the final hidden state and frozen part of the loss of its constant labelled rows. A step that finds an example
//! here does not compute its constant rows. The numbers are kept as they were, so a run with the cache is a run without it.

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use toktune_kernels::cross_entropy::FrozenPart;

/// Where constants are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheLocation {
    /// In memory.
    Memory,
    /// In a temporary file in this folder, which must exist; it is gone when the run ends, however it ends.
    Folder(PathBuf),
}

/// Whether and how constants are kept between epochs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConstants {
    /// Where.
    pub location: CacheLocation,
    /// At most so many bytes; examples that no longer fit are computed anew in every epoch.
    pub limit: u64,
}

/// The constants of one example.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Constants {
    /// Keys and values of the constant rows, `[blocks, 2, rows, kv_heads * head_dim]`; empty when no row depends.
    pub(super) key_values: Vec<f32>,
    /// The constant labelled rows after the final norm, `[labelled, d]`.
    pub(super) hidden: Vec<f32>,
    /// What of their loss does not change.
    pub(super) frozen: Vec<FrozenPart>,
}

/// Constants by example.
#[derive(Debug)]
pub struct ConstantCache {
    store: Store,
    limit: u64,
    used: u64,
    /// Why no more is kept, when the file could not be written.
    ended: Option<String>,
}

#[derive(Debug)]
enum Store {
    Memory(HashMap<usize, Constants>),
    File { file: File, folder: PathBuf, places: HashMap<usize, Place> },
}

/// Where an example lies in the file: its start, and the floats of its three parts.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u64,
    key_values: usize,
    hidden: usize,
    labelled: usize,
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
                let file = tempfile::tempfile_in(folder).map_err(Error::io(folder))?;
                Store::File { file, folder: folder.clone(), places: HashMap::new() }
            }
        };
        Ok(Self { store, limit: settings.limit, used: 0, ended: None })
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> u64 {
        self.used
    }

    /// Examples that are kept.
    pub fn len(&self) -> usize {
        match &self.store {
            Store::Memory(examples) => examples.len(),
            Store::File { places, .. } => places.len(),
        }
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn contains(&self, example: usize) -> bool {
        match &self.store {
            Store::Memory(examples) => examples.contains_key(&example),
            Store::File { places, .. } => places.contains_key(&example),
        }
    }

    /// Whether `floats` more would fit.
    pub(super) fn has_room(&self, floats: usize) -> bool {
        self.ended.is_none() && self.used + bytes(floats) <= self.limit
    }

    /// Why no more is kept, told once.
    pub(super) fn take_ending(&mut self) -> Option<String> {
        self.ended.take_if(|reason| !reason.is_empty()).inspect(|_| self.ended = Some(String::new()))
    }

    /// The constants of an example that is there.
    pub(super) fn get(&self, example: usize) -> Result<Option<std::borrow::Cow<'_, Constants>>> {
        use std::borrow::Cow;
        match &self.store {
            Store::Memory(examples) => Ok(examples.get(&example).map(Cow::Borrowed)),
            Store::File { file, folder, places } => {
                let Some(place) = places.get(&example) else { return Ok(None) };
                read(file, place).map(|constants| Some(Cow::Owned(constants))).map_err(Error::io(folder))
            }
        }
    }

    /// Keeps the constants of an example, if there is room. A file that cannot be written, on a full disk, say, ends the
    /// cache and nothing else: what is in it stays, and the rest is computed anew in every epoch.
    pub(super) fn insert(&mut self, example: usize, constants: Constants) {
        let floats = constants.key_values.len() + constants.hidden.len() + 2 * constants.frozen.len();
        if self.contains(example) || !self.has_room(floats) {
            return;
        }
        let start = self.used;
        match &mut self.store {
            Store::Memory(examples) => {
                examples.insert(example, constants);
            }
            Store::File { file, folder, places } => {
                if let Err(error) = write(file, start, &constants) {
                    self.ended = Some(format!("{}: {error}", folder.display()));
                    return;
                }
                let Constants { key_values, hidden, frozen } = constants;
                let (key_values, hidden, labelled) = (key_values.len(), hidden.len(), frozen.len());
                places.insert(example, Place { start, key_values, hidden, labelled });
            }
        }
        self.used += bytes(floats);
    }
}

fn bytes(floats: usize) -> u64 {
    (floats * size_of::<f32>()) as u64
}

fn write(mut file: &File, start: u64, constants: &Constants) -> std::io::Result<()> {
    use std::io::{BufWriter, Seek, SeekFrom, Write};
    file.seek(SeekFrom::Start(start))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let frozen = constants.frozen.iter().flat_map(|part| [part.lse, part.target]);
    for x in constants.key_values.iter().chain(&constants.hidden).copied().chain(frozen) {
        out.write_all(&x.to_le_bytes())?;
    }
    out.flush()
}

fn read(mut file: &File, place: &Place) -> std::io::Result<Constants> {
    use std::io::{Read, Seek, SeekFrom};
    file.seek(SeekFrom::Start(place.start))?;
    let mut stored = vec![0u8; (place.key_values + place.hidden + 2 * place.labelled) * size_of::<f32>()];
    file.read_exact(&mut stored)?;
    let mut floats = stored.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
    let key_values = floats.by_ref().take(place.key_values).collect();
    let hidden = floats.by_ref().take(place.hidden).collect();
    let rest: Vec<f32> = floats.collect();
    let frozen =
        rest.as_chunks::<2>().0.iter().map(|[lse, target]| FrozenPart { lse: *lse, target: *target });
    Ok(Constants { key_values, hidden, frozen: frozen.collect() })
}

/// A cache with the example that each sequence of a batch is.
#[derive(Debug)]
pub struct CachedExamples<'a> {
    /// The cache.
    pub cache: &'a mut ConstantCache,
    /// Which example each sequence of the batch is.
    pub examples: &'a [usize],
}

impl CachedExamples<'_> {
    pub(super) fn is_known(&self, sequence: usize) -> bool {
        self.examples.get(sequence).is_some_and(|&example| self.cache.contains(example))
    }
}

/// Checks that a folder can hold the file of a cache; for a message before a run begins.
///
/// # Errors
/// It is no folder.
pub(super) fn check_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let (name, expected) = ("cache_constants", "RAM or a folder that exists");
    Err(Error::Argument { name, expected, found: folder.display().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constants(seed: f32, labelled: usize) -> Constants {
        Constants {
            key_values: (0..24).map(|i| seed + i as f32).collect(),
            hidden: (0..labelled * 3).map(|i| seed - i as f32).collect(),
            frozen: (0..labelled).map(|_| FrozenPart { lse: seed, target: f32::NEG_INFINITY }).collect(),
        }
    }

    #[test]
    fn what_is_kept_comes_back_the_same_until_the_room_is_used_up() {
        let folder = tempfile::tempdir().expect("a folder");
        for location in [CacheLocation::Memory, CacheLocation::Folder(folder.path().into())] {
            let one = bytes(24 + 6 + 4);
            let mut cache =
                ConstantCache::new(&CacheConstants { location, limit: 2 * one }).expect("a cache");
            assert!(cache.is_empty() && !cache.contains(7));
            cache.insert(7, constants(1.0, 2));
            cache.insert(3, constants(2.0, 2));
            cache.insert(5, constants(3.0, 0));
            assert_eq!((cache.len(), cache.bytes()), (2, 2 * one));
            assert!(!cache.contains(5) && !cache.has_room(1));
            assert_eq!(*cache.get(3).expect("read").expect("there"), constants(2.0, 2));
            assert_eq!(*cache.get(7).expect("read").expect("there"), constants(1.0, 2));
            assert!(cache.get(5).expect("read").is_none());
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "the file has no name");
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
        let mut cache = ConstantCache { store, limit: 1 << 20, used: 0, ended: None };
        cache.insert(1, constants(1.0, 2));
        assert!(cache.is_empty() && !cache.has_room(1) && cache.bytes() == 0);
        let reason = cache.take_ending().expect("told");
        assert!(reason.starts_with("/dev/full: No space left"), "{reason}");
        assert_eq!(cache.take_ending(), None, "told once");
        assert!(!cache.has_room(1));
        assert!(cache.get(1).expect("no fault").is_none());
    }
}
