//! Names the code of this crate that turns rows into examples, so that encoded rows of another build are never taken for
//! this one's. The text crate names its own.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The folder whose code decides, beside the text crate, what becomes of a row.
const FOLDER: &str = "src/data";

fn main() -> io::Result<()> {
    let mut files = Vec::new();
    println!("cargo:rerun-if-changed={FOLDER}");
    collect(Path::new(FOLDER), &mut files)?;
    files.sort();
    let mut hash = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hash);
    for file in files {
        file.hash(&mut hash);
        fs::read(&file)?.hash(&mut hash);
    }
    println!("cargo:rustc-env=TOKTUNE_ENCODING={:016x}", hash.finish());
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => collect(&path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}
