//! Where the time of a run goes, by part.
//!
//! Off unless [`start`]ed: then each operation adds its wall-clock time and its arithmetic to its part. The counters are
//! global to the process, as a profile is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// A part of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Part {
    /// Reading batches.
    Data,
    /// Gathering embedding rows, and scattering their gradients.
    Embedding,
    /// Products with the frozen weights of the blocks, activations between them included.
    Products,
    /// Attention.
    Attention,
    /// Products with the updates of linear layers.
    Lora,
    /// Norms and rotations.
    Rows,
    /// The loss against the vocabulary, and its gradients.
    Head,
    /// The optimizer.
    Optimizer,
}

impl Part {
    /// Every part, in the order of a report.
    pub const ALL: [Part; 8] = [
        Part::Data,
        Part::Embedding,
        Part::Products,
        Part::Attention,
        Part::Lora,
        Part::Rows,
        Part::Head,
        Part::Optimizer,
    ];

    /// Its name in a report.
    pub fn name(self) -> &'static str {
        match self {
            Part::Data => "data",
            Part::Embedding => "embedding",
            Part::Products => "products",
            Part::Attention => "attention",
            Part::Lora => "LoRA",
            Part::Rows => "norms and rotations",
            Part::Head => "head and loss",
            Part::Optimizer => "optimizer",
        }
    }
}

/// What a part took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// The part.
    pub part: Part,
    /// Wall-clock time, in seconds.
    pub seconds: f64,
    /// Floating-point operations, a multiplication and an addition being two; 0 where they are not counted.
    pub flops: f64,
}

static ON: AtomicBool = AtomicBool::new(false);
static NANOSECONDS: [AtomicU64; Part::ALL.len()] = [const { AtomicU64::new(0) }; Part::ALL.len()];
static FLOPS: [AtomicU64; Part::ALL.len()] = [const { AtomicU64::new(0) }; Part::ALL.len()];

/// Begins to count, from zero.
pub fn start() {
    for counter in NANOSECONDS.iter().chain(&FLOPS) {
        counter.store(0, Ordering::Relaxed);
    }
    ON.store(true, Ordering::Relaxed);
}

/// Stops counting and gives what was counted, in the order of [`Part::ALL`].
pub fn finish() -> Vec<Share> {
    ON.store(false, Ordering::Relaxed);
    Part::ALL
        .into_iter()
        .map(|part| Share {
            part,
            seconds: NANOSECONDS[part as usize].load(Ordering::Relaxed) as f64 * 1e-9,
            flops: FLOPS[part as usize].load(Ordering::Relaxed) as f64,
        })
        .collect()
}

/// Runs `work` as a piece of `part` that takes `flops` operations.
pub fn time<R>(part: Part, flops: usize, work: impl FnOnce() -> R) -> R {
    if !ON.load(Ordering::Relaxed) {
        return work();
    }
    let start = Instant::now();
    let result = work();
    NANOSECONDS[part as usize].fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    FLOPS[part as usize].fetch_add(flops as u64, Ordering::Relaxed);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_runs_between_start_and_finish_counts() {
        time(Part::Optimizer, 7, || ());
        start();
        let value = time(Part::Optimizer, 5, || {
            std::thread::sleep(std::time::Duration::from_millis(2));
            3
        });
        let shares = finish();
        time(Part::Optimizer, 9, || ());
        let share = shares.iter().find(|s| s.part == Part::Optimizer).expect("every part is there");
        // other tests of this process may train meanwhile
        assert!(value == 3 && share.flops >= 5.0 && share.seconds >= 0.002, "{share:?}");
    }
}
