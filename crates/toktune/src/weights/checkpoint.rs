//! A model's weights in whichever format they come, behind one interface.
//!
//! Owns the choice of the format by what lies at a path. It does not know which tensors a model has or what they are
//! called in each format.

use super::table::{StoredTensor, TensorTable};
use super::{FrozenMatrix, Gguf, Safetensors};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use toktune_kernels::{RowOrder, WeightType};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// How many entries of a folder a message lists.
const LISTED: usize = 12;

/// A model's frozen weights.
#[derive(Debug)]
pub enum Checkpoint {
    /// One safetensors file, or several with an index.
    Safetensors(Safetensors),
    /// A GGUF file.
    Gguf(Gguf),
}

impl Checkpoint {
    /// Opens a `.safetensors` or `.gguf` file, or a folder with `model.safetensors`, `model.safetensors.index.json`
    /// or (where there is neither) exactly one `.gguf` file.
    ///
    /// # Errors
    /// Nothing of that is there (the message says what is), or the file is not sound.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
        if metadata.is_dir() {
            return Self::open_folder(path);
        }
        if has_extension(path, "gguf") {
            return Gguf::open(path).map(Self::Gguf);
        }
        if has_extension(path, "safetensors") {
            return Safetensors::open(path).map(Self::Safetensors);
        }
        if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".safetensors.index.json")) {
            return Safetensors::open_index(path).map(Self::Safetensors);
        }
        Err(Error::NoCheckpoint {
            path: path.to_path_buf(),
            wanted: "a .safetensors file, a .safetensors.index.json file, a .gguf file or a folder",
            found: "a file of another kind".to_owned(),
        })
    }

    fn open_folder(folder: &Path) -> Result<Self> {
        if folder.join(SINGLE).is_file() {
            return Safetensors::open(&folder.join(SINGLE)).map(Self::Safetensors);
        }
        if folder.join(INDEX).is_file() {
            return Safetensors::open_index(&folder.join(INDEX)).map(Self::Safetensors);
        }
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
            entries.push(entry.map_err(Error::io(folder))?.path());
        }
        entries.sort();
        let ggufs: Vec<&PathBuf> =
            entries.iter().filter(|path| has_extension(path, "gguf") && path.is_file()).collect();
        match ggufs.as_slice() {
            [one] => Gguf::open(one).map(Self::Gguf),
            _ => Err(Error::NoCheckpoint {
                path: folder.to_path_buf(),
                wanted: "model.safetensors, model.safetensors.index.json or exactly one .gguf file",
                found: listing(&entries),
            }),
        }
    }

    fn table(&self) -> &TensorTable {
        match self {
            Checkpoint::Safetensors(safetensors) => safetensors.table(),
            Checkpoint::Gguf(gguf) => gguf.table(),
        }
    }

    fn tensors(&self) -> &[StoredTensor] {
        self.table().tensors()
    }

    /// The file that was opened: the safetensors file or its index, or the GGUF file.
    pub fn path(&self) -> &Path {
        self.table().path()
    }

    /// The names of all tensors, in the order of the data (of the files by name, when there are several).
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors().iter().map(|tensor| &*tensor.name)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.table().get(name).is_some()
    }

    /// The shape of a tensor, outermost first: `[rows, cols]` for a linear layer's weight.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.table().get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// The stored type of a tensor; `None` when there is no such tensor or its type cannot be decoded.
    pub fn dtype(&self, name: &str) -> Option<WeightType> {
        self.table().get(name).and_then(|tensor| tensor.dtype)
    }

    /// The format's own name of a tensor's type, decodable or not.
    pub fn type_name(&self, name: &str) -> Option<&str> {
        self.table().get(name).map(|tensor| tensor.type_name.as_str())
    }

    /// The bytes of a tensor as they are stored, whatever its type.
    pub fn stored_bytes(&self, name: &str) -> Option<&[u8]> {
        self.table().get(name).map(|tensor| &*tensor.bytes)
    }

    /// A `[rows, cols]` matrix, left where it is.
    ///
    /// # Errors
    /// There is no such tensor (the nearest name is told), it has another shape, or its type cannot be decoded.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize, order: RowOrder) -> Result<FrozenMatrix> {
        self.table().matrix(name, rows, cols, order)
    }

    /// A vector of `len` entries, as `f32`: the weights of a norm, a bias.
    ///
    /// # Errors
    /// As [`Checkpoint::matrix`], and when an entry is a NaN or an infinity.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.table().vector(name, len)
    }

    /// The GGUF file, for its metadata.
    pub fn as_gguf(&self) -> Option<&Gguf> {
        match self {
            Checkpoint::Safetensors(_) => None,
            Checkpoint::Gguf(gguf) => Some(gguf),
        }
    }

    /// Bytes of all tensors as they are stored.
    pub fn total_bytes(&self) -> u64 {
        self.tensors().iter().map(|tensor| tensor.bytes.len() as u64).sum()
    }

    /// Entries of all tensors.
    pub fn total_parameters(&self) -> u64 {
        self.tensors().iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum()
    }
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(wanted))
}

/// What is in a folder, for a message.
fn listing(entries: &[PathBuf]) -> String {
    let names: Vec<_> = entries.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy())).collect();
    match names.len() {
        0 => "nothing".to_owned(),
        count if count > LISTED => format!("{} and {} more", names[..LISTED].join(", "), count - LISTED),
        _ => names.join(", "),
    }
}
