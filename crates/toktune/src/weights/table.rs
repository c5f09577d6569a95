//! The tensors of a checkpoint by name, whatever its format: shape, stored type and bytes.
//!
//! Owns lookup and the checks between what a caller expects and what is stored. The readers of the formats
//! fill it with entries whose bytes already fit their shape.

use super::{Bytes, FrozenMatrix};
use crate::error::nearest;
use crate::weights::WeightsError;
use crate::{Error, Result};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use toktune_kernels::weight::encode;
use toktune_kernels::{Matrix, RowOrder, Weight, WeightType};

/// A tensor in its file.
#[derive(Clone, Debug)]
pub(super) struct StoredTensor {
    pub name: Arc<str>,
    /// The file that holds it, for messages: a shard, when there are several.
    pub file: Arc<Path>,
    /// Outermost first, as safetensors and HuggingFace count.
    pub shape: Vec<usize>,
    /// The format's name of the type.
    pub type_name: String,
    /// The type, when it can be decoded.
    pub dtype: Option<WeightType>,
    pub bytes: Bytes,
}

/// All tensors of a checkpoint.
#[derive(Debug)]
pub(super) struct TensorTable {
    path: Arc<Path>,
    supported: &'static [WeightType],
    tensors: Vec<StoredTensor>,
    by_name: HashMap<Arc<str>, usize>,
    /// Tensors that are no longer the file's.
    replaced: Vec<usize>,
}

impl TensorTable {
    /// An empty table for the checkpoint at `path`, whose format can hold the `supported` types.
    pub fn new(path: impl Into<Arc<Path>>, supported: &'static [WeightType]) -> Self {
        Self {
            path: path.into(),
            supported,
            tensors: Vec::new(),
            by_name: HashMap::new(),
            replaced: Vec::new(),
        }
    }

    /// The checkpoint's file.
    pub fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// Adds a tensor; a name that is there already is an error.
    pub fn insert(&mut self, tensor: StoredTensor) -> Result<()> {
        if self.by_name.insert(tensor.name.clone(), self.tensors.len()).is_some() {
            let (path, tensor) = (tensor.file.to_path_buf(), tensor.name.to_string());
            return Err(Error::Weights(WeightsError::DuplicateTensor { path, tensor }));
        }
        self.tensors.push(tensor);
        Ok(())
    }

    /// The tensors in the order they were added.
    pub fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    /// Puts other values, of the same shape, in the place of a tensor's, in its own type where that is a plain one.
    ///
    /// # Errors
    /// There is no tensor of this name, or it has another number of entries.
    pub fn replace(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let shape = self.get(name).map(|tensor| tensor.shape.clone()).unwrap_or_default();
        self.require(name, &shape)?;
        let Some(&at) = self.by_name.get(name) else { return Ok(()) };
        let tensor = &mut self.tensors[at];
        let entries: usize = tensor.shape.iter().product();
        if entries != values.len() {
            let (path, tensor, expected) = (tensor.file.to_path_buf(), name.to_owned(), shape);
            let found = vec![values.len()];
            return Err(WeightsError::TensorShape { path, tensor, expected, found }.into());
        }
        let plain = [WeightType::F32, WeightType::F16, WeightType::BF16];
        let dtype = tensor.dtype.filter(|dtype| plain.contains(dtype)).unwrap_or(WeightType::F32);
        let bytes = encode(dtype, values).ok_or_else(|| Error::Serialise(format!("{name} as {dtype}")))?;
        (tensor.bytes, tensor.dtype, tensor.type_name) =
            (Bytes::owned(bytes), Some(dtype), dtype.name().into());
        if !self.replaced.contains(&at) {
            self.replaced.push(at);
        }
        Ok(())
    }

    /// The names of the replaced tensors.
    pub fn replaced(&self) -> impl Iterator<Item = &str> {
        self.replaced.iter().map(|at| &*self.tensors[*at].name)
    }

    /// The tensors, given away.
    pub fn into_tensors(self) -> Vec<StoredTensor> {
        self.tensors
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&StoredTensor> {
        self.by_name.get(name).map(|at| &self.tensors[*at])
    }

    /// The tensor of this name and shape, in a type that can be decoded.
    fn require(&self, name: &str, expected: &[usize]) -> Result<(&StoredTensor, WeightType)> {
        let Some(tensor) = self.get(name) else {
            let near = nearest(name, self.tensors.iter().map(|tensor| &*tensor.name)).map(str::to_owned);
            return Err(Error::Weights(WeightsError::MissingTensor {
                path: self.path.to_path_buf(),
                tensor: name.to_owned(),
                nearest: near,
            }));
        };
        let (path, name) = (|| tensor.file.to_path_buf(), || tensor.name.to_string());
        if tensor.shape != expected {
            let (expected, found) = (expected.to_vec(), tensor.shape.clone());
            return Err(Error::Weights(WeightsError::TensorShape {
                path: path(),
                tensor: name(),
                expected,
                found,
            }));
        }
        match tensor.dtype {
            Some(dtype) => Ok((tensor, dtype)),
            None => Err(unsupported(&tensor.file, &tensor.name, &tensor.type_name, self.supported)),
        }
    }

    /// A matrix of this shape.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize, order: RowOrder) -> Result<FrozenMatrix> {
        let (tensor, dtype) = self.require(name, &[rows, cols])?;
        FrozenMatrix::new(tensor.name.clone(), tensor.bytes.clone(), dtype, rows, cols, order)
    }

    /// A vector of this length as `f32`; every entry must be finite.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let (tensor, dtype) = self.require(name, &[len])?;
        let weight = Weight::new(dtype, &tensor.bytes, 1, len, RowOrder::Plain).map_err(|source| {
            Error::Weights(WeightsError::Matrix { tensor: tensor.name.to_string(), source })
        })?;
        let mut out = vec![0.0; len];
        weight.decode(0..1, 0..len, &mut out);
        match out.iter().position(|x| !x.is_finite()) {
            None => Ok(out),
            Some(index) => Err(Error::Weights(WeightsError::NonFinite {
                path: tensor.file.to_path_buf(),
                tensor: tensor.name.to_string(),
                index,
                value: out[index],
            })),
        }
    }
}

/// The error for a type that cannot be read, with those that can.
pub(super) fn unsupported(path: &Path, tensor: &str, found: &str, supported: &[WeightType]) -> Error {
    Error::Weights(WeightsError::UnsupportedType {
        path: path.to_path_buf(),
        tensor: tensor.to_owned(),
        found: found.to_owned(),
        supported: supported.iter().map(|dtype| dtype.name()).collect::<Vec<_>>().join(", "),
    })
}
