//! Numbers on their way to Python: memory of this library that numpy and torch look at without a copy.

use crate::dlpack;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict, PyTuple};
use std::ffi::{CStr, c_int, c_void};
use std::ptr;

/// Numbers with a shape, row by row, in `f32`, `bf16` or `f16`. `memoryview` and `numpy.asarray` take them by the buffer protocol, which has no
/// name for `bf16` and shows it as integers of 16 bits; `torch.from_dlpack` takes them all as they are.
#[pyclass(frozen, module = "toktune._toktune")]
pub struct Array {
    values: Values,
    shape: Vec<isize>,
    /// In bytes.
    strides: Vec<isize>,
}

/// The numbers of an array.
enum Values {
    F32(Vec<f32>),
    /// The bits of `bf16`.
    Bf16(Vec<u16>),
    /// The bits of `f16`.
    F16(Vec<u16>),
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Values::F32(values) => values.len(),
            Values::Bf16(values) | Values::F16(values) => values.len(),
        }
    }

    fn pointer(&self) -> *mut c_void {
        match self {
            Values::F32(values) => values.as_ptr().cast_mut().cast(),
            Values::Bf16(values) | Values::F16(values) => values.as_ptr().cast_mut().cast(),
        }
    }

    /// Bytes of a number.
    fn item(&self) -> isize {
        match self {
            Values::F32(_) => 4,
            Values::Bf16(_) | Values::F16(_) => 2,
        }
    }

    /// As the module `struct` writes it.
    fn format(&self) -> &'static CStr {
        match self {
            Values::F32(_) => c"f",
            Values::Bf16(_) => c"H",
            Values::F16(_) => c"e",
        }
    }

    fn dlpack_type(&self) -> dlpack::DataType {
        match self {
            Values::F32(_) => dlpack::DataType::F32,
            Values::Bf16(_) => dlpack::DataType::BF16,
            Values::F16(_) => dlpack::DataType::F16,
        }
    }
}

impl Array {
    /// As many values as the shape has.
    pub(crate) fn new(values: Vec<f32>, shape: &[usize]) -> Self {
        Self::of(Values::F32(values), shape)
    }

    /// The same, rounded to `bf16`.
    pub(crate) fn rounded(values: &[f32], shape: &[usize]) -> Self {
        let bits = values.iter().map(|value| half::bf16::from_f32(*value).to_bits());
        Self::of(Values::Bf16(bits.collect()), shape)
    }

    /// The bits of `bf16` numbers.
    pub(crate) fn bf16(bits: Vec<u16>, shape: &[usize]) -> Self {
        Self::of(Values::Bf16(bits), shape)
    }

    /// The bits of `f16` numbers.
    pub(crate) fn f16(bits: Vec<u16>, shape: &[usize]) -> Self {
        Self::of(Values::F16(bits), shape)
    }

    fn of(values: Values, shape: &[usize]) -> Self {
        debug_assert_eq!(values.len(), shape.iter().product::<usize>(), "the shape is that of the values");
        let mut strides = vec![values.item(); shape.len()];
        for at in (0..shape.len().saturating_sub(1)).rev() {
            strides[at] = strides[at + 1] * shape[at + 1] as isize;
        }
        Self { values, shape: shape.iter().map(|size| *size as isize).collect(), strides }
    }
}

#[pymethods]
impl Array {
    /// Its shape.
    #[getter]
    fn shape(&self) -> Vec<isize> {
        self.shape.clone()
    }

    /// The type of its numbers, by numpy's and torch's name.
    #[getter]
    fn dtype(&self) -> &'static str {
        match self.values {
            Values::F32(_) => "float32",
            Values::Bf16(_) => "bfloat16",
            Values::F16(_) => "float16",
        }
    }

    /// A capsule of the numbers, as DLPack has them.
    #[pyo3(signature = (*_args, **_kwargs))]
    fn __dlpack__<'py>(
        slf: Bound<'py, Self>,
        _args: &Bound<'py, PyTuple>,
        _kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let this = slf.get();
        let items: Vec<i64> = this.strides.iter().map(|bytes| (bytes / this.values.item()) as i64).collect();
        let tensor = dlpack::Described {
            data: this.values.pointer(),
            data_type: this.values.dlpack_type(),
            shape: this.shape.iter().map(|size| *size as i64).collect(),
            strides: items,
        };
        dlpack::capsule(slf.py(), tensor, slf.clone().into_any().unbind())
    }

    /// That they are in the processor's memory, as DLPack says it.
    fn __dlpack_device__(&self) -> (i32, i32) {
        (dlpack::CPU, 0)
    }

    // SAFETY: the interpreter gives a view to fill. What is written into it points into this object, whose vectors never change,
    // and which the view holds a reference to, so that it outlives the view.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("there is no view to fill"));
        }
        if flags & ffi::PyBUF_WRITABLE == ffi::PyBUF_WRITABLE {
            return Err(PyBufferError::new_err("the numbers are not to be written to"));
        }
        let this = slf.get();
        let item = this.values.item();
        let wants = |what: c_int| flags & what == what;
        // SAFETY: not null, and the interpreter's to be written to; see above.
        unsafe {
            (*view).buf = this.values.pointer();
            (*view).len = this.values.len() as isize * item;
            (*view).readonly = 1;
            (*view).itemsize = item;
            (*view).format = if wants(ffi::PyBUF_FORMAT) {
                this.values.format().as_ptr().cast_mut()
            } else {
                ptr::null_mut()
            };
            (*view).ndim = this.shape.len() as c_int;
            (*view).shape =
                if wants(ffi::PyBUF_ND) { this.shape.as_ptr().cast_mut() } else { ptr::null_mut() };
            (*view).strides =
                if wants(ffi::PyBUF_STRIDES) { this.strides.as_ptr().cast_mut() } else { ptr::null_mut() };
            (*view).suboffsets = ptr::null_mut();
            (*view).internal = ptr::null_mut();
            (*view).obj = slf.into_any().into_ptr();
        }
        Ok(())
    }
}
