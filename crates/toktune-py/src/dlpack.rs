//! DLPack, the form in which array libraries hand memory to each other: its structures and the capsule that carries them.
//!
//! The layout is that of `dlpack.h` before version 1, which every consumer takes.

use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use std::ffi::c_void;

/// The device of the processor's memory.
pub(crate) const CPU: i32 = 1;

#[repr(C)]
#[derive(Clone, Copy)]
struct Device {
    kind: i32,
    number: i32,
}

/// A type of numbers: its kind, its bits, and how many of them are one entry.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

impl DataType {
    pub(crate) const F32: Self = Self { code: 2, bits: 32, lanes: 1 };
    pub(crate) const F16: Self = Self { code: 2, bits: 16, lanes: 1 };
    pub(crate) const BF16: Self = Self { code: 4, bits: 16, lanes: 1 };
}

#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device: Device,
    ndim: i32,
    dtype: DataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// `DLManagedTensor`: a tensor, and how its owner is told that nobody uses it any more.
#[repr(C)]
struct Managed {
    tensor: Tensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

/// What lives as long as the consumer's tensor.
struct Context {
    shape: Vec<i64>,
    strides: Vec<i64>,
    /// Whose memory it is.
    owner: Option<Py<PyAny>>,
}

/// Memory with a shape.
pub(crate) struct Described {
    pub(crate) data: *mut c_void,
    pub(crate) data_type: DataType,
    pub(crate) shape: Vec<i64>,
    /// In entries.
    pub(crate) strides: Vec<i64>,
}

/// The capsule of memory that `owner` keeps in place.
///
/// # Errors
/// The interpreter has no memory for it.
pub(crate) fn capsule<'py>(
    py: Python<'py>,
    of: Described,
    owner: Py<PyAny>,
) -> PyResult<Bound<'py, PyCapsule>> {
    let Described { data, data_type, shape, strides } = of;
    let mut context = Box::new(Context { shape, strides, owner: Some(owner) });
    let tensor = Tensor {
        data,
        device: Device { kind: CPU, number: 0 },
        ndim: context.shape.len() as i32,
        dtype: data_type,
        shape: context.shape.as_mut_ptr(),
        strides: context.strides.as_mut_ptr(),
        byte_offset: 0,
    };
    let context = Box::into_raw(context).cast();
    let managed = Box::into_raw(Box::new(Managed { tensor, context, deleter: Some(delete) }));
    // SAFETY: the name is the one of the protocol and static; the pointer is that of a box that `delete` or `unused` frees, once.
    let made = unsafe { ffi::PyCapsule_New(managed.cast(), c"dltensor".as_ptr(), Some(unused)) };
    if made.is_null() {
        // SAFETY: no capsule has taken the box.
        unsafe { delete(managed) };
        return Err(PyErr::take(py).unwrap_or_else(|| PyMemoryError::new_err("no memory for a capsule")));
    }
    // SAFETY: a capsule that was just made, whose only reference this is.
    let made = unsafe { Bound::from_owned_ptr(py, made) };
    Ok(made.cast_into::<PyCapsule>()?)
}

/// Frees what [`capsule`] made; consumers call it when they are done, from whichever thread.
///
/// # Safety
/// `managed` is a pointer of [`capsule`]'s that was not freed yet, or null.
unsafe extern "C" fn delete(managed: *mut Managed) {
    if managed.is_null() {
        return;
    }
    // SAFETY: by the contract both are boxes that were made by `capsule`, and nobody uses them any more.
    let mut context = unsafe {
        let managed = Box::from_raw(managed);
        Box::from_raw(managed.context.cast::<Context>())
    };
    let owner = context.owner.take();
    // the reference is given back under the interpreter's lock; when the interpreter has ended, there is nobody to give it to
    let mut held = std::mem::ManuallyDrop::new(owner);
    Python::try_attach(|_| drop(held.take()));
}

/// Frees the tensor of a capsule that nobody took: a consumer renames the capsules that it takes.
///
/// # Safety
/// The interpreter calls it with a capsule of [`capsule`]'s that ends.
unsafe extern "C" fn unused(of: *mut ffi::PyObject) {
    // SAFETY: a capsule; of one with another name there is nothing to free, and null is what the call gives then.
    unsafe {
        if ffi::PyCapsule_IsValid(of, c"dltensor".as_ptr()) == 1 {
            delete(ffi::PyCapsule_GetPointer(of, c"dltensor".as_ptr()).cast());
        }
    }
}
