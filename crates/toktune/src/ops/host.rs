//! Reading candle tensors as plain slices.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};
use std::ops::Deref;

/// A contiguous `f32` tensor on the CPU, borrowed as a slice.
pub(crate) struct Floats<Guard> {
    storage: Guard,
    range: (usize, usize),
}

/// Borrows `tensor` as a slice.
///
/// # Errors
/// It is not `f32`, not contiguous or not on the CPU.
pub(crate) fn floats(tensor: &Tensor) -> Result<Floats<impl Deref<Target = Storage> + '_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some(range) = layout.contiguous_offsets() else {
        bail!("expected a contiguous tensor, found strides {:?}", layout.stride());
    };
    match &*storage {
        Storage::Cpu(CpuStorage::F32(_)) => {}
        other => {
            bail!("expected f32 on the CPU, found {:?} on {:?}", other.dtype(), other.device().location())
        }
    }
    Ok(Floats { storage, range })
}

impl<Guard: Deref<Target = Storage>> Deref for Floats<Guard> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => &data[self.range.0..self.range.1],
            _ => &[], // `floats` admits no other storage
        }
    }
}

/// The data of a custom operation's argument, which must be contiguous `f32`.
pub(crate) fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout, op: &str) -> Result<&'a [f32]> {
    let (CpuStorage::F32(data), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
        bail!(
            "{op}: expected contiguous f32, found {:?} with strides {:?}",
            storage_dtype(storage),
            layout.stride()
        );
    };
    Ok(&data[start..end])
}

fn storage_dtype(storage: &CpuStorage) -> candle_core::DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

/// The floats of a contiguous tensor, copied.
#[cfg(test)]
pub(crate) fn to_vec(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}
