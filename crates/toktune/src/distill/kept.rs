//! What a teacher gave, in memory or in a file.

use crate::engine::constants::CacheLocation;
use crate::engine::objective::TeacherRows;
use crate::error::Result;
use crate::weights::WeightsError;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The rows of examples, in their order.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    Memory(Vec<TeacherRows>),
    File(OnDisk),
}

/// Rows in a file that has no name: it is gone when the last of its users is.
#[derive(Clone, Debug)]
pub(super) struct OnDisk {
    file: Arc<Mutex<File>>,
    folder: PathBuf,
    /// Of each example where it begins, and how many rows it has.
    places: Vec<(u64, usize)>,
    end: u64,
    d: usize,
    divergence: bool,
}

impl Kept {
    /// Nothing yet; rows will have `d` entries, and with a `divergence` losses and gradients.
    pub(super) fn new(location: &CacheLocation, d: usize, divergence: bool) -> Result<Self> {
        let CacheLocation::Folder(folder) = location else { return Ok(Self::Memory(Vec::new())) };
        // of the names that a run may find in its folder
        let named = tempfile::Builder::new().prefix(".toktune-").suffix(".tmp").tempfile_in(folder);
        let file = named.map_err(WeightsError::io(folder))?.into_file();
        let (file, folder) = (Arc::new(Mutex::new(file)), folder.clone());
        Ok(Self::File(OnDisk { file, folder, places: Vec::new(), end: 0, d, divergence }))
    }

    /// How many examples there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Memory(all) => all.len(),
            Self::File(on_disk) => on_disk.places.len(),
        }
    }

    /// Adds the rows of an example.
    pub(super) fn push(&mut self, rows: TeacherRows) -> Result<()> {
        match self {
            Self::Memory(all) => all.push(rows),
            Self::File(on_disk) => {
                on_disk.push(&rows).map_err(WeightsError::io(&on_disk.folder))?;
            }
        }
        Ok(())
    }

    /// Adds those of the example `at` to others; nothing where there is no such example.
    pub(super) fn add_to(&self, rows: &mut TeacherRows, at: usize) -> Result<()> {
        match self {
            Self::Memory(all) => all.get(at).into_iter().for_each(|of| rows.extend(of)),
            Self::File(on_disk) => {
                rows.extend(&on_disk.get(at).map_err(WeightsError::io(&on_disk.folder))?);
            }
        }
        Ok(())
    }
}

impl OnDisk {
    /// Every use begins with a seek: one that panicked leaves nothing behind that counts.
    fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&mut self, rows: &TeacherRows) -> io::Result<()> {
        let count = rows.states.len() / self.d.max(1);
        let mut file = self.file();
        file.seek(SeekFrom::Start(self.end))?;
        let mut out = BufWriter::with_capacity(1 << 18, &mut *file);
        for x in rows.states.iter().chain(&rows.losses).chain(&rows.gradients) {
            out.write_all(&x.to_le_bytes())?;
        }
        out.flush()?;
        drop(out);
        drop(file);
        self.places.push((self.end, count));
        self.end += (TeacherRows::floats(count, self.d, self.divergence) * size_of::<f32>()) as u64;
        Ok(())
    }

    fn get(&self, at: usize) -> io::Result<TeacherRows> {
        let Some(&(start, count)) = self.places.get(at) else { return Ok(TeacherRows::default()) };
        let mut stored = vec![0u8; TeacherRows::floats(count, self.d, self.divergence) * size_of::<f32>()];
        let mut file = self.file();
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut stored)?;
        drop(file);
        let mut floats = stored.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let mut next = |count: usize| floats.by_ref().take(count).collect();
        let (states, more) = (next(count * self.d), usize::from(self.divergence));
        Ok(TeacherRows { states, losses: next(more * count), gradients: next(more * count * self.d) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_on_disk_is_what_is_kept_in_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        for divergence in [false, true] {
            let rows = |example: usize| {
                let of = |count: usize, first: usize| -> Vec<f32> {
                    (first..first + count).map(|x| (x as f32).sin() * (example as f32 + 0.5)).collect()
                };
                let count = example % 4;
                let more = usize::from(divergence) * count;
                TeacherRows { states: of(3 * count, 0), losses: of(more, 7), gradients: of(3 * more, 9) }
            };
            let places = [CacheLocation::Memory, CacheLocation::Folder(folder.path().into())];
            let [memory, on_disk] = places.map(|place| {
                let mut kept = Kept::new(&place, 3, divergence).expect("made");
                (0..9).for_each(|example| kept.push(rows(example)).expect("written"));
                kept
            });
            assert_eq!([memory.len(), on_disk.len()], [9, 9]);
            // it has no name
            assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
            let read = |kept: &Kept, order: &[usize]| {
                let mut all = TeacherRows::default();
                order.iter().for_each(|at| kept.add_to(&mut all, *at).expect("read"));
                all
            };
            let order = [3, 8, 0, 5, 5, 2, 77];
            let expected = read(&memory, &order);
            assert_eq!(read(&on_disk, &order), expected);
            assert_eq!(read(&on_disk.clone(), &order), expected);
            assert_eq!(expected.states.len(), 3 * (3 + 1 + 1 + 2));
        }
        let missing = CacheLocation::Folder(folder.path().join("missing"));
        let error = Kept::new(&missing, 3, false).expect_err("no such folder").to_string();
        assert!(error.contains("missing"), "{error}");
    }
}
