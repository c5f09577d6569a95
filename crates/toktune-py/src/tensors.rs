//! Weights that Python holds, taken where they lie.

use crate::errors::argument;
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use std::sync::Arc;
use toktune::weights::{Bytes, MemoryTensor};

/// Memory of a Python object, which lives as long as this does.
struct Held(PyBuffer<u8>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the buffer is contiguous (checked when it was taken) and the exporter keeps it in place until it is released,
        // which this object's end does. Bytes have no invalid values. That Python changes none while the library reads them
        // is the contract of `toktune.AutoModel.from_model`: every holder of shared tensors has it, torch's own threads too.
        unsafe { self.0.as_slice_ptr().map_or(&[], |slice| slice.as_ref()) }
    }
}

/// The bytes of an object that exports unsigned bytes one after the other.
///
/// # Errors
/// It exports something else.
pub(crate) fn bytes(of: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    let buffer = PyBuffer::<u8>::get(of)?;
    if !buffer.is_c_contiguous() {
        return Err(argument("a tensor", "bytes one after the other", "gaps between them"));
    }
    Ok(Bytes::borrowed(Arc::new(Held(buffer))))
}

/// A tensor as Python describes it: name, type, shape, bytes.
pub(crate) type Described<'py> = (String, String, Vec<usize>, Bound<'py, PyAny>);

/// Tensors where they lie.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn memory(of: Vec<Described<'_>>) -> PyResult<Vec<MemoryTensor>> {
    of.into_iter()
        .map(|(name, type_name, shape, of)| Ok(MemoryTensor { name, type_name, shape, bytes: bytes(&of)? }))
        .collect()
}

/// `f32` numbers of an object that exports their bytes, copied.
///
/// # Errors
/// As [`bytes`]; they are no whole numbers of four bytes.
pub(crate) fn floats(of: &Bound<'_, PyAny>) -> PyResult<Vec<f32>> {
    let bytes = bytes(of)?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    match rest.is_empty() {
        true => Ok(numbers.iter().map(|number| f32::from_ne_bytes(*number)).collect()),
        false => Err(argument("a tensor", "four bytes a number", format!("{} bytes", bytes.len()))),
    }
}
