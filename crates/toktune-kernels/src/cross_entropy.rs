//! Cross-entropy against a whole vocabulary without the logits of a whole batch (as in Cut Cross-Entropy, Wijmans et
//! al. 2024).
//!
//! ```text
//! loss = Σ_r  lse_r - h_r · w_{t_r},      lse_r = ln Σ_v e^(h_r · w_v)
//! dh_r = Σ_v p_rv w_v - w_{t_r},          dw_v  = Σ_r (p_rv - [v = t_r]) h_r   for the trained rows v
//! ```
//!
//! Where a row is nearly certain of its target, `p_rt` is 1 to all digits of an `f32`, and `p_rt - 1` and the loss would be what
//! rounding leaves. So the target is kept apart from the sum `o_r` of the others: `1 - p_rt` is their share of the whole, and the
//! loss `ln(1 + o_r / e^(h_r · w_{t_r}))`.
//!
//! A [`Head`] may add a bias to each logit and cap them; the gradients then carry the slope of the cap.
//!
//! The softmax-weighted sum of rows `Σ_v p_rv w_v` has the form of an attention over the vocabulary, so it is taken
//! the same way: one pass over panels of `W` keeps a running maximum, denominator and weighted sum. The logits
//! of a panel exist once, for a limited number of rows.

mod head;
mod significant;

pub use head::Head;

use crate::Isa;
use crate::gemm::gemm;
use crate::math::{axpy, exp, exp_shifted, max, scale};
use crate::matmul::{self, Write};
use crate::product::Precision;
use crate::shared::{pieces, with_scratch};
use crate::view::View;
use crate::weight::{Matrix, StoredRow, TokenTable};
use crate::weight_type::WeightType;
use rayon::prelude::*;
use std::ops::Range;

/// Labelled rows that pass over the vocabulary together.
const CHUNK_ROWS: usize = 2048;

/// Entries of the vocabulary whose logits exist at a time.
const PANEL_ROWS: usize = 1024;

/// Rows handled by one task of the row-wise part.
const TASK_ROWS: usize = 16;

/// Rows that share the trained entries' logits.
const TILE_ROWS: usize = 256;

/// Trained rows whose gradient is gathered at once.
const TRAINED_ROWS: usize = 256;

/// Floats of logits that exist at a time for `rows` labelled rows.
pub fn scratch_floats(rows: usize) -> usize {
    rows.min(CHUNK_ROWS) * PANEL_ROWS
}

/// Labelled rows.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    /// The rows, `[rows, d]`.
    pub hidden: &'a [f32],
    /// Their labels, entries of the vocabulary.
    pub targets: &'a [u32],
    /// What each row's loss counts in the gradients; empty where each counts once.
    pub weights: &'a [f32],
}

impl Labelled<'_> {
    /// What row `row` counts.
    fn weight(&self, row: usize) -> f32 {
        self.weights.get(row).copied().unwrap_or(1.0)
    }

    fn check(&self, table: &TokenTable<'_>) -> (usize, usize) {
        let (rows, d) = (self.targets.len(), table.cols());
        assert_eq!(self.hidden.len(), rows * d, "{rows} rows of {d}");
        assert!(self.weights.is_empty() || self.weights.len() == rows, "a weight for each of {rows} rows");
        let inside = self.targets.iter().all(|&target| (target as usize) < table.rows());
        assert!(inside, "targets inside {} entries", table.rows());
        (rows, d)
    }
}

/// What [`cross_entropy`] is to compute beside the loss.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// `[rows, d]`, overwritten: the gradient of the hidden rows.
    pub hidden: Option<&'a mut [f32]>,
    /// `[k, d]`, added to: the gradient of the table's trained rows.
    pub trained: Option<&'a mut [f32]>,
}

/// Writes the loss of every row into `losses [rows]`, in nats and without its weight, and the gradients of their weighted sum.
///
/// `precision` is that of the products with the
/// table; in bf16 the entries that have next to nothing of the softmax enter the gradient of the hidden rows by their mean. The
/// trained rows' own gradient is always taken in `f32`. Panics when a length does not fit or a target is past the vocabulary.
pub fn cross_entropy(
    of: Labelled<'_>,
    head: &Head<'_>,
    losses: &mut [f32],
    mut gradients: Gradients<'_>,
    precision: Precision,
) {
    let (table, Labelled { hidden, targets, .. }) = (head.table, of);
    let (rows, d) = of.check(table);
    assert_eq!(losses.len(), rows, "a loss for every row");
    assert!(gradients.hidden.as_ref().is_none_or(|dh| dh.len() == rows * d), "a gradient for every row");
    let mut seen = Vec::with_capacity(rows);
    for chunk in pieces(rows, CHUNK_ROWS) {
        let own = chunk.start * d..chunk.end * d;
        let targets = &targets[chunk.clone()];
        let pass = Pass { h: &hidden[own.clone()], head, targets, precision, frozen_only: false };
        let mut dh = gradients.hidden.as_deref_mut().map(|dh| &mut dh[own]);
        let of_chunk = pass.run(dh.as_deref_mut());
        if let Some(dh) = dh.filter(|_| !of.weights.is_empty()) {
            let rows = dh.chunks_exact_mut(d.max(1)).zip(&of.weights[chunk.clone()]);
            rows.for_each(|(dh, weight)| scale(head.isa, dh, *weight));
        }
        losses[chunk].iter_mut().zip(&of_chunk).for_each(|(loss, seen)| *loss = seen.loss());
        seen.extend(of_chunk);
    }
    if let Some(sums) = gradients.trained {
        assert_eq!(sums.len(), table.values().len(), "a gradient for every trained row");
        trained_pass(of, head, &seen, sums);
    }
}

/// What a row's loss takes from the frozen entries of a table. It does not change while the trained rows do, so for a row
/// that does not change either it can be kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrozenPart {
    /// The logarithm of the softmax's denominator over the frozen entries but the target; negative infinity without any.
    pub others: f32,
    /// The logit of the target; negative infinity when the target is a trained entry.
    pub target: f32,
}

/// The part of every row's loss that comes from the frozen entries of `table`; arguments as for [`cross_entropy`].
pub fn frozen_parts(
    hidden: &[f32],
    head: &Head<'_>,
    targets: &[u32],
    precision: Precision,
) -> Vec<FrozenPart> {
    let (table, rows, d) = (head.table, targets.len(), head.table.cols());
    assert_eq!(hidden.len(), rows * d, "{rows} rows of {d}");
    assert!(targets.iter().all(|&t| (t as usize) < table.rows()), "targets inside {} entries", table.rows());
    let chunks = pieces(rows, CHUNK_ROWS).into_iter().flat_map(|chunk| {
        let (h, targets) = (&hidden[chunk.start * d..chunk.end * d], &targets[chunk]);
        Pass { h, head, targets, precision, frozen_only: true }.run(None)
    });
    chunks.map(|seen| FrozenPart { others: seen.others_lse(), target: seen.target }).collect()
}

/// The losses of rows whose frozen parts are known, and the gradient of the trained rows (added to `trained [k, d]`).
/// Other arguments as for [`cross_entropy`]; the products with the trained rows are `f32`.
pub fn with_trained_entries(
    of: Labelled<'_>,
    head: &Head<'_>,
    frozen: &[FrozenPart],
    losses: &mut [f32],
    trained: Option<&mut [f32]>,
) {
    let (table, Labelled { hidden, targets, .. }) = (head.table, of);
    let (rows, d) = of.check(table);
    assert_eq!((losses.len(), frozen.len()), (rows, rows), "a loss and a frozen part for every row");
    let entries = trained_entries(table);
    let mut seen: Vec<Seen> = frozen.iter().map(Seen::of).collect();
    let tiles = seen.par_chunks_mut(TILE_ROWS).zip(losses.par_chunks_mut(TILE_ROWS)).enumerate();
    tiles.for_each(|(tile, (seen, losses))| {
        let first = tile * TILE_ROWS;
        let (m, h) = (seen.len(), &hidden[first * d..]);
        for trained in entries.chunks(TRAINED_ROWS) {
            let n = trained.len();
            let values = &table.values()[trained[0].0 * d..][..n * d];
            with_scratch(m * n, |logits| {
                let operands = [View::rows(h, d), View::transposed(values, d)];
                gemm(head.isa, (m, n, d), operands, logits, n, false);
                for ((logits, seen), target) in
                    logits.chunks_exact_mut(n).zip(seen.iter_mut()).zip(&targets[first..])
                {
                    for (logit, t) in logits.iter_mut().zip(trained) {
                        *logit = head.finish_one(t.1, *logit);
                    }
                    let target = trained.iter().position(|t| t.1 == *target as usize);
                    seen.add(head.isa, logits, target);
                }
            });
        }
        losses.iter_mut().zip(seen).for_each(|(loss, seen)| *loss = seen.loss());
    });
    if let Some(sums) = trained {
        assert_eq!(sums.len(), table.values().len(), "a gradient for every trained row");
        trained_pass(of, head, &seen, sums);
    }
}

/// The trained rows of a table as `(index into the values, entry)`, so that a piece of them is a piece of the values.
fn trained_entries(table: &TokenTable<'_>) -> Vec<(usize, usize)> {
    let mut trained: Vec<(usize, usize)> = table.overrides().iter().map(|&(row, at)| (at, row)).collect();
    trained.sort_unstable();
    assert!(trained.iter().enumerate().all(|(i, t)| i == t.0), "every value is one trained row");
    trained
}

/// Some entries of a table, as a matrix of their own.
struct Panel<'a> {
    head: &'a Head<'a>,
    entries: Range<usize>,
}

impl Matrix for Panel<'_> {
    fn rows(&self) -> usize {
        self.entries.len()
    }

    fn cols(&self) -> usize {
        self.head.table.cols()
    }

    fn column_unit(&self) -> usize {
        self.head.table.column_unit()
    }

    fn decode(&self, isa: Isa, rows: Range<usize>, cols: Range<usize>, panel: &mut [f32]) {
        let first = self.entries.start;
        self.head.table.decode(isa, first + rows.start..first + rows.end, cols, panel);
    }

    fn stored_type(&self) -> Option<WeightType> {
        self.head.table.stored_type()
    }

    fn stored_row(&self, row: usize) -> Option<StoredRow<'_>> {
        self.head.table.stored_row(self.entries.start + row)
    }
}

/// One pass over the vocabulary for some rows.
struct Pass<'a> {
    h: &'a [f32],
    head: &'a Head<'a>,
    targets: &'a [u32],
    precision: Precision,
    /// Leave the trained entries out.
    frozen_only: bool,
}

/// What a row has seen of the vocabulary so far.
#[derive(Clone, Copy)]
struct Seen {
    /// The largest logit.
    largest: f32,
    /// The sum of `e^(logit - largest)` over all entries but the target.
    others: f32,
    /// The logit of the target.
    target: f32,
}

impl Seen {
    const NOTHING: Self = Self { largest: f32::NEG_INFINITY, others: 0.0, target: f32::NEG_INFINITY };

    fn of(frozen: &FrozenPart) -> Self {
        let largest = frozen.others.max(frozen.target);
        let others = if frozen.others == f32::NEG_INFINITY { 0.0 } else { exp(frozen.others - largest) };
        Self { largest, others, target: frozen.target }
    }

    /// `e^(logit - largest)` of the target; 0 before it was seen.
    fn own(&self) -> f32 {
        if self.target == f32::NEG_INFINITY { 0.0 } else { exp(self.target - self.largest) }
    }

    /// The denominator over `e^largest`.
    fn total(&self) -> f32 {
        self.others + self.own()
    }

    /// The logarithm of the denominator.
    fn lse(&self) -> f32 {
        self.largest + self.total().ln()
    }

    /// The same without the target.
    fn others_lse(&self) -> f32 {
        self.largest + self.others.ln()
    }

    /// What the softmax leaves to others than the target, without the digits that `1 - p` would lose.
    fn missed(&self) -> f32 {
        self.others / self.total()
    }

    /// The loss, `ln(1 + others / own)` where the target is the likeliest, which keeps the digits that a difference would lose.
    fn loss(&self) -> f32 {
        let own = self.own();
        if own >= self.others { (self.others / own).ln_1p() } else { self.lse() - self.target }
    }

    /// Turns logits into `e^(logit - largest)`, counts them, and returns what sums from before are to be scaled by. The
    /// `target`, if it is one of them, is taken note of and becomes 0.
    fn add(&mut self, isa: Isa, logits: &mut [f32], target: Option<usize>) -> f32 {
        let new = self.largest.max(max(isa, logits));
        if new == f32::NEG_INFINITY {
            // nothing but entries that are left out; NaN goes on below
            if logits.iter().all(|x| *x == f32::NEG_INFINITY) {
                logits.fill(0.0);
                return 1.0;
            }
        }
        if let Some(at) = target {
            self.target = std::mem::replace(&mut logits[at], f32::NEG_INFINITY);
        }
        let keep = exp(self.largest - new);
        self.others = self.others * keep + exp_shifted(isa, logits, new);
        self.largest = new;
        keep
    }
}

impl Pass<'_> {
    /// What every row saw of the whole vocabulary; also writes, if asked for, the gradient of the rows.
    fn run(&self, mut dh: Option<&mut [f32]>) -> Vec<Seen> {
        let (isa, m, d) = (self.head.isa, self.targets.len(), self.head.table.cols());
        let mut seen = vec![Seen::NOTHING; m];
        if let Some(dh) = dh.as_deref_mut() {
            dh.fill(0.0);
        }
        with_scratch(m * PANEL_ROWS, |scratch| {
            for entries in pieces(self.head.table.rows(), PANEL_ROWS) {
                let logits = &mut scratch[..m * entries.len()];
                let panel = Panel { head: self.head, entries: entries.clone() };
                matmul::forward(isa, self.h, &panel, self.precision, Write::Over, logits);
                if !self.head.bias.is_empty() || self.head.soft_cap.is_some() {
                    let n = entries.len();
                    logits.par_chunks_mut(n).for_each(|row| self.head.finish(entries.clone(), row));
                }
                if self.frozen_only {
                    self.leave_trained_out(&entries, logits);
                }
                self.see(&entries, logits, &mut seen, dh.as_deref_mut());
                if let Some(dh) = dh.as_deref_mut() {
                    let few = self.precision == Precision::Bf16
                        && significant::add_if_few(&panel, logits, &seen, dh);
                    if !few {
                        matmul::backward(isa, logits, &panel, self.precision, Write::Add, dh);
                    }
                }
            }
        });
        if let Some(dh) = dh {
            dh.par_chunks_mut(d.max(1)).zip(&seen).zip(self.targets).for_each(|((dh, seen), &target)| {
                with_scratch(d, |target_row| {
                    self.head.table.decode(isa, target as usize..target as usize + 1, 0..d, target_row);
                    scale(isa, dh, 1.0 / seen.total());
                    axpy(isa, dh, -seen.missed() * self.head.slope(seen.target), target_row);
                });
            });
        }
        seen
    }

    /// Sets the logits of trained entries to negative infinity.
    fn leave_trained_out(&self, entries: &Range<usize>, logits: &mut [f32]) {
        let n = entries.len();
        let inside = self.head.table.overrides().iter().filter(|(row, _)| entries.contains(row));
        for (row, _) in inside {
            logits.iter_mut().skip(row - entries.start).step_by(n).for_each(|x| *x = f32::NEG_INFINITY);
        }
    }

    /// Turns the logits of some entries into `e^(logit - largest)`, those of targets into 0, and brings what was summed before to the new largest.
    fn see(&self, entries: &Range<usize>, logits: &mut [f32], seen: &mut [Seen], dh: Option<&mut [f32]>) {
        let (isa, n, d) = (self.head.isa, entries.len(), self.head.table.cols().max(1));
        let row = |logits: &mut [f32], seen: &mut Seen, target: u32, dh: Option<&mut [f32]>| {
            let target = target as usize;
            let target = entries.contains(&target).then(|| target - entries.start);
            let Some(dh) = dh else {
                seen.add(isa, logits, target);
                return;
            };
            let keep = match self.head.soft_cap {
                None => seen.add(isa, logits, target),
                Some(cap) => with_scratch(n, |before| {
                    before.copy_from_slice(logits);
                    let keep = seen.add(isa, logits, target);
                    head::scale_by_slopes(isa, logits, before, cap);
                    keep
                }),
            };
            if keep != 1.0 {
                scale(isa, dh, keep);
            }
        };
        let tasks = logits
            .par_chunks_mut(TASK_ROWS * n)
            .zip(seen.par_chunks_mut(TASK_ROWS))
            .zip(self.targets.par_chunks(TASK_ROWS));
        match dh {
            Some(dh) => {
                tasks.zip(dh.par_chunks_mut(TASK_ROWS * d)).for_each(|(((logits, seen), targets), dh)| {
                    for (((logits, seen), &target), dh) in
                        logits.chunks_exact_mut(n).zip(seen).zip(targets).zip(dh.chunks_exact_mut(d))
                    {
                        row(logits, seen, target, Some(dh));
                    }
                })
            }
            None => tasks.for_each(|((logits, seen), targets)| {
                for ((logits, seen), &target) in logits.chunks_exact_mut(n).zip(seen).zip(targets) {
                    row(logits, seen, target, None);
                }
            }),
        }
    }
}

/// Adds the gradient of the trained rows: their logits are taken again, `rows x k` in tiles.
fn trained_pass(of: Labelled<'_>, head: &Head<'_>, seen: &[Seen], sums: &mut [f32]) {
    let (table, d, Labelled { hidden, targets, .. }) = (head.table, head.table.cols(), of);
    let trained = trained_entries(table);
    let tiles = pieces(targets.len(), TILE_ROWS);
    sums.par_chunks_mut(TRAINED_ROWS * d).zip(trained.par_chunks(TRAINED_ROWS)).for_each(
        |(sums, trained)| {
            let n = trained.len();
            let values = &table.values()[trained[0].0 * d..][..n * d];
            with_scratch(TILE_ROWS * n, |scratch| {
                for tile in &tiles {
                    let (m, h) = (tile.len(), &hidden[tile.start * d..tile.end * d]);
                    let p = &mut scratch[..m * n];
                    let operands = [View::rows(h, d), View::transposed(values, d)];
                    gemm(head.isa, (m, n, d), operands, p, n, false);
                    for (p, r) in p.chunks_exact_mut(n).zip(tile.clone()) {
                        let (lse, missed) = (seen[r].lse(), seen[r].missed());
                        for (p, t) in p.iter_mut().zip(trained) {
                            let logit = head.finish_one(t.1, *p);
                            let is_target = t.1 == targets[r] as usize;
                            *p = if is_target { -missed } else { exp(logit - lse) } * head.slope(logit);
                        }
                        if !of.weights.is_empty() {
                            scale(head.isa, p, of.weight(r));
                        }
                    }
                    gemm(head.isa, (n, d, m), [View::transposed(p, n), View::rows(h, d)], sums, d, true);
                }
            });
        },
    );
}

#[cfg(test)]
mod tests;
