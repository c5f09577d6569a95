//! The processes that MPI starts, as [`Workers`] of a run.
//!
//! [`join`] finds out whether this process is one of several. With the feature `mpi` it then joins the others, over whatever MPI library
//! the program was built with; without it, it refuses, since each process would train and write alone. What the
//! processes say to each other, and in which order sums are added, is the library's (`toktune::workers`); here are
//! only bytes from one to another.

#[cfg(feature = "mpi")]
mod joined;
mod launch;

pub use launch::{Launch, MpiError};

use toktune::workers::Workers;

/// One of several processes that MPI has started.
#[derive(Clone, Debug)]
pub struct Process {
    /// Which of them this is, from 0.
    pub rank: usize,
    /// How many there are.
    pub count: usize,
    /// How many of them run on this machine, this one included.
    pub on_this_machine: usize,
    /// The machine's name.
    pub machine: String,
}

impl Process {
    /// The processes as workers of a run.
    pub fn workers(&self) -> Box<dyn Workers> {
        #[cfg(feature = "mpi")]
        return Box::new(joined::MpiWorkers(self.clone()));
        // there is no such process then
        #[cfg(not(feature = "mpi"))]
        Box::new(toktune::workers::Alone)
    }

    /// Does some work when the first process has done it, or has failed at it: what that leaves on a disk, the others find there. Every
    /// process has to call it.
    pub fn after_first<R>(&self, work: impl FnOnce() -> R) -> R {
        if self.rank > 0 {
            self.meet();
        }
        let done = work();
        if self.rank == 0 {
            self.meet();
        }
        done
    }

    /// Waits until every process is here.
    fn meet(&self) {
        #[cfg(feature = "mpi")]
        joined::meet();
    }

    /// What messages call it.
    pub fn name(&self) -> String {
        format!("process {} on {}", self.rank, self.machine)
    }
}

/// Joins the processes that MPI has started beside this one; nothing where it was started alone.
///
/// It can be called once in a process, before [`leave`]. MPI is then called by one thread at a time.
///
/// # Errors
/// There are others and this program is built without the feature `mpi`; the MPI library cannot be started.
pub fn join() -> Result<Option<Process>, MpiError> {
    let Some(launch) = Launch::from_environment() else { return Ok(None) };
    #[cfg(feature = "mpi")]
    return joined::join(&launch).map(Some);
    #[cfg(not(feature = "mpi"))]
    match launch.count {
        Some(1) => Ok(None),
        count => Err(MpiError::NotBuilt { count }),
    }
}

/// Leaves the other processes in peace, when all have come to their ends. Without [`join`] before it, nothing happens.
pub fn leave() {
    #[cfg(feature = "mpi")]
    joined::leave();
}

/// Ends all processes at once with this exit status, since this one cannot go on. Without [`join`] before it, nothing happens and it
/// returns.
pub fn abort(status: u8) {
    #[cfg(feature = "mpi")]
    joined::abort(status);
    let _ = status;
}
