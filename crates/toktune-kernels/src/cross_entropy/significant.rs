//! The entries of the vocabulary that count in bf16.
//!
//! Almost all of a trained model's softmax lies on a few entries. In bf16 only those are taken one by one into the gradient of the
//! hidden rows; the others of a panel together, as their mean row times what they have of the softmax. Leaving them out (as
//! Cut Cross-Entropy does, in blocks) would lose what the rows of a vocabulary have in common, which is much of them. The
//! loss and the trained rows' gradient see every entry, and in `f32` every entry is taken as it is.

use super::{Panel, Seen, TASK_ROWS};
use crate::math::axpy;
use crate::shared::with_scratch;
use crate::weight::Matrix;
use rayon::prelude::*;

/// The least share of the softmax beside the target that counts: a row that is nearly certain of its target has its gradient from
/// what is left. The first gradient of trained rows of Gemma-3-270M has a cosine of 0.9997 with
/// the exact one at this bound, of 0.9993 at twice as much; at 2⁻¹² and without the mean it is 0.76.
const LEAST: f32 = 1.0 / 32768.0;

/// With more than one in so many entries that count, a dense product is faster.
const ONE_IN: usize = 64;

/// Entries that are decoded together for their mean.
const DECODED: usize = 32;

/// What a row has of a panel.
#[derive(Clone, Copy, Default)]
struct Share {
    /// How many entries count.
    count: u32,
    /// The sum of the others' weights.
    rest: f32,
}

/// Adds `Σ_v p_rv w_v` over the entries of `panel` to each row of `dh [rows, d]`, those that do not count as their mean, if few
/// do; `false` where many do, with `dh` as it was.
///
/// `weights [rows, entries]` are the softmax before its division by the denominator, 0 for the targets. The sum of the entries seen
/// so far stands for that of all: it is no larger, so that every entry counts that would count in the end.
pub(super) fn add_if_few(panel: &Panel<'_>, weights: &[f32], seen: &[Seen], dh: &mut [f32]) -> bool {
    let (isa, n, d) = (panel.head.isa, panel.rows(), panel.cols().max(1));
    let mut shares = vec![Share::default(); seen.len()];
    let rows = shares.par_iter_mut().zip(seen).zip(weights.par_chunks(n)).with_min_len(TASK_ROWS);
    rows.for_each(|((own, seen), weights)| *own = share(isa, weights, least(seen)));
    if shares.iter().map(|own| own.count as usize).sum::<usize>() > weights.len() / ONE_IN {
        return false;
    }
    let mean = mean(panel);
    let rows = shares.par_iter().zip(seen).zip(weights.par_chunks(n)).zip(dh.par_chunks_mut(d));
    rows.with_min_len(TASK_ROWS).for_each(|(((own, seen), weights), dh)| {
        axpy(isa, dh, own.rest, &mean);
        if own.count == 0 {
            return;
        }
        with_scratch(d, |row| {
            for (entry, weight) in weights.iter().enumerate() {
                if counts_beside(*weight, least(seen)) {
                    panel.decode(isa, entry..entry + 1, 0..d, row);
                    axpy(isa, dh, *weight, row);
                }
            }
        });
    });
    true
}

/// The mean of the rows of a panel.
fn mean(panel: &Panel<'_>) -> Vec<f32> {
    let (isa, n, d) = (panel.head.isa, panel.rows(), panel.cols().max(1));
    let mut mean = vec![0f32; d];
    with_scratch(DECODED * d, |rows| {
        for first in (0..n).step_by(DECODED) {
            let entries = first..(first + DECODED).min(n);
            let rows = &mut rows[..entries.len() * d];
            panel.decode(isa, entries, 0..d, rows);
            rows.chunks_exact(d).for_each(|row| axpy(isa, &mut mean, 1.0 / n as f32, row));
        }
    });
    mean
}

/// The least weight of a row that counts; what is 0 never does.
fn least(seen: &Seen) -> f32 {
    (LEAST * seen.others).max(f32::MIN_POSITIVE)
}

/// Whether `weight` counts; what is not a number does, so that it is not lost.
#[inline(always)]
fn counts_beside(weight: f32, least: f32) -> bool {
    weight.abs() >= least || weight.is_nan()
}

crate::isa::multiversion! {
    fn share(isa: Isa, weights: &[f32], least: f32) -> Share {
        let (mut count, mut rest) = ([0u32; 16], [0f32; 16]);
        let chunks = weights.chunks_exact(16);
        let tail = chunks.remainder();
        for chunk in chunks {
            for i in 0..16 {
                let counts = counts_beside(chunk[i], least);
                count[i] += counts as u32;
                rest[i] += if counts { 0.0 } else { chunk[i] };
            }
        }
        let others = tail.iter().filter(|weight| !counts_beside(**weight, least));
        Share {
            count: count.iter().sum::<u32>() + (tail.len() - others.clone().count()) as u32,
            rest: rest.iter().sum::<f32>() + others.sum::<f32>(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cross_entropy::Head;
    use crate::testing::{assert_close, each_isa, random};
    use crate::weight::{RowOrder, TokenTable, Weight, encode};
    use crate::weight_type::WeightType;

    #[test]
    fn few_entries_are_added_one_by_one_and_many_are_left_to_a_product() {
        let (n, d, rows) = (200, 5, 2 * TASK_ROWS + 3);
        let w = random(n * d, 1);
        let data = encode(WeightType::F32, &w).expect("plain");
        let table = TokenTable::new(
            Weight::new(WeightType::F32, &data, n, d, RowOrder::Plain).expect("valid"),
            &[],
            &[],
            &[],
        );
        let seen = vec![Seen { largest: 3.0, others: 2.0, target: 0.0 }; rows];
        let least = 2.0 * LEAST;
        // some just count, the others just do not, some of them with the other sign; a row without any
        let mut weights: Vec<f32> =
            random(rows * n, 3).iter().map(|x| if *x < -0.8 { -0.5 } else { 0.999 } * least).collect();
        for r in (0..rows).filter(|r| r % 5 != 4) {
            weights[r * n + r] = 1.5;
            weights[r * n + 7 * r % n] = -least;
        }
        let start = random(rows * d, 2);
        let mut expected: Vec<f64> = start.iter().map(|x| *x as f64).collect();
        let of = |entry: usize, i: usize| w[entry * d + i] as f64;
        let mean: Vec<f64> = (0..d).map(|i| (0..n).map(|v| of(v, i)).sum::<f64>() / n as f64).collect();
        for (at, weight) in weights.iter().enumerate() {
            for i in 0..d {
                let own = if weight.abs() >= least { of(at % n, i) } else { mean[i] };
                expected[at / n * d + i] += *weight as f64 * own;
            }
        }
        each_isa(|isa| {
            let head = Head::plain(isa, &table);
            let panel = Panel { head: &head, entries: 0..n };
            let mut dh = start.clone();
            assert!(add_if_few(&panel, &weights, &seen, &mut dh), "{isa}");
            assert_close(&dh, &expected, 1e-6, &format!("{isa}"));
            let mut dh = start.clone();
            assert!(!add_if_few(&panel, &vec![least; rows * n], &seen, &mut dh) && dh == start, "{isa}");
            let mut broken = weights.clone();
            broken[3] = f32::NAN;
            let mut dh = start.clone();
            assert!(add_if_few(&panel, &broken, &seen, &mut dh) && dh[0].is_nan(), "{isa}");
        });
    }
}
