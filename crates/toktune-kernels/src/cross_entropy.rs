//! Cross-entropy against a whole vocabulary without the logits of a whole batch (as in Cut Cross-Entropy, Wijmans et
//! al. 2024).
//!
//! ```text
//! loss = Σ_r  lse_r - h_r · w_{t_r},      lse_r = ln Σ_v e^(h_r · w_v)
//! dh_r = Σ_v p_rv w_v - w_{t_r},          dw_v  = Σ_r (p_rv - [v = t_r]) h_r   for the trained rows v
//! ```
//!
//! The softmax-weighted sum of rows `Σ_v p_rv w_v` has the form of an attention over the vocabulary, so it is taken
//! the same way: one pass over panels of `W` keeps a running maximum, denominator and weighted sum. Each panel is
//! decoded once and used twice, and the logits are computed once, in `f32` exactly.

use crate::gemm::{View, gemm};
use crate::math::{axpy, exp, exp_shifted, max, scale};
use crate::shared::{pieces, with_scratch};
use crate::weight::{Matrix, TokenTable};
use rayon::prelude::*;

/// Labelled rows that share one pass over the vocabulary.
const TILE_ROWS: usize = 256;

/// Entries of the vocabulary in a panel.
const PANEL_ROWS: usize = 256;

/// Trained rows whose gradient is gathered at once.
const TRAINED_ROWS: usize = 256;

/// What [`cross_entropy`] is to compute beside the loss.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// `[rows, d]`, overwritten: the gradient of the hidden rows.
    pub hidden: Option<&'a mut [f32]>,
    /// `[k, d]`, added to: the gradient of the table's trained rows.
    pub trained: Option<&'a mut [f32]>,
}

/// Writes the loss of every row into `losses [rows]`, in nats, and the gradients of their sum.
///
/// `hidden` is `[rows, d]`, `targets [rows]` are entries of the vocabulary. Panics when a length does not fit or a
/// target is past the vocabulary.
pub fn cross_entropy(
    hidden: &[f32],
    table: &TokenTable<'_>,
    targets: &[u32],
    losses: &mut [f32],
    gradients: Gradients<'_>,
) {
    let (rows, d) = (targets.len(), table.cols());
    assert_eq!((hidden.len(), losses.len()), (rows * d, rows), "{rows} rows of {d}");
    assert!(targets.iter().all(|&t| (t as usize) < table.rows()), "targets inside {} entries", table.rows());
    let tiles = pieces(rows, TILE_ROWS);
    let mut jobs = cut(losses, gradients.hidden, &tiles, d);
    let lse: Vec<Vec<f32>> = jobs
        .par_iter_mut()
        .zip(&tiles)
        .map(|((losses, dh), tile)| {
            let (h, targets) = (&hidden[tile.start * d..tile.end * d], &targets[tile.clone()]);
            vocabulary_pass(h, table, targets, losses, dh.as_deref_mut())
        })
        .collect();
    if let Some(sums) = gradients.trained {
        assert_eq!(sums.len(), table.values().len(), "a gradient for every trained row");
        trained_pass(hidden, table, targets, &lse.concat(), sums);
    }
}

/// Cuts the outputs into the tiles' own parts.
fn cut<'a>(
    mut losses: &'a mut [f32],
    mut hidden: Option<&'a mut [f32]>,
    tiles: &[std::ops::Range<usize>],
    d: usize,
) -> Vec<(&'a mut [f32], Option<&'a mut [f32]>)> {
    tiles
        .iter()
        .map(|tile| {
            let (head, tail) = std::mem::take(&mut losses).split_at_mut(tile.len());
            losses = tail;
            let dh = hidden.take().map(|dh| {
                let (head, tail) = dh.split_at_mut(tile.len() * d);
                hidden = Some(tail);
                head
            });
            (head, dh)
        })
        .collect()
}

/// The losses, the log-denominators (returned) and, if asked for, the gradient of one tile of rows.
fn vocabulary_pass(
    h: &[f32],
    table: &TokenTable<'_>,
    targets: &[u32],
    losses: &mut [f32],
    mut dh: Option<&mut [f32]>,
) -> Vec<f32> {
    let (m, d) = (targets.len(), table.cols());
    let (mut largest, mut total) = (vec![f32::NEG_INFINITY; m], vec![0f32; m]);
    if let Some(dh) = dh.as_deref_mut() {
        dh.fill(0.0);
    }
    with_scratch(PANEL_ROWS * (m + d), |scratch| {
        let (logits, panel) = scratch.split_at_mut(PANEL_ROWS * m);
        for entries in pieces(table.rows(), PANEL_ROWS) {
            let n = entries.len();
            let (logits, panel) = (&mut logits[..m * n], &mut panel[..n * d]);
            table.decode(entries.clone(), 0..d, panel);
            gemm((m, n, d), View::rows(h, d), View::transposed(panel, d), logits, n, false);
            for (i, row) in logits.chunks_exact_mut(n).enumerate() {
                if entries.contains(&(targets[i] as usize)) {
                    losses[i] = -row[targets[i] as usize - entries.start];
                }
                let new = largest[i].max(max(row));
                let keep = exp(largest[i] - new);
                if keep != 1.0
                    && let Some(dh) = dh.as_deref_mut()
                {
                    scale(&mut dh[i * d..][..d], keep);
                }
                total[i] = total[i] * keep + exp_shifted(row, new);
                largest[i] = new;
            }
            if let Some(dh) = dh.as_deref_mut() {
                gemm((m, d, n), View::rows(logits, n), View::rows(panel, d), dh, d, true);
            }
        }
    });
    let lse: Vec<f32> = largest.iter().zip(&total).map(|(largest, total)| largest + total.ln()).collect();
    losses.iter_mut().zip(&lse).for_each(|(loss, lse)| *loss += lse);
    if let Some(dh) = dh {
        with_scratch(d, |target_row| {
            for (i, dh) in dh.chunks_exact_mut(d).enumerate() {
                let target = targets[i] as usize;
                table.decode(target..target + 1, 0..d, target_row);
                scale(dh, 1.0 / total[i]);
                axpy(dh, -1.0, target_row);
            }
        });
    }
    lse
}

/// Adds the gradient of the trained rows: their logits are taken again, `rows x k` in tiles.
fn trained_pass(hidden: &[f32], table: &TokenTable<'_>, targets: &[u32], lse: &[f32], sums: &mut [f32]) {
    let d = table.cols();
    // (index into the values, row of the table), so that a piece of them is a piece of `sums`
    let mut trained: Vec<(usize, usize)> = table.overrides().iter().map(|&(row, at)| (at, row)).collect();
    trained.sort_unstable();
    assert!(trained.iter().enumerate().all(|(i, t)| i == t.0), "every value is one trained row");
    let tiles = pieces(targets.len(), TILE_ROWS);
    sums.par_chunks_mut(TRAINED_ROWS * d).zip(trained.par_chunks(TRAINED_ROWS)).for_each(
        |(sums, trained)| {
            let n = trained.len();
            let values = &table.values()[trained[0].0 * d..][..n * d];
            with_scratch(TILE_ROWS * n, |scratch| {
                for tile in &tiles {
                    let (m, h) = (tile.len(), &hidden[tile.start * d..tile.end * d]);
                    let p = &mut scratch[..m * n];
                    gemm((m, n, d), View::rows(h, d), View::transposed(values, d), p, n, false);
                    for (p, r) in p.chunks_exact_mut(n).zip(tile.clone()) {
                        exp_shifted(p, lse[r]);
                        for (p, t) in p.iter_mut().zip(trained) {
                            if t.1 == targets[r] as usize {
                                *p -= 1.0;
                            }
                        }
                    }
                    gemm((n, d, m), View::transposed(p, n), View::rows(h, d), sums, d, true);
                }
            });
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, central_differences, each_isa, random};
    use crate::weight::{RowOrder, Weight, WeightType, encode};

    fn reference(hidden: &[f32], w: &[f32], d: usize, targets: &[u32]) -> Vec<f64> {
        hidden
            .chunks(d)
            .zip(targets)
            .map(|(h, &t)| {
                let logit = |row: &[f32]| h.iter().zip(row).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
                let logits: Vec<f64> = w.chunks(d).map(logit).collect();
                logits.iter().map(|l| l.exp()).sum::<f64>().ln() - logits[t as usize]
            })
            .collect()
    }

    /// A table of `frozen + extra` rows in which every seventh row is trained, and the matrix that it shows.
    struct Case {
        data: Vec<u8>,
        extra: Vec<f32>,
        overrides: Vec<(usize, usize)>,
        values: Vec<f32>,
        shown: Vec<f32>,
        frozen: usize,
        d: usize,
    }

    impl Case {
        fn new(frozen: usize, extra: usize, d: usize) -> Self {
            let base = random(frozen * d, 1);
            let extra = random(extra * d, 2);
            let rows: Vec<usize> = (0..frozen + extra.len() / d).step_by(7).collect();
            // values in the opposite order of the rows: token indices need not be sorted
            let overrides: Vec<_> = rows.iter().enumerate().map(|(i, &r)| (r, rows.len() - 1 - i)).collect();
            let values = random(rows.len() * d, 3);
            let mut shown = [base.clone(), extra.clone()].concat();
            for &(row, at) in &overrides {
                shown[row * d..][..d].copy_from_slice(&values[at * d..][..d]);
            }
            Self {
                data: encode(WeightType::F32, &base).expect("plain"),
                extra,
                overrides,
                values,
                shown,
                frozen,
                d,
            }
        }

        fn table<'a>(&'a self, values: &'a [f32]) -> TokenTable<'a> {
            let base = Weight::new(WeightType::F32, &self.data, self.frozen, self.d, RowOrder::Plain)
                .expect("valid");
            TokenTable::new(base, &self.extra, &self.overrides, values)
        }
    }

    #[test]
    fn losses_and_gradients_match_the_reference() {
        each_isa(|isa| {
            for (rows, frozen, extra, d) in [
                (0, 5, 0, 3),
                (1, 1, 0, 4),
                (5, 20, 3, 8),
                (3, PANEL_ROWS, 1, 4),
                (TILE_ROWS + 1, 30, 2, 5),
                (2, 600, 40, 4),
            ] {
                let case = Case::new(frozen, extra, d);
                let hidden: Vec<f32> = random(rows * d, 4).iter().map(|x| 2.0 * x).collect();
                let vocabulary = frozen + extra;
                let targets: Vec<u32> = (0..rows).map(|r| (r * 7 % vocabulary) as u32).collect();
                let what = format!("{isa} {rows} {frozen}+{extra} {d}");
                let (mut losses, mut dh) = (vec![f32::NAN; rows], vec![f32::NAN; rows * d]);
                let mut dw = vec![1.0; case.values.len()];
                let gradients = Gradients { hidden: Some(&mut dh), trained: Some(&mut dw) };
                cross_entropy(&hidden, &case.table(&case.values), &targets, &mut losses, gradients);
                assert_close(&losses, &reference(&hidden, &case.shown, d, &targets), 2e-6, &what);
                let mut alone = vec![f32::NAN; rows];
                cross_entropy(&hidden, &case.table(&case.values), &targets, &mut alone, Gradients::default());
                assert_eq!(losses, alone, "{what}: the loss alone");
                if rows == 0 || rows > 10 {
                    continue;
                }
                let total = |h: &[f32], w: &[f32]| reference(h, w, d, &targets).iter().sum::<f64>();
                let expected = central_differences(&hidden, |h| total(h, &case.shown));
                assert_close(&dh, &expected, 1e-3, &format!("{what} hidden"));
                let mut expected = central_differences(&case.values, |values| {
                    let mut shown = case.shown.clone();
                    for &(row, at) in &case.overrides {
                        shown[row * d..][..d].copy_from_slice(&values[at * d..][..d]);
                    }
                    total(&hidden, &shown)
                });
                expected.iter_mut().for_each(|g| *g += 1.0); // the gradient is added to what was there
                assert_close(&dw, &expected, 1e-3, &format!("{what} trained"));
            }
        });
    }

    #[test]
    fn large_logits_neither_overflow_nor_vanish() {
        let case = Case::new(4, 0, 2);
        let hidden = [400.0f32, -300.0];
        let (mut losses, mut dh) = ([f32::NAN], [f32::NAN; 2]);
        let gradients = Gradients { hidden: Some(&mut dh), trained: None };
        cross_entropy(&hidden, &case.table(&case.values), &[3], &mut losses, gradients);
        assert!(losses[0].is_finite() && dh.iter().all(|x| x.is_finite()), "{losses:?} {dh:?}");
    }
}
