//! Writing files so that a reader, or a run after a crash, sees the old content or the new and nothing
//! between.

use crate::{Result, WeightsError};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Writes a file through a temporary one in the same folder, which is synced and then renamed over `path`.
///
/// When `write` fails, or the process ends on the way, `path` is as it was before. A symbolic link at `path`
/// is replaced, not followed. An existing file's permissions are kept.
///
/// # Errors
/// What `write` returns, or the system refuses to create, sync or rename.
pub fn write_atomically<E: From<WeightsError>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let mut temporary = builder(path).tempfile_in(&folder).map_err(WeightsError::io(path))?;
    write(temporary.as_file_mut())?;
    temporary.as_file().sync_all().map_err(WeightsError::io(path))?;
    temporary.persist(path).map_err(|error| WeightsError::io(path)(error.error))?;
    Ok(sync_folder(&folder)?)
}

/// Writes a folder through a temporary one beside it, which is renamed to `folder` when `write` has filled
/// it.
///
/// When `write` fails, or the process ends on the way, there is no `folder`, or the empty one there was.
/// Folders above it are created. `write` syncs the files it writes.
///
/// # Errors
/// `folder` is there and not an empty folder; what `write` returns; or the system refuses.
pub fn write_folder_atomically<E: From<WeightsError>>(
    folder: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let exists = fs::symlink_metadata(folder).is_ok();
    if exists {
        // a link to an empty folder is followed
        check_empty(folder)?;
    }
    let target =
        if exists { fs::canonicalize(folder).map_err(WeightsError::io(folder))? } else { folder.into() };
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    fs::create_dir_all(&parent).map_err(WeightsError::io(&parent))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".toktune-").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o777));
    }
    let temporary = builder.tempdir_in(&parent).map_err(WeightsError::io(folder))?;
    write(temporary.path())?;
    sync_folder(temporary.path())?;
    if exists {
        // not every system renames over an empty folder
        fs::remove_dir(&target).map_err(WeightsError::io(folder))?;
    }
    fs::rename(temporary.path(), &target).map_err(WeightsError::io(folder))?;
    // it is no longer there under its temporary name, and not to be removed under the other
    let _ = temporary.keep();
    Ok(sync_folder(&parent)?)
}

fn check_empty(folder: &Path) -> Result<()> {
    let found = if folder.is_dir() {
        let first = fs::read_dir(folder).map_err(WeightsError::io(folder))?.next();
        match first.transpose().map_err(WeightsError::io(folder))? {
            None => return Ok(()),
            Some(entry) => format!("it holds '{}'", entry.file_name().to_string_lossy()),
        }
    } else {
        "it is no folder".to_owned()
    };
    Err(WeightsError::OutputInUse { path: folder.to_path_buf(), found })
}

/// A hidden name that says what it is for, with the permissions that the final file shall have.
fn builder(path: &Path) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".toktune-").suffix(".tmp");
    // tempfile's own choice is 0600, which would leave a file that nobody else can read.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let existing = fs::metadata(path).map(|metadata| metadata.permissions());
        builder.permissions(existing.unwrap_or_else(|_| fs::Permissions::from_mode(0o666)));
    }
    #[cfg(not(unix))]
    let _ = path;
    builder
}

/// Makes the rename itself outlast a loss of power.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some network file systems cannot sync a folder; the file is complete and in place all the same.
        Err(error) if !matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            Err(WeightsError::io(folder)(error))
        }
        _ => Ok(()),
    }
}

/// Other systems have no call for it.
#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder)
            .expect("a readable folder")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn new_content_replaces_old_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("log.json");
        for content in ["first, which is longer", "second"] {
            write_atomically(&path, |file| {
                file.write_all(content.as_bytes()).map_err(WeightsError::io(&path))
            })
            .expect("a written file");
            assert_eq!(fs::read_to_string(&path).expect("the file"), content);
        }
        assert_eq!(names(folder.path()), ["log.json"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("log.json");
        fs::write(&path, "old").expect("a written file");
        let result = write_atomically(&path, |file| {
            file.write_all(b"half").map_err(WeightsError::io(&path))?;
            Err(WeightsError::io(&path)(std::io::Error::other("disk on fire")))
        });
        assert!(result.expect_err("the writer's error").to_string().contains("disk on fire"));
        assert_eq!(fs::read_to_string(&path).expect("the file"), "old");
        assert_eq!(names(folder.path()), ["log.json"]);
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let top = tempfile::tempdir().expect("a temporary folder");
        let folder = top.path().join("new").join("merged");
        let fill = |folder: &Path| fs::write(folder.join("a"), "content").map_err(WeightsError::io(folder));
        let result = write_folder_atomically(&folder, |temporary| {
            fill(temporary)?;
            Err(WeightsError::io("a")(std::io::Error::other("disk on fire")))
        });
        assert!(result.expect_err("the writer's error").to_string().contains("disk on fire"));
        assert!(names(&top.path().join("new")).is_empty());
        write_folder_atomically(&folder, fill).expect("a written folder");
        assert_eq!(
            (names(&top.path().join("new")), names(&folder)),
            (vec!["merged".into()], vec!["a".into()])
        );
        fs::create_dir(top.path().join("empty")).expect("an empty folder");
        write_folder_atomically(&top.path().join("empty"), fill).expect("an empty folder may be filled");
        assert_eq!(names(&top.path().join("empty")), ["a"]);
    }

    #[test]
    fn a_folder_in_use_is_left_alone() {
        let top = tempfile::tempdir().expect("a temporary folder");
        fs::write(top.path().join("mine"), "").expect("a written file");
        for (path, expected) in
            [(top.path().to_path_buf(), "holds 'mine'"), (top.path().join("mine"), "no folder")]
        {
            let error =
                write_folder_atomically(&path, |_| unreachable!("nothing to write")).expect_err("in use");
            assert!(matches!(error, WeightsError::OutputInUse { .. }), "{error}");
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(names(top.path()), ["mine"]);
        }
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("none").join("log.json");
        let message =
            write_atomically(&path, |_| -> Result<()> { Ok(()) }).expect_err("no folder").to_string();
        assert!(message.contains("none"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_any_new_file_or_of_the_old_one() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        let (plain, path) = (folder.path().join("plain"), folder.path().join("atomic"));
        fs::write(&plain, "").expect("a written file");
        write_atomically(&path, |_| -> Result<()> { Ok(()) }).expect("a written file");
        assert_eq!(mode(&path), mode(&plain));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changed permissions");
        write_atomically(&path, |_| -> Result<()> { Ok(()) }).expect("a written file");
        assert_eq!(mode(&path), 0o600);
        let (plain, path) = (folder.path().join("plain folder"), folder.path().join("atomic folder"));
        fs::create_dir(&plain).expect("a folder");
        write_folder_atomically(&path, |_| -> Result<()> { Ok(()) }).expect("a written folder");
        assert_eq!(mode(&path), mode(&plain));
    }
}
