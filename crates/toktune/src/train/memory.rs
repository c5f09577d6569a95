//! What a run will need of memory, and how much of a budget is left for keeping activations.
//!
//! The estimate counts what is known to be large: the mapped weights, what the process holds before training, what the
//! pass over a batch keeps, its working buffers, and what the optimizer has for every trained number.

use super::budget::{MemoryBudget, MemoryRoom};
use crate::data::RaggedBatch;
use crate::engine::trained::Trained;
use crate::models::PretrainedModel;

/// Activations are kept up to this share of the weights' bytes at the least, unless a number says otherwise: it saves a part of
/// the recomputation, and is little beside what is there anyway.
const LEAST_SHARE: f64 = 0.4;

/// Floats of the optimizer for each trained number: two moments, the number before the last update, and two gradients.
const FLOATS_OF_OPTIMIZER: usize = 5;

/// Bytes that a run of `model` may hold in memory from its beginning to its end, beside what the process holds and the mapped
/// weights: half of what its steps may take under a `budget`.
pub fn bytes_to_hold(budget: MemoryBudget, model: &PretrainedModel) -> u64 {
    let weights = model.checkpoint().total_bytes();
    let room = match MemoryRoom::of(budget, weights, 1) {
        MemoryRoom::Process(bytes) => bytes.saturating_sub(weights + held_bytes()),
        MemoryRoom::HalfOfFree(bytes) | MemoryRoom::BesideWeights(bytes) => bytes,
        MemoryRoom::Min | MemoryRoom::Unknown => (weights as f64 * LEAST_SHARE) as u64,
    };
    room / 2
}

/// Estimates the memory of passes over batches of one model.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemoryPlanner<'a> {
    model: &'a PretrainedModel,
    /// What the process holds beside mapped weights.
    held: u64,
    room: MemoryRoom,
}

impl<'a> MemoryPlanner<'a> {
    pub(super) fn new(model: &'a PretrainedModel, held: u64, room: MemoryRoom) -> Self {
        Self { model, held, room }
    }

    /// Bytes of the weights, all of which a step reads.
    fn weights(&self) -> u64 {
        self.model.checkpoint().total_bytes()
    }

    /// Peak memory of a step that keeps nothing but the blocks' inputs, and how much more there is to keep.
    fn footprint(&self, trained: &Trained<'_>, batch: &RaggedBatch) -> (u64, u64) {
        let of = self.model.runner().footprint(batch, trained);
        let rows: usize = trained.rows.iter().map(|rows| rows.values.len()).sum();
        let updates: usize = trained.updates.iter().map(|update| update.a.len() + update.b.len()).sum();
        let optimizer = FLOATS_OF_OPTIMIZER * (rows + updates) * size_of::<f32>();
        (self.weights() + self.held + of.least + optimizer as u64, of.activations)
    }

    /// Bytes of activations that a step may keep, beside `least`.
    fn kept(&self, least: u64) -> u64 {
        let in_any_case = (self.weights() as f64 * LEAST_SHARE) as u64;
        match self.room {
            MemoryRoom::Process(bytes) => bytes.saturating_sub(least),
            MemoryRoom::HalfOfFree(bytes) | MemoryRoom::BesideWeights(bytes) => {
                let of_step = least.saturating_sub(self.weights() + self.held);
                bytes.saturating_sub(of_step).max(in_any_case)
            }
            MemoryRoom::Min | MemoryRoom::Unknown => in_any_case,
        }
    }

    /// Bytes of activations that a step over `batch` may keep.
    pub(super) fn kept_bytes(&self, trained: &Trained<'_>, batch: &RaggedBatch) -> u64 {
        self.kept(self.footprint(trained, batch).0)
    }

    /// Peak memory of a step over `batch`.
    pub(super) fn peak(&self, trained: &Trained<'_>, batch: &RaggedBatch) -> u64 {
        let (least, activations) = self.footprint(trained, batch);
        least + self.kept(least).min(activations)
    }
}

/// Memory that the process holds now beside mapped weights, in bytes; 0 where the system does not tell.
pub(super) fn held_bytes() -> u64 {
    anonymous_bytes().map_or(0, |bytes| bytes + PROGRAM)
}

/// The program itself and its libraries, about, which are mapped as the weights are.
const PROGRAM: u64 = 10 << 20;

fn anonymous_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
