//! What a run may take of memory, so that less is computed twice.

use super::free_memory::free_bytes;
use serde::Serialize;

/// How much of a step's activations is kept for the backward pass; the rest is computed again there. Results do not depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryBudget {
    /// What fits into half of the memory that is free when the run is prepared; at least as much as [`MemoryBudget::Min`] keeps.
    #[default]
    Free,
    /// Two fifths of what the weights take: a part of the recomputation for little memory beside what is there anyway.
    Min,
    /// What fits when the process, its mapped weights included, takes this many bytes.
    Bytes(u64),
}

/// What a [`MemoryBudget`] comes to on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MemoryRoom {
    /// Bytes of the whole process, mapped weights included.
    Process(u64),
    /// Bytes that steps may take beside what the process held before and the mapped weights: half of what was free.
    HalfOfFree(u64),
    /// The same where half would push mapped weights out of memory: what is left of the free memory beside them.
    BesideWeights(u64),
    /// Two fifths of what the weights take, because it was asked for.
    Min,
    /// The same, because the system does not tell what is free.
    Unknown,
}

impl MemoryRoom {
    /// What `budget` comes to now, for one of `processes` on this machine with `weights` bytes of mapped weights, which they share.
    pub(super) fn of(budget: MemoryBudget, weights: u64, processes: u64) -> Self {
        Self::of_free(budget, weights, processes, free_bytes)
    }

    fn of_free(
        budget: MemoryBudget,
        weights: u64,
        processes: u64,
        free: impl FnOnce() -> Option<u64>,
    ) -> Self {
        let processes = processes.max(1);
        match budget {
            MemoryBudget::Bytes(bytes) => Self::Process(bytes),
            MemoryBudget::Min => Self::Min,
            MemoryBudget::Free => match free() {
                None => Self::Unknown,
                // every step reads all weights: a step that pushed them out would wait for the disk
                Some(free) if weights > free / 2 => {
                    Self::BesideWeights(free.saturating_sub(weights) / processes)
                }
                Some(free) => Self::HalfOfFree(free / 2 / processes),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_is_free_is_shared_by_the_processes_of_a_machine() {
        let of =
            |free, weights, processes| MemoryRoom::of_free(MemoryBudget::Free, weights, processes, || free);
        assert_eq!(of(Some(1000), 100, 1), MemoryRoom::HalfOfFree(500));
        assert_eq!(of(Some(1000), 500, 4), MemoryRoom::HalfOfFree(125));
        assert_eq!(of(Some(1000), 600, 1), MemoryRoom::BesideWeights(400));
        assert_eq!(of(Some(1000), 600, 2), MemoryRoom::BesideWeights(200));
        assert_eq!(of(Some(1000), 2000, 0), MemoryRoom::BesideWeights(0));
        assert_eq!(of(None, 1, 1), MemoryRoom::Unknown);
        for (budget, room) in
            [(MemoryBudget::Min, MemoryRoom::Min), (MemoryBudget::Bytes(7), MemoryRoom::Process(7))]
        {
            assert_eq!(MemoryRoom::of_free(budget, 1, 2, || panic!("nobody asks")), room);
        }
    }
}
