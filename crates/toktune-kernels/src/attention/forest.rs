//! The backward pass of attention where sequences share rows, or are few.
//!
//! A node's keys get gradients from its own queries and from those of every node below it. The tiles of keys of a tree are cut
//! into a few segments of about the same work; a task has one segment for one query head, computes each tile of
//! probabilities once, and keeps sums of its own, which are added in one order afterwards. How a tree is cut follows from its
//! shape alone.

use super::backward::{Backward, Square};
use super::tiles::{KeyTile, key_tiles, own_key_tiles, tile_room};
use super::{Inputs, Shape, Span, TILE_KEYS, TILE_QUERIES};
use crate::gemm::Right;
use crate::shared::{SharedMatrix, cut, pieces};
use rayon::prelude::*;
use std::ops::Range;

/// Segments of a tree at most: each has gradients of all queries of its own.
const SEGMENTS: usize = 4;

/// Tasks that are enough for every thread to be busy.
const TASKS: usize = 24;

/// A tile of keys with the spans whose queries see it.
struct Unit<'a> {
    tile: KeyTile<'a>,
    readers: Vec<usize>,
}

/// Spans that share rows.
struct Tree<'a> {
    /// In order.
    spans: Vec<usize>,
    /// Where the rows of each begin among those of the tree.
    starts: Vec<usize>,
    /// Rows in all.
    rows: usize,
    segments: Vec<Vec<Unit<'a>>>,
}

/// For each span, itself and the later ones that see its keys, in order; and the spans of each tree.
///
/// Panics when rows that come before a span's own are not all the rows of an earlier one.
fn readers_and_trees(spans: &[Span]) -> (Vec<Vec<usize>>, Vec<Vec<usize>>) {
    let mut readers: Vec<Vec<usize>> = (0..spans.len()).map(|at| vec![at]).collect();
    let mut tree_of: Vec<usize> = Vec::with_capacity(spans.len());
    let mut trees: Vec<Vec<usize>> = Vec::new();
    for (at, span) in spans.iter().enumerate() {
        let mut tree = None;
        for stretch in span.before.iter().filter(|stretch| !stretch.is_past && !stretch.rows.is_empty()) {
            let found = spans[..at].iter().position(|other| other.keys == stretch.rows);
            let Some(found) = found else { panic!("rows {:?} of an earlier span", stretch.rows) };
            readers[found].push(at);
            tree = Some(tree_of[found]);
        }
        let tree = tree.unwrap_or_else(|| {
            trees.push(Vec::new());
            trees.len() - 1
        });
        trees[tree].push(at);
        tree_of.push(tree);
    }
    (readers, trees)
}

impl<'a> Tree<'a> {
    fn new(
        shape: &Shape,
        x: &Inputs<'a>,
        all: &[Span],
        (spans, readers): (Vec<usize>, &[Vec<usize>]),
        most: usize,
    ) -> Self {
        let (mut starts, mut rows, mut units) = (Vec::with_capacity(spans.len()), 0, Vec::new());
        for &at in &spans {
            let span = &all[at];
            starts.push(rows);
            rows += span.rows.len();
            let own = span.position()..span.position() + span.rows.len();
            let past = key_tiles(shape, span, x, own).into_iter().filter(|tile| tile.is_past);
            units.extend(past.map(|tile| Unit { tile, readers: vec![at] }));
            let of_readers = || readers[at].clone();
            units.extend(own_key_tiles(span, x).map(|tile| Unit { tile, readers: of_readers() }));
        }
        let work = |unit: &Unit<'_>| {
            unit.tile.len() * unit.readers.iter().map(|&at| all[at].rows.len()).sum::<usize>()
        };
        let whole: usize = units.iter().map(work).sum();
        let mut segments: Vec<Vec<Unit<'a>>> = vec![Vec::new()];
        let mut done = 0;
        for unit in units {
            let of_unit = work(&unit);
            let next = done * most / whole.max(1);
            if next >= segments.len() {
                segments.push(Vec::new());
            }
            if let Some(segment) = segments.last_mut() {
                segment.push(unit);
            }
            done += of_unit;
        }
        Self { spans, starts, rows, segments }
    }

    /// Where the rows of a span begin among those of the tree.
    fn start_of(&self, span: usize) -> usize {
        self.starts[self.spans.partition_point(|other| *other < span)]
    }
}

/// The gradients of `q`, `k` and `v`; overwrites them.
pub(super) fn backward(pass: &Backward<'_>, spans: &[Span], [dq, dk, dv]: [&mut [f32]; 3]) {
    let (shape, x) = (pass.shape, pass.x);
    let (readers, trees) = readers_and_trees(spans);
    let segments = TASKS.div_ceil((trees.len() * shape.heads).max(1)).min(SEGMENTS);
    let tree = |of| Tree::new(shape, x, spans, (of, &readers), segments);
    let trees: Vec<Tree<'_>> = trees.into_iter().map(tree).collect();
    let (rows, keys) = (dq.len() / shape.q_width(), dk.len() / shape.kv_width());
    let parts = trees.iter().map(|tree| tree.segments.len()).max().unwrap_or(1);
    let mut of_queries = vec![0f32; parts * dq.len()];
    let mut of_keys = vec![0f32; keys * shape.q_width()];
    let mut of_values = vec![0f32; keys * shape.q_width()];
    {
        let of_queries: Vec<SharedMatrix<'_>> = of_queries
            .chunks_mut(dq.len().max(1))
            .map(|part| SharedMatrix::new(part, rows, shape.q_width()))
            .collect();
        let of_keys = SharedMatrix::new(&mut of_keys, keys, shape.q_width());
        let of_values = SharedMatrix::new(&mut of_values, keys, shape.q_width());
        let segments = |tree: usize| (0..trees[tree].segments.len()).map(move |segment| (tree, segment));
        let heads = |(tree, segment)| (0..shape.heads).map(move |head| (tree, segment, head));
        let tasks: Vec<_> = (0..trees.len()).flat_map(segments).flat_map(heads).collect();
        tasks.into_par_iter().for_each(|(tree, segment, head)| {
            let to = [&of_queries[segment], &of_keys, &of_values];
            pass.segment(spans, &trees[tree], &trees[tree].segments[segment], head, to);
        });
    }
    let whole = dq.len().max(1);
    dq.par_chunks_mut(shape.q_width()).enumerate().for_each(|(row, dq)| {
        let own = row * dq.len()..(row + 1) * dq.len();
        dq.fill(0.0);
        for part in of_queries.chunks(whole) {
            dq.iter_mut().zip(&part[own.clone()]).for_each(|(dq, part)| *dq += part);
        }
    });
    // the query heads of a key head, in their order
    let hd = shape.head_dim;
    for (to, of_heads) in [(dk, &of_keys), (dv, &of_values)] {
        let lines = to.par_chunks_mut(shape.kv_width()).zip(of_heads.par_chunks(shape.q_width()));
        lines.for_each(|(to, of_heads)| {
            for (kv_head, to) in to.chunks_exact_mut(hd).enumerate() {
                to.fill(0.0);
                for head in shape.group(kv_head) {
                    to.iter_mut().zip(&of_heads[head * hd..][..hd]).for_each(|(to, part)| *to += part);
                }
            }
        });
    }
}

impl Backward<'_> {
    /// The tiles of a span's queries of which some row sees a key of the tile.
    fn queries_that_see(&self, span: &Span, tile: &KeyTile<'_>) -> impl Iterator<Item = Range<usize>> {
        let (shape, past, total, keys) = (*self.shape, span.position(), span.total(), tile.positions());
        pieces(span.rows.len(), TILE_QUERIES).into_iter().filter(move |queries| {
            let seen = shape.visible_from(&(past + queries.start..past + queries.end), total);
            seen.end > keys.start && seen.start < keys.end
        })
    }

    /// What a segment of a tree gives one query head: sums of the gradients of the tree's queries, and the gradients of the
    /// segment's keys and values, each matrix as wide as the queries.
    fn segment(
        &self,
        spans: &[Span],
        tree: &Tree<'_>,
        units: &[Unit<'_>],
        head: usize,
        [to_queries, to_keys, to_values]: [&SharedMatrix<'_>; 3],
    ) {
        let (shape, hd) = (self.shape, self.shape.head_dim);
        let kv_head = head / (shape.heads / shape.kv_heads);
        let (room, square) = (tile_room(&self.product, hd), Square::room(&self.product, hd));
        self.product.task_with(square + 2 * TILE_KEYS * hd + 3 * room + tree.rows * hd, |mut scratch| {
            let mut square = Square::cut(&self.product, hd, &mut scratch);
            let [dk_sum, dv_sum] = [(); 2].map(|()| cut(&mut scratch, TILE_KEYS * hd));
            let [room_1, room_2, room_3] = [(); 3].map(|()| cut(&mut scratch, room));
            let dq_sums = scratch;
            dq_sums.fill(0.0);
            for Unit { tile, readers } in units {
                let n = tile.len();
                let transposed = |of| tile.transposed(of, shape, kv_head);
                let keys = Right::new(self.product, transposed(tile.keys), (n, hd), TILE_QUERIES, room_1);
                let values = Right::new(self.product, transposed(tile.values), (n, hd), TILE_QUERIES, room_2);
                let key_rows = tile.rows_of(tile.keys, shape, kv_head);
                let key_rows = Right::new(self.product, key_rows, (hd, n), TILE_QUERIES, room_3);
                dk_sum.fill(0.0);
                dv_sum.fill(0.0);
                for &at in readers {
                    let (reader, start) = (&spans[at], tree.start_of(at));
                    for queries in self.queries_that_see(reader, tile) {
                        let own = &mut dq_sums[(start + queries.start) * hd..][..queries.len() * hd];
                        let queries = self.queries(reader, head, queries);
                        self.tile(&queries, tile, (&keys, &values), &mut square);
                        square.add_to_queries(&key_rows, (queries.len(), n), own);
                        if !tile.is_past {
                            self.add_to_keys(&queries, tile, &mut square, (dk_sum, dv_sum));
                        }
                    }
                }
                let rows = tile.rows.clone().filter(|_| !tile.is_past).enumerate();
                for (i, row) in rows {
                    // SAFETY: this task alone has these keys for this head.
                    let [dk, dv] = [to_keys, to_values].map(|to| unsafe { to.row(row, head * hd, hd) });
                    dk.copy_from_slice(&dk_sum[i * hd..][..hd]);
                    dv.copy_from_slice(&dv_sum[i * hd..][..hd]);
                }
            }
            let rows = tree.spans.iter().flat_map(|&at| spans[at].rows.clone());
            for (row, sum) in rows.zip(dq_sums.chunks_exact(hd)) {
                // SAFETY: this task alone has the queries of its tree in its segment's matrix for this head.
                unsafe { to_queries.row(row, head * hd, hd) }.copy_from_slice(sum);
            }
        });
    }
}
