//! Safetensors checkpoints: one file, or several named by an index.
//!
//! Owns the header and its checks. The header is parsed here and not by the `safetensors` crate
//! since that one keeps the last of two entries of the same name in silence and its errors name no file.

use crate::Bytes;
use crate::index::{self, EntriesVisitor, check_header_length};
use crate::table::{StoredTensor, TensorTable, unsupported};
use crate::{Result, WeightsError};
use ::safetensors::Dtype;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::{Deserialize, Deserializer};
use std::path::Path;
use std::sync::Arc;
use toktune_kernels::WeightType;

#[cfg(test)]
mod tests;

/// The types whose tensors can be used. A file may hold others (BERT's `position_ids` are `I64`) as long as
/// nobody asks for them.
const SUPPORTED: &[WeightType] = &[WeightType::F32, WeightType::F16, WeightType::BF16];

/// A checkpoint in safetensors files.
#[derive(Clone, Debug)]
pub struct Safetensors {
    table: TensorTable,
}

impl Safetensors {
    /// Opens a single file.
    ///
    /// # Errors
    /// The file cannot be mapped, or it is not a sound safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_bytes(path, Bytes::map(path)?)
    }

    /// Opens the files that an index (`model.safetensors.index.json`) names; they must lie in its folder.
    ///
    /// Only tensors that the index lists are seen.
    ///
    /// # Errors
    /// The index is malformed, names a file outside its folder, a file that is missing or a tensor that its
    /// file lacks, or one of the files is not sound.
    pub fn open_index(path: &Path) -> Result<Self> {
        let table = index::read(path, SUPPORTED, |shard| Ok(Self::open(shard)?.table))?;
        Ok(Self { table })
    }

    /// Reads a file that is already in memory or mapped; `path` is what messages call it.
    ///
    /// # Errors
    /// It is not a sound safetensors file.
    pub fn from_bytes(path: &Path, bytes: Bytes) -> Result<Self> {
        let (header, data) = split(path, &bytes)?;
        let header: Header = serde_json::from_slice(header).map_err(|source| WeightsError::Json {
            path: path.to_path_buf(),
            what: "the header",
            source,
        })?;
        let mut entries = header.0;
        let mut table = TensorTable::new(path, SUPPORTED);
        // In the order of the data, so that the order does not depend on who wrote the header.
        entries.sort_by(|a, b| (a.1.data_offsets, &a.0).cmp(&(b.1.data_offsets, &b.0)));
        let (mut end, mut last) = (0, None);
        for (name, info) in entries {
            let tensor = stored_tensor(table.path().clone(), &name, &info, &data)?;
            let [start, stop] = info.data_offsets;
            // A name listed twice is told as that, not as an overlap with itself.
            table.insert(tensor)?;
            if start < end {
                let other = last.unwrap_or_default();
                return Err(WeightsError::TensorOverlap { path: path.to_path_buf(), tensor: name, other });
            }
            check_no_gap(path, end, start)?;
            (end, last) = (stop, Some(name));
        }
        check_no_gap(path, end, data.len())?;
        Ok(Self { table })
    }

    pub(super) fn table(&self) -> &TensorTable {
        &self.table
    }

    /// The same, to put other tensors in it.
    pub(super) fn table_mut(&mut self) -> &mut TensorTable {
        &mut self.table
    }
}

/// The header's text and the data behind it.
pub(super) fn split<'a>(path: &Path, bytes: &'a Bytes) -> Result<(&'a [u8], Bytes)> {
    let available = bytes.len() as u64;
    let truncated = |what: &str, needed, available| {
        Err(WeightsError::Truncated { path: path.to_path_buf(), what: what.to_owned(), needed, available })
    };
    let Some(length) = bytes.first_chunk::<8>() else {
        return truncated("the length of the header", 8, available);
    };
    let length = u64::from_le_bytes(*length);
    check_header_length(path, length)?;
    let end = 8 + length as usize; // at most 100 MB: no overflow
    match (bytes.get(8..end), bytes.slice(end..bytes.len())) {
        (Some(header), Some(data)) => Ok((header, data)),
        _ => truncated("the header", length, available - 8),
    }
}

/// The format allows no holes: bytes that no tensor owns could hide another file.
fn check_no_gap(path: &Path, start: usize, end: usize) -> Result<()> {
    if start < end {
        return Err(WeightsError::UnusedBytes {
            path: path.to_path_buf(),
            start: start as u64,
            end: end as u64,
        });
    }
    Ok(())
}

/// Checks one entry of the header against itself and the data.
fn stored_tensor(file: Arc<Path>, name: &str, info: &Info, data: &Bytes) -> Result<StoredTensor> {
    let path = || file.to_path_buf();
    let dtype: StrDeserializer<'_, ValueError> = info.dtype.as_str().into_deserializer();
    let Ok(dtype) = Dtype::deserialize(dtype) else {
        return Err(unsupported(&file, name, &info.dtype, SUPPORTED));
    };
    let [start, end] = info.data_offsets;
    let Some(bytes) = data.slice(start..end) else {
        let (start, end, available) = (start as u64, end as u64, data.len() as u64);
        return Err(WeightsError::TensorOffsets {
            path: path(),
            tensor: name.to_owned(),
            start,
            end,
            available,
        });
    };
    let count = info.shape.iter().try_fold(1usize, |count, dim| count.checked_mul(*dim));
    let Some(bits) = count.and_then(|count| count.checked_mul(dtype.bitsize())) else {
        let shape = info.shape.iter().map(|dim| *dim as u64).collect();
        return Err(WeightsError::ShapeOverflow { path: path(), tensor: name.to_owned(), shape });
    };
    if bits % 8 != 0 || bits / 8 != bytes.len() {
        return Err(WeightsError::TensorSize {
            path: path(),
            tensor: name.to_owned(),
            dtype: info.dtype.clone(),
            shape: info.shape.clone(),
            found: bytes.len() as u64,
        });
    }
    Ok(StoredTensor {
        name: name.into(),
        shape: info.shape.clone(),
        type_name: info.dtype.clone(),
        dtype: SUPPORTED.iter().copied().find(|supported| supported.name() == info.dtype),
        bytes,
        file,
    })
}

/// What the header says of a tensor.
#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// The header's tensors; the free-form `__metadata__` is left out.
struct Header(Vec<(String, Info)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor::<Info>::without("__metadata__")).map(Header)
    }
}
