//! Numbers on their way to Python: memory of this library that numpy and torch look at without a copy.

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::c_int;
use std::ptr;

/// `f32` numbers with a shape, row by row; `memoryview`, `numpy.asarray` and `torch.frombuffer` take it.
#[pyclass(frozen, module = "toktune._toktune")]
pub struct Array {
    values: Vec<f32>,
    shape: Vec<isize>,
    strides: Vec<isize>,
}

/// Bytes of a number.
const ITEM: isize = size_of::<f32>() as isize;

impl Array {
    /// As many values as the shape has.
    pub(crate) fn new(values: Vec<f32>, shape: &[usize]) -> Self {
        debug_assert_eq!(values.len(), shape.iter().product::<usize>(), "the shape is that of the values");
        let mut strides = vec![ITEM; shape.len()];
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
        let wants = |what: c_int| flags & what == what;
        // SAFETY: not null, and the interpreter's to be written to; see above.
        unsafe {
            (*view).buf = this.values.as_ptr().cast_mut().cast();
            (*view).len = (this.values.len() * size_of::<f32>()) as isize;
            (*view).readonly = 1;
            (*view).itemsize = ITEM;
            (*view).format =
                if wants(ffi::PyBUF_FORMAT) { c"f".as_ptr().cast_mut() } else { ptr::null_mut() };
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
