//! One run a folder: the output folder is made, tried and locked before the first step.

use crate::error::{Error, Result};
use crate::weights::WeightsError;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// The lock's name; a run that was killed leaves it behind, unlocked.
pub(super) const LOCK_FILE: &str = ".toktune.lock";

/// Whether a name in an output folder is a leftover of a run that was killed, and no content.
pub(super) fn is_leftover(name: &str) -> bool {
    name == LOCK_FILE
        || (name.starts_with(".toktune-") && name.ends_with(".tmp"))
        || (name.starts_with(".checkpoint-") && name.ends_with(".part"))
}

/// A locked output folder. When it is dropped the lock is gone, and so are the folders that were made for it if nothing was
/// written into them.
#[derive(Debug)]
pub(super) struct RunLock {
    path: PathBuf,
    /// Locked for as long as it is open.
    _file: File,
    /// Folders that were not there, the deepest first.
    made: Vec<PathBuf>,
}

impl RunLock {
    /// Makes `folder` if need be, locks it, and removes what a killed run left half done.
    ///
    /// # Errors
    /// Another run has it, or it cannot be written.
    pub(super) fn take(folder: &Path) -> Result<Self> {
        let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let made: Vec<PathBuf> = folder.ancestors().take_while(missing).map(Path::to_path_buf).collect();
        std::fs::create_dir_all(folder).map_err(WeightsError::io(folder))?;
        let path = folder.join(LOCK_FILE);
        let opened = File::options().create(true).truncate(false).write(true).open(&path);
        let locked = opened.and_then(|file| match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            // a file system without locks cannot keep two runs apart, and is no reason to refuse one
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {
                Ok(Some(file))
            }
            Err(TryLockError::Error(error)) => Err(error),
        });
        let lock = match locked {
            Ok(Some(file)) => RunLock { path, _file: file, made },
            Ok(None) => return Err(Error::OutputLocked { folder: folder.to_path_buf() }),
            Err(error) => {
                made.iter().for_each(|folder| drop(std::fs::remove_dir(folder)));
                return Err(WeightsError::io(&path)(error).into());
            }
        };
        for entry in std::fs::read_dir(folder).map_err(WeightsError::io(folder))?.flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            if name != LOCK_FILE && is_leftover(&name.to_string_lossy()) {
                let _ =
                    if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            }
        }
        Ok(lock)
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // while it is still locked: nobody else can have it open and mean it
        let _ = std::fs::remove_file(&self.path);
        // a folder with something in it stays
        self.made.iter().for_each(|folder| drop(std::fs::remove_dir(folder)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_run_and_an_empty_one_is_taken_away() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("a/b");
        let lock = RunLock::take(&folder).expect("free");
        let problem = RunLock::take(&folder).expect_err("taken").to_string();
        assert!(problem.contains("another run"), "{problem}");
        drop(lock);
        assert!(!root.path().join("a").exists());
        let lock = RunLock::take(&folder).expect("free again");
        std::fs::write(folder.join("x"), "").expect("written");
        drop(lock);
        assert_eq!(std::fs::read_dir(&folder).expect("there").count(), 1);
    }

    #[test]
    fn leftovers_of_a_killed_run_are_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for name in [LOCK_FILE, ".toktune-abc.tmp", "README.md"] {
            std::fs::write(path(name), "").expect("written");
        }
        std::fs::create_dir(path(".checkpoint-5.part")).expect("made");
        std::fs::write(path(".checkpoint-5.part/x"), "").expect("written");
        drop(RunLock::take(folder.path()).expect("free"));
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).expect("there").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["README.md"]);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("file"), "").expect("written");
        let problem = RunLock::take(&folder.path().join("file/out")).expect_err("no folder").to_string();
        assert!(problem.contains("file/out"), "{problem}");
    }
}
