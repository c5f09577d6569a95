//! How a process finds out that it was started among others.

use std::env;

/// What an engine that starts processes tells each of them: Open MPI, whatever speaks PMIx or PMI (MPICH, Intel MPI, Slurm's `srun --mpi`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// How many there are, where that is told.
    pub count: Option<usize>,
}

/// Names of a process's number.
const RANKS: [&str; 3] = ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"];

/// Names of the number of processes.
const COUNTS: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// Why processes cannot train together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MpiError {
    /// The program has no MPI.
    #[error(
        "this is one of {} processes that MPI has started, and toktune is built without the feature `mpi`: each of them would train and \
         write alone (cargo build --release --features mpi)",
        .count.map_or("several".to_owned(), |count| count.to_string())
    )]
    NotBuilt {
        /// How many processes there are.
        count: Option<usize>,
    },
    /// The MPI library does not start.
    #[error("the MPI library cannot be started: {reason}")]
    NotStarted {
        /// Why.
        reason: &'static str,
    },
}

impl Launch {
    /// What the environment says; nothing where this process was started alone.
    pub fn from_environment() -> Option<Self> {
        Self::of(|name| env::var(name).ok())
    }

    fn of(get: impl Fn(&str) -> Option<String>) -> Option<Self> {
        RANKS.iter().find_map(|name| get(name))?;
        Some(Self { count: COUNTS.iter().find_map(|name| get(name)?.parse().ok()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_known_by_what_they_tell() {
        let of = |told: &[(&str, &str)]| {
            Launch::of(|name| told.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(of(&[]), None);
        // a batch script of Slurm's is no process of a step
        assert_eq!(of(&[("SLURM_NTASKS", "4")]), None);
        let open_mpi = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "3")];
        assert_eq!(of(&open_mpi), Some(Launch { count: Some(3) }));
        assert_eq!(of(&[("PMIX_RANK", "0")]), Some(Launch { count: None }));
        let slurm = [("PMI_RANK", "0"), ("SLURM_STEP_NUM_TASKS", "2")];
        assert_eq!(of(&slurm), Some(Launch { count: Some(2) }));
        let error = MpiError::NotBuilt { count: Some(4) }.to_string();
        assert!(error.starts_with("this is one of 4 processes"), "{error}");
    }

    #[cfg(not(feature = "mpi"))]
    #[test]
    fn alone_nothing_is_joined() {
        if Launch::from_environment().is_none() {
            assert!(crate::join().expect("no fault").is_none());
        }
        crate::leave();
        crate::abort(1);
    }
}
