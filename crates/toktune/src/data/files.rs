//! Which files are read, and how each is written: by its name, else by its first bytes.
//!
//! A folder is read as `datasets` reads one: data files below it, one split of them when their names tell splits apart.

use crate::weights::WeightsError;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use regex::Regex;

use super::DataSource;
use crate::data::error::{DataError, Result};

/// Folders in folders: more than any set has.
const DEEPEST: usize = 8;
/// Files of one source.
const MOST_FILES: usize = 100_000;
/// The split that is read when none is asked for.
const DEFAULT_SPLIT: &str = "train";
/// Files that tell about a set of data and are none of it.
const ABOUT: [&str; 5] =
    ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"];

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// An object a line, or one array of objects.
    Json,
    /// A table with a heading; the byte stands between columns.
    Separated(u8),
    /// Text without a form.
    Text,
    /// Apache Parquet.
    Parquet,
    /// The Arrow files that `datasets` saves.
    Arrow,
}

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// One file to read.
#[derive(Debug, Clone)]
pub(super) struct DataFile {
    pub path: PathBuf,
    /// What messages call it.
    pub shown: Arc<Path>,
    pub format: Format,
    pub compression: Compression,
    /// Bytes on disk.
    pub size: u64,
}

/// The files of a source, in the order of their names.
pub(super) fn files_of(source: &DataSource) -> Result<Vec<DataFile>> {
    if !source.path.is_dir() {
        let shown = Path::new(&source.shown()).into();
        return Ok(vec![DataFile::open(source.path.clone(), shown)?]);
    }
    let mut found = Vec::new();
    collect(&source.path, Path::new(""), 0, &mut found)?;
    choose_files(found, source)?
        .into_iter()
        .map(|relative| {
            let path = source.path.join(&relative);
            let shown = Path::new(&source.shown()).join(relative).into();
            DataFile::open(path, shown)
        })
        .collect()
}

/// Which files of a folder are read, by their paths in it alone.
pub(crate) fn choose_files(mut found: Vec<PathBuf>, source: &DataSource) -> Result<Vec<PathBuf>> {
    found.retain(|path| is_data(path));
    // a text beside rows with keys is about them: a licence, a list of requirements
    let is_text = |path: &PathBuf| format_of_name(path).is_some_and(|(format, _)| format == Format::Text);
    if !found.iter().all(is_text) {
        found.retain(|path| !is_text(path));
    }
    // `datasets` saves its description beside its own files as JSON
    let is_arrow = |path: &PathBuf| format_of_name(path).is_some_and(|(format, _)| format == Format::Arrow);
    if found.iter().any(is_arrow) {
        found.retain(is_arrow);
    }
    found.sort();
    if found.is_empty() {
        return Err(DataError::NoDataFiles { path: source.shown().into() });
    }
    let chosen = of_split(found, source)?;
    check_shards(&chosen, source)?;
    Ok(chosen)
}

/// A file that is one of several says how many there are, and none may be missing: an interrupted download would pass for
/// the whole.
fn check_shards(files: &[PathBuf], source: &DataSource) -> Result<()> {
    let mut counts: BTreeMap<(PathBuf, String, usize), usize> = BTreeMap::new();
    for (file, shard) in files.iter().filter_map(|file| Some((file, shard_of(file)?))) {
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        *counts.entry((folder, shard.0, shard.1)).or_default() += 1;
    }
    match counts.into_iter().find(|((_, _, all), found)| found < all) {
        None => Ok(()),
        Some(((folder, name, all), found)) => {
            let path = Path::new(&source.shown()).join(folder).join(name);
            Err(DataError::MissingShards { path, found, all })
        }
    }
}

/// Whether a file of a folder holds data, by the names on its way.
fn is_data(path: &Path) -> bool {
    let hidden = |part: &str| part.starts_with(['.', '_']) || ABOUT.contains(&part);
    let mut parts = path.components().map(|part| part.as_os_str().to_string_lossy());
    format_of_name(path).is_some() && !parts.any(|part| hidden(&part))
}

/// The data files below `root/relative`, by their paths from `root`. Hidden ones are left out, and so are links to folders,
/// which may lead anywhere; links to files are how the Hub's cache is built.
fn collect(root: &Path, relative: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    let folder = root.join(relative);
    let entries = std::fs::read_dir(&folder).map_err(WeightsError::io(&folder))?;
    for entry in entries {
        let entry = entry.map_err(WeightsError::io(&folder))?;
        let name = entry.file_name();
        let path = relative.join(&name);
        if name.to_string_lossy().starts_with(['.', '_']) {
            continue;
        }
        let kind = entry.file_type().map_err(WeightsError::io(&folder))?;
        if kind.is_dir() && depth < DEEPEST {
            collect(root, &path, depth + 1, found)?;
        } else if !kind.is_dir() && is_data(&path) && root.join(&path).is_file() {
            found.push(path);
        }
        if found.len() > MOST_FILES {
            return Err(DataError::ManyFiles { path: root.to_owned(), most: MOST_FILES });
        }
    }
    Ok(())
}

/// The files of the split that is asked for.
fn of_split(files: Vec<PathBuf>, source: &DataSource) -> Result<Vec<PathBuf>> {
    let splits: Vec<Option<String>> = files.iter().map(|path| split_of(path)).collect();
    let names: BTreeSet<&str> = splits.iter().flatten().map(String::as_str).collect();
    let wanted = source.split.as_deref().unwrap_or(DEFAULT_SPLIT);
    if names.is_empty() && source.split.is_none() {
        return Ok(files);
    }
    // `train_sft` is the training split of a set that has no plain one
    let mut near = names.iter().copied().filter(|name| keyword(name).as_deref() == Some(wanted));
    let split = match (names.get(wanted), source.split.is_none(), near.next(), near.next()) {
        (Some(exact), ..) => *exact,
        (None, true, Some(only), None) => only,
        _ => {
            let found = match names.is_empty() {
                true => "none".to_owned(),
                false => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            };
            let (path, wanted) = (source.shown().into(), wanted.to_owned());
            return Err(DataError::NoSplit { path, wanted, found });
        }
    };
    let chosen: Vec<PathBuf> = files
        .iter()
        .zip(&splits)
        .filter(|(_, of)| of.as_deref() == Some(split))
        .map(|(path, _)| path.clone())
        .collect();
    // the folders of configurations, each with the same splits
    let above = |path: &PathBuf| {
        let parts = path.parent().into_iter().flat_map(Path::components);
        parts
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .filter(|name| keyword(name).is_none())
            .collect::<Vec<_>>()
            .join("/")
    };
    let folders: BTreeSet<String> = chosen.iter().map(above).collect();
    if folders.len() > 1 {
        let found = folders.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        return Err(DataError::ManyConfigurations { path: source.shown().into(), found });
    }
    Ok(chosen)
}

/// What a file is a part of, and how many parts there are.
fn shard_of(path: &Path) -> Option<(String, usize)> {
    // A constant that compiles; were it not to, splits would be told by their keywords alone.
    static SHARD: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"^(.+)-\d{5}-of-(\d{5})(\.|$)").ok());
    let name = path.file_name()?.to_string_lossy();
    let found = SHARD.as_ref()?.captures(&name)?;
    Some((found[1].to_owned(), found[2].parse().ok()?))
}

/// The split that a file belongs to by its name, or by that of a folder above it.
fn split_of(path: &Path) -> Option<String> {
    match shard_of(path).map(|(split, _)| split).filter(|split| split != "data") {
        Some(split) => Some(split),
        None => {
            let parts = path.components().rev();
            parts.map(|part| part.as_os_str().to_string_lossy()).find_map(|part| keyword(&part))
        }
    }
}

/// The usual split that a name speaks of, as `datasets` reads names.
fn keyword(name: &str) -> Option<String> {
    let words = [
        ("train", &["train", "training"][..]),
        ("validation", &["validation", "valid", "val", "dev"]),
        ("test", &["test", "testing", "eval", "evaluation"]),
    ];
    let lower = name.to_lowercase();
    let of = |word: &str| words.iter().find(|(_, all)| all.contains(&word)).map(|(split, _)| *split);
    lower.split(|c: char| !c.is_ascii_alphanumeric()).find_map(of).map(str::to_owned)
}

/// What a file's name says of it.
fn format_of_name(path: &Path) -> Option<(Format, Compression)> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    let (bare, compression) = match (name.strip_suffix(".gz"), name.strip_suffix(".zst")) {
        (Some(bare), _) => (bare, Compression::Gzip),
        (_, Some(bare)) => (bare, Compression::Zstd),
        _ => (name.as_str(), Compression::None),
    };
    let format = match bare.rsplit_once('.')?.1 {
        "jsonl" | "json" | "ndjson" => Format::Json,
        "csv" => Format::Separated(b','),
        "tsv" | "tab" => Format::Separated(b'\t'),
        "txt" | "text" => Format::Text,
        "parquet" => Format::Parquet,
        "arrow" => Format::Arrow,
        _ => return None,
    };
    Some((format, compression))
}

impl DataFile {
    /// Looks at a file; a name that says nothing is taken for JSON unless the first bytes say otherwise.
    fn open(path: PathBuf, shown: Arc<Path>) -> Result<Self> {
        let mut file = File::open(&path).map_err(WeightsError::io(&*shown))?;
        let about = file.metadata().map_err(WeightsError::io(&*shown))?;
        // what is looked at of a pipe is gone from it
        if !about.is_file() {
            let reason = "it is no regular file, and data are read more than once".to_owned();
            return Err(DataError::Unreadable { path: shown.to_path_buf(), reason });
        }
        let size = about.len();
        let mut first = Vec::new();
        file.by_ref().take(6).read_to_end(&mut first).map_err(WeightsError::io(&*shown))?;
        let (mut format, _) = format_of_name(&shown).unwrap_or((Format::Json, Compression::None));
        let compression = match first.as_slice() {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            _ => Compression::None,
        };
        match first.as_slice() {
            [b'P', b'A', b'R', b'1', ..] => format = Format::Parquet,
            b"ARROW1" => format = Format::Arrow,
            _ => {}
        }
        if matches!(format, Format::Parquet | Format::Arrow) && compression != Compression::None {
            let reason = "it is packed as a whole, and is read by its parts; unpack it".to_owned();
            return Err(DataError::Unreadable { path: shown.to_path_buf(), reason });
        }
        Ok(DataFile { path, shown, format, compression, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().expect("below")).expect("made");
            std::fs::write(path, "{\"text\": \"a\"}").expect("written");
        }
        folder
    }

    fn listed(files: &[&str], split: Option<&str>) -> Result<Vec<String>, String> {
        let folder = folder(files);
        let source = DataSource { split: split.map(str::to_owned), ..DataSource::new(folder.path()) };
        let of = |file: DataFile| {
            let path = file.path.strip_prefix(folder.path()).expect("below").to_path_buf();
            path.to_string_lossy().into_owned()
        };
        let found = files_of(&source).map_err(|error| error.to_string())?;
        Ok(found.into_iter().map(of).collect())
    }

    #[test]
    fn a_folder_gives_its_data_files_and_nothing_beside_them() {
        let found = listed(
            &["b.jsonl", "a/c.csv", "README.md", "LICENSE.txt", ".hidden.jsonl", ".git/x.json", "state.json"],
            None,
        );
        assert_eq!(found.expect("two"), ["a/c.csv", "b.jsonl"]);
        assert_eq!(listed(&["b.txt", "a.txt.gz"], None).expect("texts"), ["a.txt.gz", "b.txt"]);
        let none = listed(&["README.md"], None).expect_err("no data");
        assert!(none.contains("no data file"), "{none}");
    }

    #[test]
    fn splits_are_told_by_names_as_datasets_does() {
        let plain = ["train.jsonl", "test.jsonl", "dev.jsonl"];
        assert_eq!(listed(&plain, None).expect("train"), ["train.jsonl"]);
        assert_eq!(listed(&plain, Some("validation")).expect("dev"), ["dev.jsonl"]);
        assert_eq!(
            listed(&["my_train_rows.csv", "my-test-rows.csv"], None).expect("train"),
            ["my_train_rows.csv"]
        );
        let hub = [
            "data/train_sft-00000-of-00002.parquet",
            "data/train_sft-00001-of-00002.parquet",
            "data/test_sft-00000-of-00001.parquet",
        ];
        assert_eq!(listed(&hub, None).expect("the only training split"), hub[..2]);
        assert_eq!(listed(&hub, Some("test_sft")).expect("named"), hub[2..]);
        let saved =
            ["train/data-00000-of-00001.arrow", "test/data-00000-of-00001.arrow", "dataset_dict.json"];
        assert_eq!(listed(&saved, None).expect("saved by datasets"), saved[..1]);
        let problem = listed(&hub[1..], None).expect_err("half");
        assert!(problem.contains("train_sft: 1 of its 2 files are there"), "{problem}");
        let two = ["data/train_sft-00000-of-00001.parquet", "data/train_gen-00000-of-00001.parquet"];
        let problem = listed(&two, None).expect_err("two training splits");
        assert!(problem.contains("`train_gen`, `train_sft`"), "{problem}");
        let problem = listed(&plain, Some("other")).expect_err("no such split");
        assert!(problem.contains("no split `other`") && problem.contains("`validation`"), "{problem}");
        let problem = listed(&["a.jsonl"], Some("test")).expect_err("no splits at all");
        assert!(problem.contains("splits found: none"), "{problem}");
        let configurations = ["main/train-00000-of-00001.parquet", "socratic/train-00000-of-00001.parquet"];
        let problem = listed(&configurations, None).expect_err("two configurations");
        assert!(problem.contains("`main`, `socratic`"), "{problem}");
    }

    #[test]
    fn the_first_bytes_tell_what_a_name_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let of = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            files_of(&DataSource::new(path)).map(|files| (files[0].format, files[0].compression))
        };
        assert_eq!(of("rows", b"{}").expect("JSON"), (Format::Json, Compression::None));
        assert_eq!(of("rows.jsonl.gz", b"\x1f\x8b\x08").expect("gz"), (Format::Json, Compression::Gzip));
        assert_eq!(
            of("a.csv", b"\x28\xb5\x2f\xfd").expect("zstd"),
            (Format::Separated(b','), Compression::Zstd)
        );
        assert_eq!(of("rows", b"PAR1....").expect("parquet"), (Format::Parquet, Compression::None));
        #[cfg(unix)]
        {
            let problem = files_of(&DataSource::new("/dev/null")).expect_err("no file").to_string();
            assert!(problem.contains("no regular file"), "{problem}");
        }
        let problem = of("a.parquet.gz", b"\x1f\x8b\x08").expect_err("packed").to_string();
        assert!(problem.contains("unpack it"), "{problem}");
    }
}
