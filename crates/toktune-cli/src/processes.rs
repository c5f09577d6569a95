//! A run of several processes, which MPI has started: who speaks, and on how many threads each computes.

use crate::args::MachineArgs;
use crate::failure::{Failure, Outcome};
use crate::report;
use toktune::runtime;
use toktune_mpi::Process;

/// Joins the other processes, where there are some. All but the first are silent from then on, and those on one machine share its processors
/// unless the flags say how many threads each has.
pub fn join(args: &MachineArgs) -> Outcome<Option<Process>> {
    let process = toktune_mpi::join().map_err(|error| Failure::Usage(error.to_string()))?;
    let Some(process) = process else { return Ok(None) };
    if process.rank > 0 {
        report::speak_errors_alone(process.name());
    }
    if args.threads.is_none() && process.on_this_machine > 1 {
        runtime::set_num_threads(runtime::threads_beside(process.on_this_machine))?;
    }
    Ok(Some(process))
}
