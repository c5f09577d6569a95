//! Tensors that another program holds in memory: a model that was loaded elsewhere, with whatever was changed in it.
//!
//! Owns the checks between their shapes and their bytes. Whose memory it is and how long it lives is the owner's of
//! [`Bytes::borrowed`].

use crate::table::{StoredTensor, TensorTable};
use crate::{Bytes, Result, WeightsError};
use std::path::Path;
use std::sync::Arc;
use toktune_kernels::WeightType;

/// The types that can be used; the same as in files of such programs.
const SUPPORTED: &[WeightType] = &[WeightType::F32, WeightType::F16, WeightType::BF16];

/// A tensor in memory.
#[derive(Clone, Debug)]
pub struct MemoryTensor {
    /// Its full name.
    pub name: String,
    /// The type's name as safetensors files have it: `F32`, `BF16`.
    pub type_name: String,
    /// Outermost first.
    pub shape: Vec<usize>,
    /// Its entries, row by row, in the machine's order of bytes.
    pub bytes: Bytes,
}

/// The weights of a model in memory.
#[derive(Clone, Debug)]
pub struct Memory {
    table: TensorTable,
}

impl Memory {
    /// Takes tensors as they lie; `path` is what messages call them.
    ///
    /// Those of other types than `F32`, `F16` and `BF16` are there too, as long as nobody asks for them (a buffer of positions).
    ///
    /// # Errors
    /// A name comes twice; a tensor's bytes are not what its shape and type need.
    pub fn new(path: &Path, tensors: impl IntoIterator<Item = MemoryTensor>) -> Result<Self> {
        let mut table = TensorTable::new(path, SUPPORTED);
        for MemoryTensor { name, type_name, shape, bytes } in tensors {
            let dtype = SUPPORTED.iter().copied().find(|supported| supported.name() == type_name);
            let entries = shape.iter().try_fold(1usize, |entries, size| entries.checked_mul(*size));
            if let Some(dtype) = dtype
                && entries.and_then(|entries| entries.checked_mul(entry_bytes(dtype))) != Some(bytes.len())
            {
                let (path, found) = (path.to_path_buf(), bytes.len() as u64);
                return Err(WeightsError::TensorSize { path, tensor: name, dtype: type_name, shape, found });
            }
            let file = table.path().clone();
            table.insert(StoredTensor { name: Arc::from(name), file, shape, type_name, dtype, bytes })?;
        }
        Ok(Self { table })
    }

    pub(super) fn table(&self) -> &TensorTable {
        &self.table
    }

    pub(super) fn table_mut(&mut self) -> &mut TensorTable {
        &mut self.table
    }
}

/// Bytes of an entry of one of the [`SUPPORTED`] types.
fn entry_bytes(dtype: WeightType) -> usize {
    if dtype == WeightType::F32 { 4 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checkpoint, RowOrder};

    fn tensor(name: &str, type_name: &str, shape: &[usize], bytes: Vec<u8>) -> MemoryTensor {
        let (name, type_name, shape) = (name.into(), type_name.into(), shape.to_vec());
        MemoryTensor { name, type_name, shape, bytes: Bytes::owned(bytes) }
    }

    #[test]
    fn tensors_in_memory_are_read_as_those_of_a_file() {
        let values: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let half = [0x3f80u16, 0x4000].iter().flat_map(|x| x.to_le_bytes()).collect();
        let tensors = [
            tensor("w", "F32", &[2, 2], values),
            tensor("b", "BF16", &[2], half),
            tensor("ids", "I64", &[1, 2], vec![0; 16]),
        ];
        let checkpoint = Checkpoint::Memory(Memory::new(Path::new("model"), tensors).expect("tensors"));
        let matrix = checkpoint.matrix("w", 2, 2, RowOrder::Plain).expect("a matrix");
        assert_eq!(matrix.decode_rows(0..2), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(checkpoint.vector("b", 2).expect("a vector"), [1.0, 2.0]);
        assert!(checkpoint.contains("ids") && checkpoint.dtype("ids").is_none());
        assert!(checkpoint.vector("ids", 2).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let short = [tensor("w", "F32", &[2, 2], vec![0; 12])];
        let huge = [tensor("w", "F32", &[usize::MAX, 4], vec![0; 12])];
        let twice = [tensor("w", "F32", &[1], vec![0; 4]), tensor("w", "F32", &[1], vec![0; 4])];
        for tensors in [&short[..], &huge, &twice] {
            let error = Memory::new(Path::new("model"), tensors.to_vec()).expect_err("a fault");
            assert!(error.to_string().contains('w'), "{error}");
        }
    }
}
