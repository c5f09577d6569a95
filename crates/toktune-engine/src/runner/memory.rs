//! What a step takes of memory.

use crate::backend::Backend;
use crate::batch::RaggedBatch;
use crate::layers::{Block, Keep, piece_rows};
use crate::model::Model;
use crate::plan::{Plan, everything};
use crate::spec::{Mixer, RelativeSpec};
use crate::stack::Stack;
use crate::trained::Trained;
use toktune_kernels::gated_mlp::CHUNK_ROWS;

/// Memory of a step in bytes, beside the weights and what the process holds before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Footprint {
    /// Where nothing is kept but the blocks' inputs.
    pub least: u64,
    /// What more is taken where everything is kept.
    pub activations: u64,
}

/// Floats of the buffers that a thread holds for panels and tiles, about.
const TILE_FLOATS: usize = 512 * 1024;

impl<B: Backend> Model<B> {
    /// As [`super::Runner::footprint`].
    pub(super) fn footprint_of(&self, batch: &RaggedBatch, trained: &Trained<'_>) -> Footprint {
        let plans = self.plans(batch, trained);
        let updated = !trained.updates.is_empty();
        let (mut traces, mut most, mut most_beside_kept) = (0, 0, 0);
        for (stack, plan) in &plans {
            traces += trace_floats(stack, plan);
            most = most.max(working_floats(stack, plan, updated, 0));
            let kept = kept_of_work(stack, plan, updated);
            most_beside_kept = most_beside_kept.max(working_floats(stack, plan, updated, kept));
        }
        // what is trained lies on the device with its gradients, and the gradients on the host
        let of_update = |update: &crate::trained::LowRank<'_>| update.a.len() + update.b.len();
        let values: usize = trained.updates.iter().map(of_update).sum();
        let floats = traces + most + 3 * values + rayon::current_num_threads() * TILE_FLOATS;
        let kept = |(stack, plan): &(&Stack<B>, Plan)| {
            let costs: Vec<_> = stack.blocks().iter().map(|block| block.kept_floats()).collect();
            everything(&costs, plan.depending.rows())
        };
        let activations: u64 = plans.iter().map(kept).sum();
        let counted_twice = bytes(most - most_beside_kept);
        Footprint { least: bytes(floats), activations: activations.saturating_sub(counted_twice) }
    }
}

fn bytes(floats: usize) -> u64 {
    (floats * size_of::<f32>()) as u64
}

/// Floats between two passes: the blocks' inputs, and the constant rows' keys and values.
fn trace_floats<B: Backend>(stack: &Stack<B>, plan: &Plan) -> usize {
    let d = stack.spec().hidden_size;
    let left: usize = stack.blocks().iter().flat_map(|block| block.key_value_widths()).sum();
    stack.blocks().len() * plan.depending.rows() * d + plan.constant_rows() * left
}

/// Floats of a block's work that are there already where everything is kept, and are not computed into buffers of their own.
fn kept_of_work<B: Backend>(stack: &Stack<B>, plan: &Plan, updated: bool) -> usize {
    let spec = stack.spec();
    // inner rows are read where they are kept if they meet the updates in one piece; elsewhere tiles of them are computed anew
    let has_experts = spec.layers.iter().any(|layer| layer.experts.is_some());
    let in_place = updated && !has_experts && plan.depending.rows() <= piece_rows(spec.mlp.inner);
    let is_read = |(level, _): &(Keep, usize)| in_place || *level < Keep::Everything;
    // that of the block which has least of it
    let of_block = |block: &Block<B>| -> usize {
        block.kept_floats().into_iter().filter(is_read).map(|(_, floats)| floats).sum()
    };
    plan.depending.rows() * stack.blocks().iter().map(of_block).min().unwrap_or(0)
}

/// Floats at work at once, in one block, which has `kept` of them already, or at the head.
fn working_floats<B: Backend>(stack: &Stack<B>, plan: &Plan, updated: bool, kept: usize) -> usize {
    let spec = stack.spec();
    let (d, inner, of) = (spec.hidden_size, spec.mlp.inner, &spec.attention);
    let (q, kv) = (of.heads * of.head_dim, of.kv_heads * of.head_dim);
    let (constant, depending) = (plan.constant.rows(), plan.depending.rows());
    let labelled = plan.constant.entries.len().max(plan.depending.entries.len());
    // of one block: what the backward pass reads again, with the gradients in flight
    let mut block = depending * (9 * d + 3 * q + 6 * kv) + constant * 2 * d;
    if spec.layers.iter().any(|layer| layer.mixer != Mixer::Attention) {
        // the three parts fused and apart, what is made of them, and the gradients of all of it
        block = block.max(depending * 24 * d + constant * 10 * d);
    }
    // with updates the inner rows meet them one after the other
    let rows = depending.max(constant);
    let mut mlp = match updated {
        true => 6 * inner * piece_rows(inner).min(rows),
        false => 2 * inner * CHUNK_ROWS.min(rows),
    };
    for of in spec.layers.iter().filter_map(|layer| layer.experts) {
        // the gathered rows in and out, forward and backward, and what is inside
        mlp = mlp.max((4 * of.inner + 3 * d) * CHUNK_ROWS.min(rows));
        // the MLP that every row passes through, with its result and the gradient of it
        let inner = of.shared.unwrap_or(0);
        let of_shared =
            if updated { 6 * inner * piece_rows(inner).min(rows) } else { 2 * inner * CHUNK_ROWS.min(rows) };
        mlp = mlp.max(of_shared + if inner > 0 { 2 * d * rows } else { 0 });
    }
    // a disentangled attention has all scores of a sequence with a head on each thread, twice, and those of distances
    let scores = match spec.relative {
        Some(RelativeSpec::Disentangled(_)) => {
            let lengths = plan.constant.places.lengths.iter().chain(&plan.depending.places.lengths);
            let longest = lengths.copied().max().unwrap_or(0);
            3 * longest * longest * rayon::current_num_threads()
        }
        _ => 0,
    };
    let head = labelled * 4 * d + toktune_kernels::cross_entropy::scratch_floats(labelled);
    (block + mlp.max(scores)).saturating_sub(kept).max(head)
}
