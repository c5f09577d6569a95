//! PyTorch checkpoints (`pytorch_model.bin`): one file, or several named by an index.
//!
//! Owns how a dictionary of tensors is found in what `torch.save` wrote: the [`archive`] of torch 1.6 and later, or the
//! [`stream`] of earlier ones. No code of the file is run: see [`pickle`]. Tensors are mapped where they lie in the file; only a transposed one is copied, since rows must lie
//! one after the other.

use crate::table::{StoredTensor, TensorTable};
use crate::{Bytes, index};
use crate::{Result, WeightsError};
use archive::Archive;
use pickle::{Id, Value, Values};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use toktune_kernels::WeightType;

mod archive;
mod pickle;
mod stream;
#[cfg(test)]
mod tests;

/// The types whose tensors can be used; a file may hold others as long as nobody asks for them.
const SUPPORTED: &[WeightType] = &[WeightType::F32, WeightType::F16, WeightType::BF16];

/// torch's storages: the class, the name of the type (as safetensors has it, where it has one), bytes of an entry.
const STORAGES: [(&str, &str, usize); 16] = [
    ("FloatStorage", "F32", 4),
    ("HalfStorage", "F16", 2),
    ("BFloat16Storage", "BF16", 2),
    ("DoubleStorage", "F64", 8),
    ("LongStorage", "I64", 8),
    ("IntStorage", "I32", 4),
    ("ShortStorage", "I16", 2),
    ("CharStorage", "I8", 1),
    ("ByteStorage", "U8", 1),
    ("BoolStorage", "BOOL", 1),
    ("ComplexFloatStorage", "ComplexFloatStorage", 8),
    ("ComplexDoubleStorage", "ComplexDoubleStorage", 16),
    ("QInt8Storage", "QInt8Storage", 1),
    ("QUInt8Storage", "QUInt8Storage", 1),
    ("QInt32Storage", "QInt32Storage", 4),
    ("UntypedStorage", "UntypedStorage", 1),
];

/// torch has no limit on the dimensions of a tensor, but no model comes near this one.
const MAX_DIMENSIONS: usize = 16;

/// Rows and columns that are transposed at a time, so that both sides stay in the first-level cache.
const TILE: usize = 32;

/// Where a tar archive has its mark.
const TAR_MARK: std::ops::Range<usize> = 257..262;

/// A checkpoint in files that `torch.save` wrote.
#[derive(Clone, Debug)]
pub struct Pytorch {
    table: TensorTable,
}

impl Pytorch {
    /// Opens a single file.
    ///
    /// # Errors
    /// The file cannot be mapped, or it is no sound file of a dictionary of tensors.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_bytes(path, Bytes::map(path)?)
    }

    /// Opens the files that an index (`pytorch_model.bin.index.json`) names; they must lie in its folder.
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
    /// It is no sound file of a dictionary of tensors.
    pub fn from_bytes(path: &Path, bytes: Bytes) -> Result<Self> {
        let copies_left = bytes.len() as u64;
        let file = Arc::from(path);
        if stream::is_stream(&bytes) {
            let (values, storages) = stream::read(path, &bytes)?;
            let storages = Storages::Stream(storages);
            let table = Reader { storages, values: &values, file, copies_left }.tensors()?;
            return Ok(Self { table });
        }
        if !bytes.starts_with(b"PK") {
            return Err(no_torch_file(path, &bytes));
        }
        let archive = Archive::read(path, &bytes)?;
        let folder = folder(&archive)?;
        if let Some(order) = archive.file(&format!("{folder}byteorder"))?
            && *order != *b"little"
        {
            let found = order[..order.len().min(8)].escape_ascii().to_string();
            return Err(fault(path, format!("its numbers are {found}-endian; little-endian ones are read")));
        }
        let program = archive.file(&format!("{folder}data.pkl"))?.unwrap_or_else(|| Bytes::owned(Vec::new()));
        let values = pickle::run(path, &program)?;
        let storages = Storages::Archive { archive, folder };
        let table = Reader { storages, values: &values, file, copies_left }.tensors()?;
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

/// The error for a file that torch did not write, or wrote in a form that is not read.
fn no_torch_file(path: &Path, bytes: &[u8]) -> WeightsError {
    if bytes.get(TAR_MARK).is_some_and(|mark| mark == b"ustar") {
        return WeightsError::PytorchTar { path: path.to_path_buf() };
    }
    let found = bytes[..bytes.len().min(4)].escape_ascii().to_string();
    WeightsError::PytorchFormat { path: path.to_path_buf(), found }
}

/// The error for a file of torch that is damaged or holds something else.
fn fault(path: &Path, problem: impl Into<String>) -> WeightsError {
    WeightsError::PytorchArchive { path: path.to_path_buf(), problem: problem.into() }
}

/// Where the numbers of tensors lie.
enum Storages<'a> {
    Archive { archive: Archive<'a>, folder: &'a str },
    Stream(HashMap<&'a str, Bytes>),
}

impl Storages<'_> {
    /// The storage of this key, and what it is called; `None` when it is not there.
    fn get(&self, key: &str) -> Result<(Option<Bytes>, String)> {
        match self {
            Self::Archive { archive, folder } => {
                let entry = format!("{folder}data/{key}");
                Ok((archive.file(&entry)?, entry))
            }
            Self::Stream(storages) => Ok((storages.get(key).cloned(), key.to_owned())),
        }
    }
}

/// The folder that everything in an archive lies in, with its slash; its name is that of the file when it was
/// saved.
fn folder<'a>(archive: &Archive<'a>) -> Result<&'a str> {
    let mut folders = archive.names().filter_map(|name| name.strip_suffix("data.pkl"));
    match (folders.next(), folders.next()) {
        (Some(folder), None) if folder.is_empty() || folder.ends_with('/') => Ok(folder),
        (None, _) => Err(archive.fault("it holds no 'data.pkl': torch did not write it")),
        _ => Err(archive.fault("it holds more than one 'data.pkl'")),
    }
}

/// Finds the tensors in what the program built.
struct Reader<'r, 'a> {
    storages: Storages<'a>,
    values: &'r Values<'a>,
    file: Arc<Path>,
    /// Bytes that may yet be copied: many views of one storage must not take more memory than the file.
    copies_left: u64,
}

/// What a tensor is rebuilt from.
struct Rebuilt<'a> {
    /// The name of the type, and bytes of an entry where it is a known one.
    kind: String,
    size: Option<usize>,
    key: &'a str,
    offset: u64,
    shape: Vec<u64>,
    strides: Vec<u64>,
}

impl<'a> Reader<'_, 'a> {
    fn tensors(&mut self) -> Result<TensorTable> {
        let mut table = TensorTable::new(self.file.clone(), SUPPORTED);
        let Some(pairs) = self.values.pairs(self.values.top_id()) else {
            return Err(fault(&self.file, "it holds something else than a dictionary of tensors"));
        };
        let mut others = Vec::new();
        for (key, value) in pairs {
            let Some(name) = self.values.text(key) else { continue };
            // numbers and settings beside the tensors are nobody's weights
            let Value::Call(..) = self.values.get(value) else {
                others.push(format!("{name} ({})", self.values.described(value)));
                continue;
            };
            let Some(rebuilt) = self.rebuilt(value) else {
                let what = self.values.described(value);
                return Err(fault(&self.file, format!("'{name}' is {what}, which is not read as a tensor")));
            };
            table.insert(self.stored(name, rebuilt)?)?;
        }
        if table.tensors().is_empty() {
            others.truncate(8);
            let found = if others.is_empty() { "nothing".into() } else { others.join(", ") };
            return Err(fault(&self.file, format!("its dictionary holds no tensors but {found}")));
        }
        Ok(table)
    }

    /// What the tensor `id` is rebuilt from; `None` when it is no tensor of a form that torch writes.
    fn rebuilt(&self, id: Id) -> Option<Rebuilt<'a>> {
        let values = self.values;
        let (mut name, mut arguments) = self.call(id)?;
        // around a tensor: that it is a parameter, or of a class of its own
        for _ in 0..2 {
            (name, arguments) = match name {
                ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                    self.call(*arguments.first()?)?
                }
                ("torch._tensor", "_rebuild_from_type_v2") => {
                    let [of, _, inner, ..] = *arguments else { return None };
                    (self.global(of)?, values.tuple(inner)?)
                }
                _ => break,
            };
        }
        let [storage, offset, shape, strides, ..] = *arguments else { return None };
        let Value::Outside(storage) = *values.get(storage) else { return None };
        let [_, class, key, ref rest @ ..] = *values.tuple(storage)? else { return None };
        // torch before 0.4 had storages that are parts of others: their key, where they begin, how long they are
        let part = match rest.get(2).and_then(|part| values.tuple(*part)) {
            Some(part) => values.number(*part.get(1)?)?,
            None => 0,
        };
        let storage = self.global(class)?.1;
        let known = STORAGES.iter().find(|(class, _, _)| *class == storage);
        let (mut kind, mut size) = match known {
            Some((_, kind, size)) => (kind.to_string(), Some(*size)),
            None => (storage.to_owned(), None),
        };
        match name {
            ("torch._utils", "_rebuild_tensor_v2") => {
                // such a tensor is not what its storage holds, but its negative or conjugate
                if let Some(Value::Dict(marks)) = arguments.get(6).map(|id| values.get(*id))
                    && !marks.is_empty()
                {
                    (kind, size) = (format!("{kind} with a mark"), None);
                }
            }
            // the form of types that came after the classes of storages
            ("torch._utils", "_rebuild_tensor_v3") => {
                (kind, size) = (self.global(*arguments.get(6)?)?.1.to_owned(), None);
            }
            // before torch 0.4
            ("torch._utils", "_rebuild_tensor") => {}
            _ => return None,
        }
        // one more than is allowed is enough to be refused
        let numbers = |id| values.numbers(id, MAX_DIMENSIONS + 1);
        let (offset, shape, strides) = (values.number(offset)?, numbers(shape)?, numbers(strides)?);
        let (key, offset) = (values.text(key)?, offset.checked_add(part)?);
        (shape.len() == strides.len()).then_some(Rebuilt { kind, size, key, offset, shape, strides })
    }

    /// The function and the arguments of a call.
    fn call(&self, id: Id) -> Option<((&'a str, &'a str), &[Id])> {
        match *self.values.get(id) {
            Value::Call(of, arguments) => Some((self.global(of)?, self.values.tuple(arguments)?)),
            _ => None,
        }
    }

    fn global(&self, id: Id) -> Option<(&'a str, &'a str)> {
        match *self.values.get(id) {
            Value::Global(module, name) => Some((module, name)),
            _ => None,
        }
    }

    /// The tensor in its storage, all bounds checked. One that cannot be used is listed without a type.
    fn stored(&mut self, name: &str, tensor: Rebuilt<'a>) -> Result<StoredTensor> {
        let path = || self.file.to_path_buf();
        let (storage, called) = self.storages.get(tensor.key)?;
        let Some(storage) = storage else {
            return Err(fault(&self.file, format!("'{called}', the storage of '{name}', is missing")));
        };
        if tensor.shape.len() > MAX_DIMENSIONS {
            let (found, limit) = (tensor.shape.len() as u32, MAX_DIMENSIONS as u32);
            return Err(WeightsError::TensorDimensions {
                path: path(),
                tensor: name.to_owned(),
                found,
                limit,
            });
        }
        let overflow = || WeightsError::ShapeOverflow {
            path: path(),
            tensor: name.to_owned(),
            shape: tensor.shape.clone(),
        };
        let shape: Option<Vec<usize>> = tensor.shape.iter().map(|dim| usize::try_from(*dim).ok()).collect();
        let count = tensor.shape.iter().try_fold(1u64, |count, dim| count.checked_mul(*dim));
        let (Some(shape), Some(count)) = (shape, count) else { return Err(overflow()) };
        let mut stored = StoredTensor {
            name: name.into(),
            file: self.file.clone(),
            shape,
            type_name: tensor.kind.clone(),
            dtype: None,
            bytes: Bytes::owned(Vec::new()),
        };
        let Some(size) = tensor.size else { return Ok(stored) };
        // from the first to the last entry; none when the tensor is empty
        let span = match count {
            0 => Some(0),
            _ => (tensor.shape.iter().zip(&tensor.strides))
                .try_fold(1u64, |span, (dim, stride)| span.checked_add((dim - 1).checked_mul(*stride)?)),
        };
        let start = tensor.offset.checked_mul(size as u64);
        let length = span.and_then(|span| span.checked_mul(size as u64));
        let (Some(start), Some(length)) = (start, length) else { return Err(overflow()) };
        let end = start.saturating_add(length);
        let inside = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let Some(bytes) = inside.and_then(|(start, end)| storage.slice(start..end)) else {
            let (tensor, available) = (name.to_owned(), storage.len() as u64);
            return Err(WeightsError::TensorOffsets { path: path(), tensor, start, end, available });
        };
        stored.bytes = match layout(&tensor.shape, &tensor.strides) {
            Layout::Rows => bytes,
            Layout::Columns => {
                self.copies_left = self.copies_left.checked_sub(length).ok_or_else(|| {
                    fault(
                        &self.file,
                        "its transposed tensors take more memory than the file: many share bytes",
                    )
                })?;
                transposed(&bytes, stored.shape[0], stored.shape[1], size)
            }
            Layout::Other => {
                stored.type_name = format!("{} with the strides {:?}", tensor.kind, tensor.strides);
                return Ok(stored);
            }
        };
        stored.dtype = SUPPORTED.iter().copied().find(|supported| supported.name() == stored.type_name);
        Ok(stored)
    }
}

/// How a tensor lies in its storage.
enum Layout {
    /// As in C: the last dimension without gaps, and so on.
    Rows,
    /// A matrix, column by column.
    Columns,
    Other,
}

fn layout(shape: &[u64], strides: &[u64]) -> Layout {
    // The stride of a dimension of one is never taken, and nothing of an empty tensor is.
    let follow = |next: u64, at: usize| {
        (shape[at] == 1 || strides[at] == next).then(|| next.saturating_mul(shape[at]))
    };
    let rows = (0..shape.len()).rev().try_fold(1, follow);
    match shape.len() {
        _ if shape.contains(&0) || rows.is_some() => Layout::Rows,
        2 if (0..2).try_fold(1, follow).is_some() => Layout::Columns,
        _ => Layout::Other,
    }
}

/// The rows of a matrix of `size` bytes an entry that lies column by column.
fn transposed(columns: &[u8], rows: usize, cols: usize, size: usize) -> Bytes {
    let mut out = vec![0u8; columns.len()];
    for first_row in (0..rows).step_by(TILE) {
        for first_col in (0..cols).step_by(TILE) {
            for row in first_row..rows.min(first_row + TILE) {
                for col in first_col..cols.min(first_col + TILE) {
                    let (to, from) = ((row * cols + col) * size, (col * rows + row) * size);
                    out[to..to + size].copy_from_slice(&columns[from..from + size]);
                }
            }
        }
    }
    Bytes::owned(out)
}
