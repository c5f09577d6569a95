//! The index of a checkpoint in several files: which file holds which tensor.
//!
//! Safetensors and PyTorch checkpoints have the same kind of index. Owns its checks; how a file is read is the
//! format's.

use crate::table::TensorTable;
use crate::{Result, WeightsError};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::marker::PhantomData;
use std::path::{Component, Path};
use toktune_kernels::WeightType;

/// The longest header or index that is read; the reference implementation of safetensors has the same limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The tensors that an index lists, from the files that it names; those must lie in its folder. `open` reads one.
///
/// # Errors
/// The index is malformed, names a file outside its folder, a file that is missing or a tensor that its file
/// lacks, or one of the files is not sound.
pub(super) fn read(
    path: &Path,
    supported: &'static [WeightType],
    open: impl Fn(&Path) -> Result<TensorTable>,
) -> Result<TensorTable> {
    let length = std::fs::metadata(path).map_err(WeightsError::io(path))?.len();
    check_header_length(path, length)?;
    let text = std::fs::read(path).map_err(WeightsError::io(path))?;
    let index: Index = serde_json::from_slice(&text).map_err(|source| WeightsError::Json {
        path: path.to_path_buf(),
        what: "the index",
        source,
    })?;
    let mut shards: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut seen = HashSet::new();
    for (tensor, file) in index.weight_map.0 {
        if !seen.insert(tensor.clone()) {
            return Err(WeightsError::DuplicateTensor { path: path.to_path_buf(), tensor });
        }
        shards.entry(file).or_default().insert(tensor);
    }
    let mut table = TensorTable::new(path, supported);
    for (file, wanted) in shards {
        read_shard(&mut table, &file, wanted, &open)?;
    }
    Ok(table)
}

/// Adds the `wanted` tensors of one file to the table of an index.
fn read_shard(
    table: &mut TensorTable,
    file: &str,
    wanted: BTreeSet<String>,
    open: impl Fn(&Path) -> Result<TensorTable>,
) -> Result<()> {
    let index = table.path().clone();
    let path = index.with_file_name(file);
    let first = || wanted.first().cloned().unwrap_or_default();
    let inside = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
    if !inside || file.is_empty() {
        return Err(WeightsError::ShardOutside {
            path: index.to_path_buf(),
            tensor: first(),
            file: file.to_owned(),
        });
    }
    if !path.is_file() {
        return Err(WeightsError::MissingShard {
            path: index.to_path_buf(),
            tensor: first(),
            file: file.to_owned(),
        });
    }
    let shard = open(&path)?;
    if let Some(tensor) = wanted.iter().find(|name| shard.get(name).is_none()) {
        let (path, tensor) = (index.to_path_buf(), tensor.clone());
        return Err(WeightsError::MissingInShard { path, tensor, file: file.to_owned() });
    }
    for tensor in shard.into_tensors() {
        if wanted.contains(&*tensor.name) {
            table.insert(tensor)?;
        }
    }
    Ok(())
}

/// Refuses a header or an index that is larger than any real one.
pub(super) fn check_header_length(path: &Path, found: u64) -> Result<()> {
    if found > MAX_HEADER_BYTES {
        return Err(WeightsError::HeaderTooLarge {
            path: path.to_path_buf(),
            found,
            limit: MAX_HEADER_BYTES,
        });
    }
    Ok(())
}

/// The index: only the map is used.
#[derive(Deserialize)]
struct Index {
    weight_map: Entries<String>,
}

/// The members of a JSON object, in order, with members of the same name kept.
struct Entries<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(None, PhantomData)).map(Entries)
    }
}

/// Collects the members of an object, but for the one of the given name.
pub(super) struct EntriesVisitor<T>(Option<&'static str>, PhantomData<T>);

impl<T> EntriesVisitor<T> {
    /// Collects all members but this one.
    pub fn without(name: &'static str) -> Self {
        Self(Some(name), PhantomData)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
    type Value = Vec<(String, T)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if Some(name.as_str()) == self.0 {
                map.next_value::<serde::de::IgnoredAny>()?;
            } else {
                let value = map.next_value()?;
                entries.push((name, value));
            }
        }
        Ok(entries)
    }
}
