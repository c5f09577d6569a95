//! What a run will need of memory, and how much of a budget is left for keeping activations.
//!
//! The estimate counts what is known to be large: the mapped weights, what the process holds before training, what the
//! pass over a batch keeps, and its working buffers.

use super::kept;
use super::plan::Plan;
use super::step::plans;
use crate::data::RaggedBatch;
use crate::models::{PretrainedModel, RelativeSpec, Stack};
use crate::tuners::ActiveRows;
use toktune_kernels::gated_mlp::CHUNK_ROWS;

/// Without a budget, activations are kept up to this share of the weights' bytes: it saves a part of the recomputation,
/// and is little beside what is there anyway.
const DEFAULT_SHARE: f64 = 0.4;

/// Estimates the memory of passes over batches of one model.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemoryPlanner<'a> {
    model: &'a PretrainedModel,
    /// What the process holds beside mapped weights.
    held: u64,
    budget: Option<u64>,
}

impl<'a> MemoryPlanner<'a> {
    pub(super) fn new(model: &'a PretrainedModel, held: u64, budget: Option<u64>) -> Self {
        Self { model, held, budget }
    }

    /// Bytes of the weights, all of which a step reads.
    fn weights(&self) -> u64 {
        self.model.checkpoint().total_bytes()
    }

    /// Peak memory of a step that keeps nothing but the blocks' inputs.
    fn least(&self, plans: &[(&Stack, Plan)]) -> u64 {
        let (mut traces, mut most) = (0, 0);
        for (stack, plan) in plans {
            let spec = stack.spec();
            let (d, inner, blocks) = (spec.hidden_size, spec.mlp.inner, stack.blocks().len());
            let of = &spec.attention;
            let (q, kv) = (of.heads * of.head_dim, of.kv_heads * of.head_dim);
            let (constant, depending) = (plan.constant.ids.len(), plan.depending.ids.len());
            let labelled = plan.constant.labelled.len().max(plan.depending.labelled.len());
            // between two passes: the blocks' inputs, and the constant rows' keys and values
            traces += blocks * (depending * d + constant * 2 * kv);
            // of one block: the graph of the backward pass with the gradients in flight
            let block = depending * (9 * d + 3 * q + 6 * kv) + constant * 2 * d;
            let mut mlp = 2 * inner;
            for of in spec.layers.iter().filter_map(|layer| layer.experts) {
                // the gathered rows in and out, forward and backward, and what is inside
                mlp = mlp.max(4 * of.inner + 3 * d);
            }
            let mlp = mlp * CHUNK_ROWS.min(depending.max(constant));
            // a disentangled attention has all scores of a sequence with a head on each thread, twice, and those of distances
            let scores = match spec.relative {
                Some(RelativeSpec::Disentangled(_)) => {
                    let lengths = plan.constant.lengths.iter().chain(&plan.depending.lengths);
                    let longest = lengths.copied().max().unwrap_or(0);
                    3 * longest * longest * rayon::current_num_threads()
                }
                _ => 0,
            };
            let head = labelled * 4 * d + toktune_kernels::cross_entropy::scratch_floats(labelled);
            most = most.max(block + mlp.max(scores)).max(head);
        }
        let floats = traces + most + rayon::current_num_threads() * TILE_FLOATS;
        self.weights() + self.held + (floats * size_of::<f32>()) as u64
    }

    /// Bytes of activations that a step over `plans` may keep.
    fn kept(&self, plans: &[(&Stack, Plan)]) -> u64 {
        match self.budget {
            Some(budget) => budget.saturating_sub(self.least(plans)),
            None => (self.weights() as f64 * DEFAULT_SHARE) as u64,
        }
    }

    /// Bytes of activations that a step over `batch` may keep.
    pub(super) fn kept_bytes(&self, active: ActiveRows<'_>, batch: &RaggedBatch) -> u64 {
        self.kept(&plans(self.model, active, batch))
    }

    /// Peak memory of a step over `batch`.
    pub(super) fn peak(&self, active: ActiveRows<'_>, batch: &RaggedBatch) -> u64 {
        let plans = plans(self.model, active, batch);
        let everything =
            |(stack, plan): &(&Stack, Plan)| kept::everything(stack.blocks(), plan.depending.ids.len());
        self.least(&plans) + self.kept(&plans).min(plans.iter().map(everything).sum())
    }
}

/// Floats of the buffers that a thread holds for panels and tiles, about.
const TILE_FLOATS: usize = 512 * 1024;

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
