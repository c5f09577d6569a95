//! Frozen weights: opening checkpoints, finding their tensors, and handing them out in the type they are
//! stored in.
//!
//! A checkpoint is mapped into memory, never read as a whole: a [`FrozenMatrix`] is a handle to its bytes,
//! decoded by the kernels a panel at a time. Files come from strangers, so every length, count and offset is
//! checked before it is used, and a fault is a [`WeightsError`] that names the file and the tensor.
//!
//! What this crate does not know: which tensors a model needs (the model families do) and how a matrix is
//! multiplied (the kernels do). It also owns [`write_atomically`], through which every file of
//! toktune is written, and [`nearest`], the name that was meant.

mod atomic;
mod checkpoint;
mod error;
mod gguf;
mod index;
mod mapped;
mod matrix;
mod memory;
mod microscaled;
mod nearest;
mod pytorch;
mod safetensors;
mod table;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod writer;

pub use self::pytorch::Pytorch;
pub use self::safetensors::Safetensors;
pub use atomic::{write_atomically, write_folder_atomically};
pub use checkpoint::{Checkpoint, INDEX, SINGLE};
pub use error::{Result, WeightsError};
pub use gguf::{
    Array, ArrayPatch, Entry, FromValue, Gguf, GgufPatch, Metadata, RowPatch, Value, write_gguf_into,
};
pub use mapped::{Bytes, Owner};
pub use matrix::FrozenMatrix;
pub use memory::{Memory, MemoryTensor};
pub use nearest::{did_you_mean, nearest};
pub use table::Scaling;
pub use toktune_kernels::weight::encode;
pub use toktune_kernels::{Isa, IsaError, Matrix, RowOrder, TokenTable, WeightType};
pub use writer::{TensorHeader, TensorOut, read_metadata, write_safetensors, write_safetensors_into};
