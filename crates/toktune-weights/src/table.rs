//! The tensors of a checkpoint by name, whatever its format: shape, stored type and bytes.
//!
//! Owns lookup and the checks between what a caller expects and what is stored. The readers of the formats
//! fill it with entries whose bytes already fit their shape.

use crate::nearest;
use crate::{Bytes, FrozenMatrix};
use crate::{Result, WeightsError};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use toktune_kernels::weight::encode;
use toktune_kernels::{Isa, Matrix, RowOrder, Weight, WeightType};

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
#[derive(Clone, Debug)]
pub(super) struct TensorTable {
    path: Arc<Path>,
    supported: &'static [WeightType],
    tensors: Vec<StoredTensor>,
    by_name: HashMap<Arc<str>, usize>,
    /// Tensors that are no longer the file's.
    replaced: Vec<usize>,
    /// How tensors of 8-bit floats are scaled, when they are.
    scaling: Option<Scaling>,
}

/// How tensors of 8-bit floats are scaled: by tensors of their names and an ending, one number for each block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaling {
    /// Rows and columns of a block; `None` where the shape of the scales tells.
    pub block: Option<[usize; 2]>,
}

/// What the names of scales have behind those of the weights.
const SCALE_ENDINGS: [&str; 2] = ["_scale_inv", "_scale"];

/// The types that are read with scales only.
const SCALED: [WeightType; 2] = [WeightType::F8E4M3, WeightType::F8E5M2];

impl TensorTable {
    /// An empty table for the checkpoint at `path`, whose format can hold the `supported` types.
    pub fn new(path: impl Into<Arc<Path>>, supported: &'static [WeightType]) -> Self {
        Self {
            path: path.into(),
            supported,
            tensors: Vec::new(),
            by_name: HashMap::new(),
            replaced: Vec::new(),
            scaling: None,
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
            return Err(WeightsError::DuplicateTensor { path, tensor });
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
            return Err(WeightsError::TensorShape { path, tensor, expected, found });
        }
        let plain = [WeightType::F32, WeightType::F16, WeightType::BF16];
        let dtype = tensor.dtype.filter(|dtype| plain.contains(dtype)).unwrap_or(WeightType::F32);
        let bytes =
            encode(dtype, values).ok_or_else(|| WeightsError::Serialise(format!("{name} as {dtype}")))?;
        (tensor.bytes, tensor.dtype, tensor.type_name) =
            (Bytes::owned(bytes), Some(dtype), dtype.name().into());
        if !self.replaced.contains(&at) {
            self.replaced.push(at);
        }
        Ok(())
    }

    /// From now on tensors of 8-bit floats are read, with their scales.
    pub fn set_scaling(&mut self, scaling: Scaling) {
        self.scaling = Some(scaling);
    }

    /// The scales of a tensor, where it has any.
    pub fn scales_of(&self, name: &str) -> Option<&StoredTensor> {
        self.scaling?;
        SCALE_ENDINGS.iter().find_map(|ending| self.get(&format!("{name}{ending}")))
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
            return Err(WeightsError::MissingTensor {
                path: self.path.to_path_buf(),
                tensor: name.to_owned(),
                nearest: near,
            });
        };
        let (path, name) = (|| tensor.file.to_path_buf(), || tensor.name.to_string());
        if tensor.shape != expected {
            let (expected, found) = (expected.to_vec(), tensor.shape.clone());
            return Err(WeightsError::TensorShape { path: path(), tensor: name(), expected, found });
        }
        let scaled = || SCALED.into_iter().find(|dtype| dtype.name() == tensor.type_name);
        match tensor.dtype.or_else(|| scaled().filter(|_| self.scaling.is_some())) {
            Some(dtype) => Ok((tensor, dtype)),
            None => Err(unsupported(&tensor.file, &tensor.name, &tensor.type_name, self.supported)),
        }
    }

    /// A matrix of this shape.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize, order: RowOrder) -> Result<FrozenMatrix> {
        let (tensor, dtype) = self.require(name, &[rows, cols])?;
        let matrix = FrozenMatrix::new(tensor.name.clone(), tensor.bytes.clone(), dtype, rows, cols, order)?;
        match self.scaling {
            Some(scaling) if SCALED.contains(&dtype) => self.scaled(matrix, scaling),
            _ => Ok(matrix),
        }
    }

    /// The matrices that lie one after the other in a tensor `[count, rows, cols]`. They share its bytes.
    pub fn matrices(&self, name: &str, count: usize, rows: usize, cols: usize) -> Result<Vec<FrozenMatrix>> {
        if self.is_microscaled(name) {
            return self.microscaled(name, count, rows, cols);
        }
        let (tensor, dtype) = self.require(name, &[count, rows, cols])?;
        let refused = || unsupported(&tensor.file, &tensor.name, &tensor.type_name, self.supported);
        if SCALED.contains(&dtype) {
            return Err(refused());
        }
        let all = count.checked_mul(rows).ok_or_else(refused)?;
        let (name, bytes) = (tensor.name.clone(), tensor.bytes.clone());
        let whole = FrozenMatrix::new(name, bytes, dtype, all, cols, RowOrder::Plain)?;
        (0..count).map(|at| whole.part(at * rows..(at + 1) * rows).ok_or_else(refused)).collect()
    }

    /// A matrix of 8-bit floats with its scales.
    fn scaled(&self, matrix: FrozenMatrix, scaling: Scaling) -> Result<FrozenMatrix> {
        let name = matrix.name().to_owned();
        let Some(scales) = self.scales_of(&name) else {
            let tensor = format!("{name}{}", SCALE_ENDINGS[0]);
            let path = self.path.to_path_buf();
            return Err(WeightsError::MissingTensor { path, tensor, nearest: None });
        };
        let (rows, cols) = (matrix.rows(), matrix.cols());
        // a single number may be a matrix, a vector or neither, one for each row a vector
        let grid = match *scales.shape {
            [] => [1, 1],
            [down] => [down, 1],
            [down, across] => [down, across],
            _ => [0, 0],
        };
        let by_blocks = scaling.block.filter(|[height, width]| {
            *height > 0 && *width > 0 && grid == [rows.div_ceil(*height), cols.div_ceil(*width)]
        });
        let divides = grid[0] > 0 && grid[1] > 0 && rows % grid[0] == 0 && cols % grid[1] == 0;
        let by_shape = || divides.then(|| [(rows / grid[0]).max(1), (cols / grid[1]).max(1)]);
        let Some(block) = by_blocks.or_else(by_shape) else {
            let [height, width] = scaling.block.unwrap_or([1, 1]).map(|side| side.max(1));
            return Err(WeightsError::TensorShape {
                path: scales.file.to_path_buf(),
                tensor: scales.name.to_string(),
                expected: vec![rows.div_ceil(height), cols.div_ceil(width)],
                found: scales.shape.clone(),
            });
        };
        matrix.scaled(self.scale_values(scales)?, block)
    }

    /// The numbers of a tensor of scales: floats, or the exponents of powers of two.
    fn scale_values(&self, scales: &StoredTensor) -> Result<Vec<f32>> {
        if matches!(scales.type_name.as_str(), "U8" | "F8_E8M0") {
            let power = |exponent: &u8| (f32::from(*exponent) - 127.0).exp2();
            return Ok(scales.bytes.iter().map(power).collect());
        }
        let Some(dtype) = scales.dtype else {
            return Err(unsupported(&scales.file, &scales.name, &scales.type_name, self.supported));
        };
        let count = scales.shape.iter().product();
        let name = scales.name.clone();
        let values = FrozenMatrix::new(name, scales.bytes.clone(), dtype, 1, count, RowOrder::Plain)?;
        Ok(values.decode_rows(0..1))
    }

    /// A vector of this length as `f32`; every entry must be finite.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.entries(name, &[len])
    }

    /// All entries of a small tensor of this shape, as `f32`; every one must be finite.
    pub fn entries(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (tensor, dtype) = self.require(name, shape)?;
        let len = shape.iter().product();
        if SCALED.contains(&dtype) {
            return Err(unsupported(&tensor.file, &tensor.name, &tensor.type_name, self.supported));
        }
        let weight = Weight::new(dtype, &tensor.bytes, 1, len, RowOrder::Plain)
            .map_err(|source| WeightsError::Matrix { tensor: tensor.name.to_string(), source })?;
        let mut out = vec![0.0; len];
        // exact: the same bits on every instruction set
        weight.decode(Isa::best(), 0..1, 0..len, &mut out);
        match out.iter().position(|x| !x.is_finite()) {
            None => Ok(out),
            Some(index) => Err(WeightsError::NonFinite {
                path: tensor.file.to_path_buf(),
                tensor: tensor.name.to_string(),
                index,
                value: out[index],
            }),
        }
    }

    /// A single number, with a dimension or without.
    pub fn number(&self, name: &str) -> Result<f32> {
        let is_scalar = self.get(name).is_some_and(|tensor| tensor.shape.is_empty());
        let values = if is_scalar { self.entries(name, &[])? } else { self.vector(name, 1)? };
        Ok(values.first().copied().unwrap_or_default())
    }
}

/// The error for a type that cannot be read, with those that can.
pub(super) fn unsupported(path: &Path, tensor: &str, found: &str, supported: &[WeightType]) -> WeightsError {
    WeightsError::UnsupportedType {
        path: path.to_path_buf(),
        tensor: tensor.to_owned(),
        found: found.to_owned(),
        supported: supported.iter().map(|dtype| dtype.name()).collect::<Vec<_>>().join(", "),
    }
}
