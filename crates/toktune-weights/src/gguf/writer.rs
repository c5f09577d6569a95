//! Writing GGUF files of any size, a tensor at a time.

use super::metadata::text_bytes;
use super::{DEFAULT_ALIGNMENT, Kind, Listed, Value};
use crate::writer::{TensorHeader, TensorOut};
use crate::{Result, WeightsError};
use std::fs::File;
use std::path::Path;

/// Writes a GGUF file of version 3 with these metadata and tensors, in this order, into an open and empty file, which `path` is
/// called in messages; it is not synced. `data` puts the bytes of the tensor of the given index.
///
/// # Errors
/// The file cannot be written; a type is not one of GGML's; `data` fails, or writes another number of bytes than it should.
pub fn write_gguf_into<E: From<WeightsError>>(
    path: &Path,
    file: &mut File,
    metadata: &[(&str, Value)],
    tensors: &[TensorHeader],
    mut data: impl FnMut(usize, &mut TensorOut<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_pair(key, value, &mut header);
    }
    let mut offset = 0u64;
    for TensorHeader { name, dtype, shape, bytes } in tensors {
        let Some(kind) = Kind::named(dtype) else {
            return Err(WeightsError::Serialise(format!("'{name}' as {dtype}")).into());
        };
        let (name, shape, bytes) = (name.clone(), shape.clone(), *bytes);
        put_entry(&Listed { name, shape, kind, offset, bytes }, &mut header);
        offset = (offset + bytes).next_multiple_of(DEFAULT_ALIGNMENT);
    }
    let mut out = TensorOut::new(path, file);
    out.put(&header)?;
    for (index, tensor) in tensors.iter().enumerate() {
        out.align(DEFAULT_ALIGNMENT)?;
        out.tensor(tensor, |out| data(index, out))?;
    }
    out.align(DEFAULT_ALIGNMENT)?;
    Ok(out.finish()?)
}

/// A key and its value as they stand in a file.
pub(super) fn put_pair(key: &str, value: &Value, out: &mut Vec<u8>) {
    out.extend(text_bytes(key));
    value.put(out);
}

/// A tensor's entry in the table, which counts the innermost dimension first.
pub(super) fn put_entry(tensor: &Listed, out: &mut Vec<u8>) {
    out.extend(text_bytes(&tensor.name));
    out.extend((tensor.shape.len() as u32).to_le_bytes());
    tensor.shape.iter().rev().for_each(|dim| out.extend((*dim as u64).to_le_bytes()));
    out.extend(tensor.kind.id.to_le_bytes());
    out.extend(tensor.offset.to_le_bytes());
}
