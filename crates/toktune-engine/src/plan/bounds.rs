//! Which rows of a sequence are computed, and the first of them that depends.

use super::NodeKey;
use crate::batch::RaggedBatch;
use crate::prefixes::Segment;
use crate::spec::TrainedRows;
use std::ops::Range;

/// What decides which rows depend.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The trained rows of the embedding.
    pub input: Option<&'a TrainedRows>,
    /// The blocks are trained too, so that every row depends.
    pub blocks: bool,
    /// Off, every row depends and is computed, which gives the same result with more work; the tests compare the two.
    pub shortcuts: bool,
    /// Rows see the rows before them only.
    pub causal: bool,
    /// The sequences that are wanted; `None` wants those with a label.
    pub wanted: Option<&'a [bool]>,
    /// The sequences whose encoder rows depend.
    pub memory: Option<&'a [bool]>,
    /// The token that positions do not count.
    pub padding: Option<u32>,
}

/// The rows of a batch that belong to one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Its first row.
    pub(super) start: usize,
    /// The first row that depends; past the end where none does.
    pub(super) first: usize,
    /// Past the last row that is needed.
    pub(super) end: usize,
    /// What it shares with other sequences, each with the row that is past it.
    segments: Vec<(u32, usize)>,
}

impl<'a> Rules<'a> {
    /// What decides where nothing but rows of the embedding is trained.
    pub fn new(input: Option<&'a TrainedRows>, causal: bool) -> Self {
        Self { input, blocks: false, shortcuts: true, causal, wanted: None, memory: None, padding: None }
    }

    /// The rows of a sequence that are computed; nothing where none is.
    pub(super) fn bounds(&self, batch: &RaggedBatch, sequence: usize) -> Option<Bounds> {
        let rows = batch.starts[sequence]..batch.starts[sequence + 1];
        let labelled = rows.clone().rev().find(|&row| batch.targets[row].is_some());
        let wanted = self.wanted.map_or(labelled.is_some(), |wanted| wanted[sequence]);
        let end = match labelled {
            _ if !self.shortcuts => rows.end,
            _ if !wanted => return None,
            Some(last) if self.causal && self.wanted.is_none() => last + 1,
            _ => rows.end,
        };
        // a shared run is computed whole or not at all, whatever of it this sequence needs
        let shared = batch.segments.get(sequence).map_or(&[][..], |segments| segments);
        let mut segments: Vec<(u32, usize)> = Vec::new();
        for &Segment { id, end: until } in shared.iter().filter(|_| self.causal && self.memory.is_none()) {
            if segments.last().map_or(rows.start, |last| last.1) < end {
                segments.push((id, rows.start + until));
            }
        }
        let reach = segments.last().map_or(end, |last| last.1.max(end));
        let trainable = |&row: &usize| self.input.is_some_and(|i| i.position(batch.ids[row]).is_some());
        let all = !self.shortcuts || self.blocks || self.memory.is_some_and(|memory| memory[sequence]);
        let first = match (rows.start..reach).find(trainable) {
            _ if all => rows.start,
            Some(first) if self.causal => first,
            Some(_) => rows.start,
            None => reach,
        };
        Some(Bounds { start: rows.start, first, end, segments })
    }
}

impl Bounds {
    /// The nodes of the sequence, first to last: what they are kept under, their rows, and whether these are constant.
    pub(super) fn pieces(&self, sequence: usize) -> Vec<(NodeKey, Range<usize>, bool)> {
        let mut start = self.start;
        let shared = self.segments.iter().map(|&(id, end)| (NodeKey::Segment(id), end));
        let own = [(NodeKey::Own(sequence), self.end)];
        let mut pieces = Vec::new();
        for (key, end) in shared.chain(own) {
            let cut = self.first.clamp(start, end.max(start));
            pieces.extend((start < cut).then_some((key, start..cut, true)));
            // what comes after the last row that is needed is computed for the sequences that need it
            pieces.extend((cut < end && cut < self.end).then_some((key, cut..end, false)));
            start = end.max(start);
        }
        pieces
    }
}
