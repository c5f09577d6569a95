//! Python programs that MPI has started several times.

use crate::errors::exception;
use pyo3::prelude::*;
use toktune::runtime;
use toktune_mpi::Process;

/// This process among those that MPI has started.
///
/// # Errors
/// There are others, and the package is built without MPI; the MPI library does not start.
pub(crate) fn joined() -> PyResult<Option<Process>> {
    toktune_mpi::join().map_err(|error| exception("InputError", &error.to_string()))
}

/// Joins the processes that MPI has started beside this one: which of them this is, how many there are, and how many on this machine;
/// nothing where it was started alone. Those on one machine share its processors from then on, unless something was
/// computed before.
#[pyfunction]
pub fn processes() -> PyResult<Option<(usize, usize, usize)>> {
    let Some(process) = joined()? else { return Ok(None) };
    if process.on_this_machine > 1 {
        // refused where threads run already, as many as were asked for
        let _ = runtime::set_num_threads(runtime::threads_beside(process.on_this_machine));
    }
    Ok(Some((process.rank, process.count, process.on_this_machine)))
}

/// Leaves the other processes in peace, at the end of the program.
#[pyfunction]
pub fn leave_processes(py: Python<'_>) {
    py.detach(toktune_mpi::leave);
}

/// Ends all processes at once, since this one cannot go on.
#[pyfunction]
pub fn abort_processes(py: Python<'_>, status: u8) {
    py.detach(|| toktune_mpi::abort(status));
}
