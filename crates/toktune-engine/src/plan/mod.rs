//! Which rows of a batch are computed, which of them depend on what is trained, and what is kept of them.
//!
//! A batch is a forest: sequences that begin alike share rows ([`super::prefixes`]), which are computed once. In a causal decoder
//! a row before the first trained token of its sequence does not depend on the trained rows. It is *constant*: computed
//! forward, never backward, and seen by later rows through its keys and values only. A row after the last label of its sequence
//! is not computed at all, nor is a sequence without a label.
//!
//! Where rows see the whole sequence, as in an encoder, all of it depends as soon as it holds a trained token, and none of
//! it does otherwise; nothing is shared. Where they see an encoder's rows, they depend if these do.
//!
//! How rows are cut and shared follows from the data alone, never from the other sequences of a batch or from what a cache
//! holds: so a row's numbers are the same in every batch.

mod bounds;
mod crossing;
mod levels;

pub use bounds::Rules;
pub use crossing::Crossing;
pub use levels::{everything, levels};

use super::backend::Span;
use super::stack::RowPlaces;
use crate::batch::RaggedBatch;
use bounds::Bounds;
use std::collections::HashMap;
use std::ops::Range;
use toktune_kernels::attention::Stretch;

/// What a run of constant rows is kept under from one step to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NodeKey {
    /// The constant rows of a segment that several examples begin with.
    Segment(u32),
    /// What one sequence of the batch has for itself.
    Own(usize),
}

/// A label of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Label {
    /// The sequence.
    pub sequence: usize,
    /// The row's place in its sequence.
    pub row: usize,
    /// What it is to predict.
    pub target: u32,
    /// What its loss counts.
    pub weight: f32,
    /// Where its loss is computed, among the [entries](Part::entries) of its part: several labels may share one.
    pub entry: usize,
}

/// A row with a target: what is computed once, however many labels there are of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// The row, among those of the part.
    pub row: u32,
    /// The target.
    pub target: u32,
    /// What its loss counts: the sum over its labels.
    pub weight: f32,
}

/// Some rows of a batch that are computed together.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// The rows, a span for each node of the forest.
    pub places: RowPlaces,
    /// The first sequence through each span.
    pub sequences: Vec<usize>,
    /// The rows that have labels, with them.
    pub entries: Vec<Entry>,
    of_entry: HashMap<(u32, u32), usize>,
}

impl Part {
    /// How many rows.
    pub fn rows(&self) -> usize {
        self.places.ids.len()
    }

    /// The targets of its entries.
    pub fn targets(&self) -> Vec<u32> {
        self.entries.iter().map(|entry| entry.target).collect()
    }

    /// The rows of its entries.
    pub fn labelled(&self) -> Vec<u32> {
        self.entries.iter().map(|entry| entry.row).collect()
    }

    /// What each entry's loss counts; empty where each counts once.
    pub fn weights(&self) -> Vec<f32> {
        match self.entries.iter().all(|entry| entry.weight == 1.0) {
            true => Vec::new(),
            false => self.entries.iter().map(|entry| entry.weight).collect(),
        }
    }

    fn add_label(&mut self, row: u32, target: u32, weight: f32) -> usize {
        let next = self.entries.len();
        let at = *self.of_entry.entry((row, target)).or_insert(next);
        match self.entries.get_mut(at) {
            Some(entry) => entry.weight += weight,
            None => self.entries.push(Entry { row, target, weight }),
        }
        at
    }
}

/// Constant rows of one node that are computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComputedNode {
    /// What they are kept under.
    pub key: NodeKey,
    /// The rows among the constant ones.
    pub rows: Range<usize>,
    /// Whether other rows see their keys and values.
    pub is_seen: bool,
}

/// Constant rows of one node whose keys and values are known from an earlier step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownNode {
    /// What they are kept under.
    pub key: NodeKey,
    /// The rows among all constant ones: those that are known come after those that are computed.
    pub rows: Range<usize>,
}

/// The labels of a sequence's constant rows.
#[derive(Clone, Debug, PartialEq)]
pub struct ConstantLabels {
    /// The sequence.
    pub sequence: usize,
    /// Its labels; their entries are those of the constant part unless they are known.
    pub labels: Vec<Label>,
    /// What does not change of their losses is known from an earlier step.
    pub is_known: bool,
}

/// What is known from earlier steps, by a batch's sequences.
pub trait Known {
    /// Whether the keys and values of constant rows are known.
    fn rows(&self, key: NodeKey) -> bool;

    /// Whether what does not change of the losses of a sequence's constant rows is.
    fn labels(&self, sequence: usize) -> bool;
}

/// Nothing is known.
impl Known for () {
    fn rows(&self, _: NodeKey) -> bool {
        false
    }

    fn labels(&self, _: usize) -> bool {
        false
    }
}

/// A batch cut into its constant and its depending rows.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Constant rows to be computed.
    pub constant: Part,
    /// Rows that depend on what is trained.
    pub depending: Part,
    /// The nodes of the constant rows to be computed.
    pub computed: Vec<ComputedNode>,
    /// The nodes of constant rows that are known.
    pub known: Vec<KnownNode>,
    /// The labels of constant rows, a list for each sequence that has some.
    pub constant_labels: Vec<ConstantLabels>,
    /// The labels of depending rows.
    pub labels: Vec<Label>,
    /// The computed or known rows as they would be counted if nothing were shared.
    pub unshared_rows: usize,
}

/// A node of the forest: a run of rows, each of which depends or none does.
struct Node {
    key: NodeKey,
    is_constant: bool,
    /// The first sequence through it, and its rows there.
    sequence: usize,
    rows: Range<usize>,
    /// The nodes before it, root first.
    before: Vec<usize>,
    is_seen: bool,
    /// Some label in it must be computed.
    has_new_labels: bool,
    place: Place,
}

/// Where a node's rows are.
#[derive(Clone, Debug)]
enum Place {
    Nowhere,
    Computed(Range<usize>),
    Known(Range<usize>),
}

impl Plan {
    /// Cuts a batch; what of it is `known` is not computed.
    pub fn new(batch: &RaggedBatch, rules: &Rules<'_>, known: &impl Known) -> Self {
        let count = batch.starts.len().saturating_sub(1);
        let bounds: Vec<Option<Bounds>> = (0..count).map(|sequence| rules.bounds(batch, sequence)).collect();
        let mut nodes: Vec<Node> = Vec::new();
        let mut of_key: HashMap<(NodeKey, bool), usize> = HashMap::new();
        // the nodes of each sequence, root first
        let mut paths: Vec<Vec<usize>> = Vec::new();
        for (sequence, bounds) in bounds.iter().enumerate() {
            let mut path: Vec<usize> = Vec::new();
            for (key, rows, is_constant) in bounds.iter().flat_map(|bounds| bounds.pieces(sequence)) {
                let at = *of_key.entry((key, is_constant)).or_insert_with(|| {
                    nodes.push(Node {
                        key,
                        is_constant,
                        sequence,
                        rows,
                        before: path.clone(),
                        is_seen: false,
                        has_new_labels: false,
                        place: Place::Nowhere,
                    });
                    nodes.len() - 1
                });
                path.push(at);
            }
            paths.push(path);
        }
        let mut plan = Self::default();
        plan.gather_labels(batch, &bounds, known);
        for labels in plan.constant_labels.iter().filter(|labels| !labels.is_known) {
            for &at in &paths[labels.sequence] {
                // the node's rows in this sequence are those it has in its first one, as far from the start
                let first = nodes[at].rows.start - batch.starts[nodes[at].sequence];
                let rows = first..first + nodes[at].rows.len();
                let is_here = |label: &Label| rows.contains(&label.row);
                nodes[at].has_new_labels |= nodes[at].is_constant && labels.labels.iter().any(is_here);
            }
        }
        plan.choose(&mut nodes, known, rules.wanted.is_some());
        plan.lay_out(batch, &mut nodes, rules.padding);
        plan.place_labels(batch, &nodes, &paths);
        let rows = |bounds: &Bounds| bounds.end - bounds.start;
        plan.unshared_rows = bounds.iter().flatten().map(rows).sum();
        plan
    }

    /// Collects the labels of all sequences; where they are computed is not known yet.
    fn gather_labels(&mut self, batch: &RaggedBatch, bounds: &[Option<Bounds>], known: &impl Known) {
        for (sequence, of) in bounds.iter().enumerate().filter_map(|(i, of)| Some((i, of.as_ref()?))) {
            let label = |row: usize| {
                let target = batch.targets[row]?;
                let weight = batch.weights.get(row).copied().unwrap_or(1.0);
                Some(Label { sequence, row: row - of.start, target, weight, entry: 0 })
            };
            let constant: Vec<Label> = (of.start..of.first.min(of.end)).filter_map(label).collect();
            if !constant.is_empty() {
                let is_known = known.labels(sequence);
                self.constant_labels.push(ConstantLabels { sequence, labels: constant, is_known });
            }
            self.labels.extend((of.first.min(of.end)..of.end).filter_map(label));
        }
    }

    /// Decides which nodes are computed and which are known, and which constant rows others see. With `all`, every row is
    /// wanted for itself.
    fn choose(&mut self, nodes: &mut [Node], known: &impl Known, all: bool) {
        // from the leaves on, so that whoever is computed tells those before it
        for at in (0..nodes.len()).rev() {
            let node = &nodes[at];
            let is_known = node.is_constant && known.rows(node.key);
            let computed = all || !node.is_constant || node.has_new_labels || (node.is_seen && !is_known);
            if computed {
                nodes[at].place = Place::Computed(0..0);
                for before in nodes[at].before.clone() {
                    nodes[before].is_seen = true;
                }
            } else if nodes[at].is_seen {
                nodes[at].place = Place::Known(0..0);
            }
        }
    }

    /// Gives every node its rows.
    fn lay_out(&mut self, batch: &RaggedBatch, nodes: &mut [Node], padding: Option<u32>) {
        let computed = nodes.iter().filter(|n| n.is_constant && matches!(n.place, Place::Computed(_)));
        let first_known: usize = computed.map(|node| node.rows.len()).sum();
        let mut next_known = first_known;
        for at in 0..nodes.len() {
            let (rows, len) = (nodes[at].rows.clone(), nodes[at].rows.len());
            match nodes[at].place {
                Place::Nowhere => continue,
                Place::Known(_) => {
                    let own = next_known..next_known + len;
                    next_known = own.end;
                    self.known.push(KnownNode { key: nodes[at].key, rows: own.clone() });
                    nodes[at].place = Place::Known(own);
                    continue;
                }
                Place::Computed(_) => {}
            }
            let is_constant = nodes[at].is_constant;
            let stretch = |&before: &usize| {
                let of = &nodes[before];
                let (rows, is_past) = match &of.place {
                    Place::Computed(rows) => (rows.clone(), of.is_constant && !is_constant),
                    // the past of constant rows is the known ones alone
                    Place::Known(rows) if is_constant => {
                        (rows.start - first_known..rows.end - first_known, true)
                    }
                    Place::Known(rows) => (rows.clone(), true),
                    Place::Nowhere => (0..0, true),
                };
                Stretch { rows, is_past }
            };
            let before: Vec<Stretch> = nodes[at].before.iter().map(stretch).collect();
            let (sequence, key, is_seen) = (nodes[at].sequence, nodes[at].key, nodes[at].is_seen);
            let part = if is_constant { &mut self.constant } else { &mut self.depending };
            let own = part.rows()..part.rows() + len;
            let tokens_before = &batch.ids[batch.starts[sequence]..rows.start];
            let places = &mut part.places;
            places.uncounted.push(tokens_before.iter().filter(|id| Some(**id) == padding).count());
            places.ids.extend_from_slice(&batch.ids[rows]);
            places.spans.push(Span { rows: own.clone(), keys: own.clone(), before });
            places.lengths.push(batch.starts[sequence + 1] - batch.starts[sequence]);
            part.sequences.push(sequence);
            if is_constant {
                self.computed.push(ComputedNode { key, rows: own.clone(), is_seen });
            }
            nodes[at].place = Place::Computed(own);
        }
    }

    /// Finds the entry of every label.
    fn place_labels(&mut self, batch: &RaggedBatch, nodes: &[Node], paths: &[Vec<usize>]) {
        let Self { constant, depending, constant_labels, labels, .. } = self;
        let find = |label: &mut Label, part: &mut Part| {
            for &at in &paths[label.sequence] {
                let node = &nodes[at];
                let first = node.rows.start - batch.starts[node.sequence];
                let (Place::Computed(rows), Some(offset)) = (&node.place, label.row.checked_sub(first))
                else {
                    continue;
                };
                if offset < rows.len() {
                    let row = (rows.start + offset) as u32;
                    label.entry = part.add_label(row, label.target, label.weight);
                    return;
                }
            }
        };
        for of in constant_labels.iter_mut().filter(|of| !of.is_known) {
            of.labels.iter_mut().for_each(|label| find(label, constant));
        }
        labels.iter_mut().for_each(|label| find(label, depending));
    }

    /// Rows of all constant ones that other rows see or that are computed.
    pub fn constant_rows(&self) -> usize {
        self.known.last().map_or(self.constant.rows(), |known| known.rows.end)
    }
}

#[cfg(test)]
mod tests;
