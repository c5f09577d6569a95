//! What a process chooses: the number of threads, what its allocator keeps, and the instruction set of the models that it
//! loads.

use crate::error::{Error, Result};
use toktune_engine::EngineError;

pub use crate::weights::Isa;

/// The instruction set that a model loaded now would compute with: the best one, or what `TOKTUNE_ISA` names.
///
/// # Errors
/// `TOKTUNE_ISA` names a set that is unknown or that this machine lacks.
pub fn instruction_set() -> Result<Isa> {
    Ok(Isa::from_environment().map_err(EngineError::from)?)
}

/// Threads that the kernels run on.
pub fn num_threads() -> usize {
    rayon::current_num_threads()
}

/// More than any machine's processors: beyond it, a slip of the keyboard would start threads until the system has no more.
const MOST_THREADS: usize = 1024;

/// Sets the number of threads of the whole process. It can be set once, before anything has been computed; results do
/// not depend on it.
///
/// # Errors
/// `threads` is 0 or above 1024, the threads were set or used before, or the system cannot start them.
pub fn set_num_threads(threads: usize) -> Result<()> {
    if threads == 0 || threads > MOST_THREADS {
        let expected = "at least 1 and at most 1024";
        return Err(Error::Argument { name: "threads", expected, found: threads.to_string() });
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|problem| Error::Threads { threads, problem: problem.to_string() })
}

/// Threads that each of so many processes on this machine has processors for: all that it may run on, where it is bound to some of them
/// (as `mpirun` binds processes), else its part of what there are.
pub fn threads_beside(processes: usize) -> usize {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    if is_bound() { all } else { (all / processes.max(1)).max(1) }
}

/// Whether this process may run on some of the machine's processors only.
fn is_bound() -> bool {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: a set of bits, for which all zeros is the empty one; the call writes no more than the size that it is told.
        let bound = unsafe {
            let mut set = std::mem::zeroed::<libc::cpu_set_t>();
            let known = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) == 0;
            known.then(|| libc::CPU_COUNT(&set))
        };
        // SAFETY: it reads a number of the system's.
        let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
        bound.is_some_and(|bound| i64::from(bound) < online)
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Has the allocator keep large blocks that are freed instead of giving them back to the system at once, which would have
/// every pass of a training loop take its pages anew. For programs; a library must not choose for its process.
pub fn keep_freed_memory() {
    // SAFETY: `mallopt` sets two thresholds of glibc's allocator; it may be called at any time.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// Gives what was freed so far back to the system, once: after a large tokenizer has been read, say, whose parsing takes far
/// more than it leaves. What the process holds afterwards is what it uses.
pub fn release_freed_memory() {
    // SAFETY: `malloc_trim` only returns free pages of glibc's allocator; it may be called at any time.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_threads_are_refused_by_name() {
        let error = set_num_threads(0).expect_err("nothing to run on");
        assert_eq!(error.to_string(), "threads: expected at least 1 and at most 1024, found 0");
        assert!(num_threads() > 0);
        let all = threads_beside(1);
        assert!(threads_beside(2) <= all && threads_beside(10_000) >= 1);
    }
}
