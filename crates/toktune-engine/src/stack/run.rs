//! The loops over the blocks.

use super::Stack;
use crate::backend::Backend;
use crate::layers::{Around, Gradients, Keep, Kept, KeyValues, Memory, Rows, Update};

/// What rows meet on their way through a stack.
#[derive(Debug)]
pub struct Run<'a, B: Backend> {
    /// The device, in the way in which it is to take products.
    pub backend: &'a B,
    /// Keys and values of rows that come before, one for each block; empty where there are none. They get no gradient.
    pub past: &'a [KeyValues<B::Buffer>],
    /// The encoder's rows; none without one.
    pub memory: Option<&'a Memory<B::Buffer>>,
    /// The updates of linear layers, a list for each block; empty where there are none.
    pub updates: &'a [Vec<Update<B>>],
}

impl<B: Backend> Clone for Run<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Run<'_, B> {}

impl<'a, B: Backend> Run<'a, B> {
    /// Rows that meet nothing.
    pub fn new(backend: &'a B) -> Self {
        Self { backend, past: &[], memory: None, updates: &[] }
    }
}

/// What a run is to leave beside the last hidden rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// Nothing.
    Hidden,
    /// The keys and values of every block.
    KeyValues,
    /// These alone: of the last block nothing else is computed, and the hidden rows are not the last ones.
    OnlyKeyValues,
    /// What the backward pass reads, by a level for each block.
    Kept(&'a [Keep]),
}

/// What rows leave behind on their way through a stack.
#[derive(Debug)]
pub struct Trace<B: Backend> {
    /// The rows after the last block, `[rows, d]`.
    pub hidden: B::Buffer,
    /// Keys and values of every block, where they were wanted.
    pub key_values: Vec<KeyValues<B::Buffer>>,
    /// What the backward pass reads of every block, where it was wanted.
    pub kept: Vec<Kept<B>>,
}

impl<B: Backend> Stack<B> {
    fn around<'a>(&'a self, rows: &'a Rows<B>, run: &Run<'a, B>, block: usize) -> Around<'a, B> {
        Around {
            backend: run.backend,
            rows,
            past: run.past.get(block),
            memory: run.memory,
            updates: run.updates.get(block).map_or(&[], |updates| updates),
        }
    }

    /// Runs the embedded rows `x [rows, d]` through all blocks.
    pub fn run(&self, rows: &Rows<B>, x: B::Buffer, run: &Run<'_, B>, wanted: Wanted<'_>) -> Trace<B> {
        let mut trace = Trace { hidden: x, key_values: Vec::new(), kept: Vec::new() };
        for (i, block) in self.blocks.iter().enumerate() {
            let around = self.around(rows, run, i);
            if wanted == Wanted::OnlyKeyValues && i + 1 == self.blocks.len() {
                trace.key_values.extend(block.key_values(&around, &trace.hidden));
                break;
            }
            let keep = match wanted {
                Wanted::Kept(levels) => levels.get(i).copied(),
                _ => None,
            };
            let (kept, key_values) = block.run(&around, &mut trace.hidden, keep);
            trace.kept.extend(kept);
            if matches!(wanted, Wanted::KeyValues | Wanted::OnlyKeyValues) {
                let lasting = key_values
                    .map(|of| KeyValues { k: self.backend.keep(&of.k), v: self.backend.keep(&of.v) });
                trace.key_values.extend(lasting);
            }
        }
        trace
    }

    /// The gradient of the embedded rows from that of the last hidden ones, `upstream [rows, d]`. What was kept of a block is
    /// dropped as soon as the block is done.
    pub fn pull(
        &self,
        rows: &Rows<B>,
        run: &Run<'_, B>,
        kept: Vec<Kept<B>>,
        upstream: B::Buffer,
        gradients: &mut Gradients<'_, B>,
    ) -> B::Buffer {
        let mut gradient = upstream;
        for ((i, block), kept) in self.blocks.iter().enumerate().zip(kept).rev() {
            block.pull(&self.around(rows, run, i), kept, &mut gradient, gradients);
        }
        gradient
    }
}
