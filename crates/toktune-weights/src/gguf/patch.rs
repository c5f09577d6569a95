//! A copy of a GGUF file with some rows and some metadata changed, and every other byte as it is.
//!
//! Tensors keep their places in the data, moved only by what those before them have grown, with the gaps and whatever lies
//! between them. Metadata that are not changed are copied as they stand, text that is no text included.

use super::metadata::text_bytes;
use super::reader::Reader;
use super::writer::{put_entry, put_pair};
use super::{Gguf, Listed, Value, read_tensors, read_version};
use crate::writer::TensorOut;
use crate::{Bytes, Result, WeightsError, write_atomically};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

/// What is to be another in the copy of a file.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GgufPatch {
    /// Integers, each in the type that it has in the file.
    pub integers: BTreeMap<String, i64>,
    /// Texts.
    pub texts: BTreeMap<String, String>,
    /// Entries of arrays.
    pub arrays: BTreeMap<String, ArrayPatch>,
    /// Keys that the file does not have.
    pub added: BTreeMap<String, Value>,
    /// Rows of tensors.
    pub tensors: BTreeMap<String, RowPatch>,
}

/// An entry of an array, which is written in the type that the array has.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// Text.
    Text(String),
    /// An integer of any width.
    Integer(i64),
    /// An `f32`.
    Float(f32),
}

/// Entries of an array that are others, and entries behind its last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ArrayPatch {
    /// By their numbers.
    pub changed: BTreeMap<usize, Entry>,
    /// What comes behind.
    pub appended: Vec<Entry>,
}

/// Rows of a tensor (entries of a vector) that are others, and rows behind its last, each with its bytes in the tensor's type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowPatch {
    /// By their numbers.
    pub changed: BTreeMap<usize, Vec<u8>>,
    /// What comes behind.
    pub appended: Vec<Vec<u8>>,
}

/// A file taken apart.
struct Layout<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    pairs: Vec<Pair>,
    /// In the order of the table.
    tensors: Vec<Listed>,
    alignment: u64,
    data: usize,
}

/// Where a metadata pair lies.
struct Pair {
    key: String,
    range: Range<usize>,
    /// Where its value begins, with the number of its type.
    value: usize,
}

/// GGUF's numbers of the types that are changed.
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const F32: u32 = 6;

impl Gguf {
    /// Writes a copy of `source` to `target`, which appears whole or not at all, with what `patch` says. The weights go from
    /// the mapped file to the other and are never held in memory.
    ///
    /// # Errors
    /// `source` is not sound, or one part of several; the patch names a key or tensor that is not there (or adds one that is),
    /// an entry or row past the end, or one of another type or size; `target` cannot be written.
    pub fn write_patched(source: &Path, target: &Path, patch: &GgufPatch) -> Result<()> {
        let bytes = Bytes::map(source)?;
        // sound, and the whole model
        let alignment = Self::from_bytes(source, bytes.clone())?.alignment()?;
        let layout = Layout::of(source, &bytes, alignment)?;
        layout.check(patch)?;
        let header = layout.header(patch)?;
        write_atomically(target, |file| {
            let mut out = TensorOut::new(target, file);
            out.put(&header)?;
            out.align(layout.alignment)?;
            layout.write_data(patch, &mut out)?;
            out.finish()
        })
    }
}

/// An integer as the type of this number has it.
fn integer_bytes(id: u32, x: i64) -> Option<Vec<u8>> {
    Some(match id {
        0 => u8::try_from(x).ok()?.to_le_bytes().to_vec(),
        1 => i8::try_from(x).ok()?.to_le_bytes().to_vec(),
        2 => u16::try_from(x).ok()?.to_le_bytes().to_vec(),
        3 => i16::try_from(x).ok()?.to_le_bytes().to_vec(),
        4 => u32::try_from(x).ok()?.to_le_bytes().to_vec(),
        5 => i32::try_from(x).ok()?.to_le_bytes().to_vec(),
        10 => u64::try_from(x).ok()?.to_le_bytes().to_vec(),
        11 => x.to_le_bytes().to_vec(),
        _ => return None,
    })
}

impl Entry {
    /// Its bytes in an array of the type of this number.
    fn bytes(&self, id: u32) -> Option<Vec<u8>> {
        match self {
            Entry::Text(text) => (id == STRING).then(|| text_bytes(text)),
            Entry::Integer(x) => integer_bytes(id, *x),
            Entry::Float(x) => (id == F32).then(|| x.to_le_bytes().to_vec()),
        }
    }
}

impl<'a> Layout<'a> {
    fn of(path: &'a Path, bytes: &'a [u8], alignment: u64) -> Result<Self> {
        let mut reader = Reader::new(path, bytes);
        read_version(&mut reader)?;
        let (tensors, count) = (reader.u64()?, reader.u64()?);
        let mut pairs = Vec::new();
        for _ in 0..count {
            let start = reader.position() as usize;
            let key = reader.name()?;
            let value = reader.position() as usize;
            let id = reader.u32()?;
            Value::read(&mut reader, id)?;
            pairs.push(Pair { key, range: start..reader.position() as usize, value });
        }
        let tensors = read_tensors(&mut reader, tensors)?;
        let data = reader.position().next_multiple_of(alignment).min(bytes.len() as u64) as usize;
        Ok(Self { path, bytes, pairs, tensors, alignment, data })
    }

    fn misfit(&self, what: &str, found: impl Into<String>, expected: impl Into<String>) -> WeightsError {
        let (path, what) = (self.path.to_path_buf(), what.to_owned());
        WeightsError::Patch { path, what, found: found.into(), expected: expected.into() }
    }

    /// Makes sure that everything that the patch names is there, or is not.
    fn check(&self, patch: &GgufPatch) -> Result<()> {
        let has = |key: &str| self.pairs.iter().any(|pair| pair.key == key);
        let changed = patch.integers.keys().chain(patch.texts.keys()).chain(patch.arrays.keys());
        if let Some(key) = changed.into_iter().find(|key| !has(key)) {
            return Err(self.misfit(key, "no such key", "one of the file's"));
        }
        if let Some(key) = patch.added.keys().find(|key| has(key)) {
            return Err(self.misfit(key, "a key that is there", "a new one"));
        }
        for (name, rows) in &patch.tensors {
            let Some(tensor) = self.tensors.iter().find(|tensor| tensor.name == *name) else {
                return Err(self.misfit(name, "no such tensor", "one of the file's"));
            };
            let (count, size) = (tensor.rows(), tensor.row_bytes());
            if let Some((row, _)) = rows.changed.last_key_value().filter(|(row, _)| **row >= count) {
                return Err(self.misfit(name, format!("row {row}"), format!("one of {count}")));
            }
            let mut all = rows.changed.values().chain(&rows.appended);
            if let Some(row) = all.find(|row| row.len() != size) {
                return Err(self.misfit(
                    name,
                    format!("a row of {} bytes", row.len()),
                    format!("{size} bytes"),
                ));
            }
        }
        Ok(())
    }

    /// Everything before the data.
    fn header(&self, patch: &GgufPatch) -> Result<Vec<u8>> {
        let mut out = self.bytes[..8].to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(((self.pairs.len() + patch.added.len()) as u64).to_le_bytes());
        for pair in &self.pairs {
            if let Some(array) = patch.arrays.get(&pair.key) {
                self.put_array(pair, array, &mut out)?;
            } else if let Some(integer) = patch.integers.get(&pair.key) {
                self.put_integer(pair, *integer, &mut out)?;
            } else if let Some(text) = patch.texts.get(&pair.key) {
                self.put_text(pair, text, &mut out)?;
            } else {
                out.extend(&self.bytes[pair.range.clone()]);
            }
        }
        patch.added.iter().for_each(|(key, value)| put_pair(key, value, &mut out));
        let growth = self.growth(patch);
        for tensor in &self.tensors {
            let mut shape = tensor.shape.clone();
            if let (Some(rows), Some(patch)) = (shape.first_mut(), patch.tensors.get(&tensor.name)) {
                *rows += patch.appended.len();
            }
            let before = growth.range(..tensor.offset).map(|(_, bytes)| bytes).sum::<u64>();
            let (name, kind) = (tensor.name.clone(), tensor.kind);
            put_entry(
                &Listed { name, shape, kind, offset: tensor.offset + before, bytes: tensor.bytes },
                &mut out,
            );
        }
        Ok(out)
    }

    /// What each tensor that gets rows is longer by, a multiple of the alignment, by its offset.
    fn growth(&self, patch: &GgufPatch) -> BTreeMap<u64, u64> {
        let grown = self.tensors.iter().filter_map(|tensor| {
            let rows = patch.tensors.get(&tensor.name)?.appended.len();
            let bytes = ((rows * tensor.row_bytes()) as u64).next_multiple_of(self.alignment);
            (rows > 0).then_some((tensor.offset, bytes))
        });
        grown.collect()
    }

    fn put_integer(&self, pair: &Pair, x: i64, out: &mut Vec<u8>) -> Result<()> {
        let mut reader = Reader::new(self.path, &self.bytes[pair.value..]);
        let id = reader.u32()?;
        let bytes = integer_bytes(id, x)
            .ok_or_else(|| self.misfit(&pair.key, x.to_string(), format!("a value of GGUF's type {id}")))?;
        out.extend(&self.bytes[pair.range.start..pair.value + 4]);
        out.extend(bytes);
        Ok(())
    }

    fn put_text(&self, pair: &Pair, text: &str, out: &mut Vec<u8>) -> Result<()> {
        let id = Reader::new(self.path, &self.bytes[pair.value..]).u32()?;
        if id != STRING {
            return Err(self.misfit(&pair.key, "text", format!("a value of GGUF's type {id}")));
        }
        out.extend(&self.bytes[pair.range.start..pair.value + 4]);
        out.extend(text_bytes(text));
        Ok(())
    }

    fn put_array(&self, pair: &Pair, patch: &ArrayPatch, out: &mut Vec<u8>) -> Result<()> {
        let mut reader = Reader::new(self.path, &self.bytes[pair.value..]);
        if reader.u32()? != ARRAY {
            return Err(self.misfit(&pair.key, "entries of an array", "a single value"));
        }
        let (id, count) = (reader.u32()?, reader.u64()?);
        if let Some((at, _)) = patch.changed.last_key_value().filter(|(at, _)| **at as u64 >= count) {
            return Err(self.misfit(&pair.key, format!("entry {at}"), format!("one of {count}")));
        }
        let bytes = |entry: &Entry| {
            let misfit =
                || self.misfit(&pair.key, format!("{entry:?}"), format!("an entry of GGUF's type {id}"));
            entry.bytes(id).ok_or_else(misfit)
        };
        out.extend(&self.bytes[pair.range.start..pair.value + 8]);
        out.extend((count + patch.appended.len() as u64).to_le_bytes());
        for at in 0..count as usize {
            let start = pair.value + reader.position() as usize;
            match id {
                STRING => {
                    let length = reader.u64()?;
                    reader.take(length)?;
                }
                0 | 1 | 7 => drop(reader.take(1)?),
                2 | 3 => drop(reader.take(2)?),
                4..=6 => drop(reader.take(4)?),
                10..=12 => drop(reader.take(8)?),
                _ => return Err(self.misfit(&pair.key, "entries", "an array of numbers or text")),
            }
            match patch.changed.get(&at) {
                Some(entry) => out.extend(bytes(entry)?),
                None => out.extend(&self.bytes[start..pair.value + reader.position() as usize]),
            }
        }
        for entry in &patch.appended {
            out.extend(bytes(entry)?);
        }
        Ok(())
    }

    fn write_data(&self, patch: &GgufPatch, out: &mut TensorOut<'_>) -> Result<()> {
        let data = &self.bytes[self.data..];
        let mut order: Vec<&Listed> = self.tensors.iter().collect();
        order.sort_by_key(|tensor| (tensor.offset, tensor.bytes));
        let mut next = 0;
        for tensor in order {
            let Some(rows) = patch.tensors.get(&tensor.name) else { continue };
            let (start, size) = (tensor.offset as usize, tensor.row_bytes());
            for (row, bytes) in &rows.changed {
                out.put(&data[next..start + row * size])?;
                out.put(bytes)?;
                next = start + (row + 1) * size;
            }
            let end = start + tensor.bytes as usize;
            out.put(&data[next..end])?;
            next = end;
            let grown: usize = rows.appended.len() * size;
            rows.appended.iter().try_for_each(|row| out.put(row))?;
            out.put(&vec![0; grown.next_multiple_of(self.alignment as usize) - grown])?;
        }
        out.put(&data[next..])
    }
}

impl Listed {
    /// Rows of a matrix, entries of a vector.
    fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }

    fn row_bytes(&self) -> usize {
        self.bytes as usize / self.rows().max(1)
    }
}
