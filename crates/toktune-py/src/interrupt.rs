//! Ctrl-C while something is computed without the interpreter's lock.

use pyo3::prelude::*;
use std::ops::ControlFlow;

/// Whether a signal's handler ended what runs; its exception waits for [`raised`].
pub(crate) fn asked() -> ControlFlow<()> {
    Python::attach(|py| match py.check_signals() {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            error.restore(py);
            ControlFlow::Break(())
        }
    })
}

/// The exception of a handler that [`asked`] was told of.
pub(crate) fn raised(py: Python<'_>) -> PyErr {
    PyErr::fetch(py)
}
