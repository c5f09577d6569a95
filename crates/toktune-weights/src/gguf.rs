//! GGUF files, versions 2 and 3: metadata and the table of tensors.
//!
//! Owns the file's layout and its checks. What a key or a tensor name means is the model families' and the
//! tokenizer's business; block formats are the kernels'.

use crate::Bytes;
use crate::table::{StoredTensor, TensorTable, unsupported};
use crate::{Result, WeightsError};
use reader::Reader;
use std::path::Path;
use std::sync::Arc;
use toktune_kernels::WeightType;

mod metadata;
mod patch;
mod reader;
mod split;
#[cfg(test)]
mod tests;
mod writer;

pub use metadata::{Array, FromValue, Metadata, Value};
pub use patch::{ArrayPatch, Entry, GgufPatch, RowPatch};
use split::Split;
pub(super) use split::one_model;
pub use writer::write_gguf_into;

/// The alignment of tensors where the metadata give none.
const DEFAULT_ALIGNMENT: u64 = 32;

/// GGML's limit on the dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 4;

/// A tensor's entry takes at least this many bytes: two lengths, a count, a type and an offset.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;

/// A GGUF file, or a model that is spread over several.
#[derive(Clone, Debug)]
pub struct Gguf {
    version: u32,
    metadata: Metadata,
    table: TensorTable,
}

/// A tensor as the table in the file describes it.
struct Listed {
    name: String,
    shape: Vec<usize>,
    kind: Kind,
    offset: u64,
    bytes: u64,
}

impl Gguf {
    /// Opens a file; any part of a model that is spread over several (`model-00001-of-00003.gguf`) opens them all, and
    /// the metadata are those of the first.
    ///
    /// # Errors
    /// The file cannot be mapped, or it is not a sound GGUF file of version 2 or 3; a part is missing or of another
    /// model.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = Self::map(path)?;
        match Split::of(&opened.metadata)? {
            Some(split) => split.join(path, opened),
            None => Ok(opened),
        }
    }

    /// Reads a file that is already in memory or mapped; `path` is what messages call it.
    ///
    /// # Errors
    /// It is not a sound GGUF file of version 2 or 3, or it is one part of a model.
    pub fn from_bytes(path: &Path, bytes: Bytes) -> Result<Self> {
        let read = Self::part(path, bytes)?;
        match read.metadata.get::<u64>("split.count")?.filter(|parts| *parts > 1) {
            Some(parts) => Err(WeightsError::GgufSplit { path: path.to_path_buf(), parts }),
            None => Ok(read),
        }
    }

    /// Maps a file, which may be one part of a model.
    fn map(path: &Path) -> Result<Self> {
        Self::part(path, Bytes::map(path)?)
    }

    fn part(path: &Path, bytes: Bytes) -> Result<Self> {
        let path: Arc<Path> = path.into();
        let mut reader = Reader::new(&path, &bytes);
        let version = read_version(&mut reader)?;
        let (tensors, pairs) = (reader.u64()?, reader.u64()?);
        let metadata = Metadata::read(&mut reader, path.clone(), pairs)?;
        let listed = read_tensors(&mut reader, tensors)?;
        let alignment = alignment(&path, &metadata)?;
        // A file without tensors may end before the data would begin.
        let begin = reader.position().checked_next_multiple_of(alignment);
        let begin =
            begin.and_then(|begin| usize::try_from(begin).ok()).map_or(bytes.len(), |b| b.min(bytes.len()));
        let data = bytes.slice(begin..bytes.len()).unwrap_or_else(|| Bytes::owned(Vec::new()));
        let table = place(path, listed, &data, alignment)?;
        Ok(Self { version, metadata, table })
    }

    /// Tensors begin at multiples of it.
    fn alignment(&self) -> Result<u64> {
        alignment(self.table.path(), &self.metadata)
    }

    /// The version of the format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What the file says about its model and tokenizer.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub(super) fn table(&self) -> &TensorTable {
        &self.table
    }

    /// The same, to put other tensors in it.
    pub(super) fn table_mut(&mut self) -> &mut TensorTable {
        &mut self.table
    }
}

fn alignment(path: &Path, metadata: &Metadata) -> Result<u64> {
    let alignment = metadata.get::<u64>("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
    match alignment.is_power_of_two() {
        true => Ok(alignment),
        false => Err(WeightsError::GgufAlignment { path: path.to_path_buf(), found: alignment }),
    }
}

fn read_version(reader: &mut Reader<'_>) -> Result<u32> {
    reader.enter(|| "the header".to_owned());
    let magic = reader.take(4)?;
    if magic != b"GGUF" {
        let found = magic.escape_ascii().to_string();
        return Err(WeightsError::GgufMagic { path: reader.path().to_path_buf(), found });
    }
    match reader.u32()? {
        version @ (2 | 3) => Ok(version),
        found => Err(WeightsError::GgufVersion { path: reader.path().to_path_buf(), found }),
    }
}

fn read_tensors(reader: &mut Reader<'_>, count: u64) -> Result<Vec<Listed>> {
    reader.enter(|| format!("the table of {count} tensors"));
    let count = reader.check_count(count, MIN_TENSOR_BYTES)?;
    (0..count).map(|i| read_tensor(reader, i)).collect()
}

fn read_tensor(reader: &mut Reader<'_>, i: usize) -> Result<Listed> {
    reader.enter(|| format!("the name of tensor {i}"));
    let name = reader.name()?;
    reader.enter(|| format!("the entry of tensor '{name}'"));
    let path = reader.path().to_path_buf();
    let dimensions = reader.u32()?;
    if dimensions > MAX_DIMENSIONS {
        let limit = MAX_DIMENSIONS;
        return Err(WeightsError::TensorDimensions { path, tensor: name, found: dimensions, limit });
    }
    let mut dims = Vec::with_capacity(dimensions as usize);
    for _ in 0..dimensions {
        dims.push(reader.u64()?);
    }
    let id = reader.u32()?;
    let offset = reader.u64()?;
    let Some(kind) = Kind::from_id(id) else {
        return Err(unsupported(reader.path(), &name, &format!("GGML type {id}"), WeightType::GGUF));
    };
    // GGUF counts the innermost dimension first.
    dims.reverse();
    let shape: Option<Vec<usize>> = dims.iter().map(|dim| usize::try_from(*dim).ok()).collect();
    let count = dims.iter().try_fold(1u64, |count, dim| count.checked_mul(*dim));
    let (Some(shape), Some(count)) = (shape, count.filter(|count| usize::try_from(*count).is_ok())) else {
        return Err(WeightsError::ShapeOverflow { path, tensor: name, shape: dims });
    };
    let cols = shape.last().copied().unwrap_or(1);
    if !(cols as u64).is_multiple_of(kind.block_len) {
        return Err(WeightsError::TensorBlocks { path, tensor: name, dtype: kind.name.to_owned(), cols });
    }
    let Some(bytes) = (count / kind.block_len).checked_mul(kind.block_bytes) else {
        return Err(WeightsError::ShapeOverflow { path, tensor: name, shape: dims });
    };
    Ok(Listed { name, shape, kind, offset, bytes })
}

/// Finds each tensor's bytes in the data and checks that no two share any.
fn place(path: Arc<Path>, mut listed: Vec<Listed>, data: &Bytes, alignment: u64) -> Result<TensorTable> {
    let mut table = TensorTable::new(path.clone(), WeightType::GGUF);
    listed.sort_by(|a, b| (a.offset, a.bytes, &a.name).cmp(&(b.offset, b.bytes, &b.name)));
    let (mut end, mut last) = (0, String::new());
    for Listed { name, shape, kind, offset, bytes } in listed {
        if !offset.is_multiple_of(alignment) {
            return Err(WeightsError::TensorAlignment {
                path: path.to_path_buf(),
                tensor: name,
                offset,
                alignment,
            });
        }
        let stop = offset.saturating_add(bytes);
        let range = usize::try_from(offset).ok().zip(usize::try_from(stop).ok());
        let Some(stored) = range.and_then(|(start, stop)| data.slice(start..stop)) else {
            let available = data.len() as u64;
            return Err(WeightsError::TensorOffsets {
                path: path.to_path_buf(),
                tensor: name,
                start: offset,
                end: stop,
                available,
            });
        };
        // A name listed twice is told as that, not as an overlap with itself.
        table.insert(StoredTensor {
            name: name.as_str().into(),
            file: path.clone(),
            shape,
            type_name: kind.name.to_owned(),
            dtype: WeightType::GGUF.iter().copied().find(|dtype| dtype.name() == kind.name),
            bytes: stored,
        })?;
        if offset < end {
            return Err(WeightsError::TensorOverlap { path: path.to_path_buf(), tensor: name, other: last });
        }
        (end, last) = (stop, name);
    }
    Ok(table)
}

/// A GGML type: those that cannot be decoded are known too, so that a file with one can be listed and told
/// about.
#[derive(Clone, Copy)]
struct Kind {
    id: u32,
    name: &'static str,
    block_len: u64,
    block_bytes: u64,
}

/// Number, name, weights in a block and bytes of a block of every type.
#[rustfmt::skip]
const KINDS: [(u32, &str, u64, u64); 40] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    // taken out of GGML again
    (31, "Q4_0_4_4", 32, 18),
    (32, "Q4_0_4_8", 32, 18),
    (33, "Q4_0_8_8", 32, 18),
    (36, "IQ4_NL_4_4", 32, 18),
    (37, "IQ4_NL_4_8", 32, 18),
    (38, "IQ4_NL_8_8", 32, 18),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
];

impl Kind {
    fn from_id(id: u32) -> Option<Kind> {
        Self::find(|kind| kind.id == id)
    }

    fn named(name: &str) -> Option<Kind> {
        Self::find(|kind| kind.name == name)
    }

    fn find(is_wanted: impl Fn(&Kind) -> bool) -> Option<Kind> {
        let mut kinds =
            KINDS.iter().map(|&(id, name, block_len, block_bytes)| Kind { id, name, block_len, block_bytes });
        kinds.find(is_wanted)
    }
}
