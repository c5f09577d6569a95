//! Sentences in pairs: in-batch negatives over pooled, normalised outputs (MultipleNegativesRankingLoss of
//! sentence-transformers, with its scale of 20).
//!
//! ```text
//! e = normalise(the vector of the rows, in most models their mean),   s_ij = 20 a_i · p_j,   loss_i = ln Σ_j e^(s_ij) - s_ii
//! ```

use super::{LastRows, Loss, Losses, Objective, Reads};
use crate::spec::pooling::normalised;

/// Sequences `2i` and `2i + 1` of a batch belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pairs;

/// Factor on the cosines.
const SCALE: f64 = 20.0;

impl Objective for Pairs {
    fn reads(&self) -> Reads {
        Reads::WholeSequences
    }

    fn losses(&self, rows: &mut dyn LastRows) -> Losses {
        let (losses, hits, gradients) = ranking(&rows.vectors());
        rows.pull_vectors(&gradients);
        let of = |(pair, value): (usize, f64)| Loss {
            sequence: 2 * pair,
            row: None,
            target: None,
            value: value as f32,
            weight: 1.0,
        };
        Losses {
            losses: losses.into_iter().enumerate().map(of).collect(),
            hits: Some(hits),
            ..Losses::default()
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The loss of each pair, how many anchors are nearest to their own positive, and the gradient of the losses' sum with
/// respect to every vector.
fn ranking(vectors: &[Vec<f64>]) -> (Vec<f64>, usize, Vec<Vec<f64>>) {
    let (units, norms): (Vec<Vec<f64>>, Vec<f64>) = vectors.iter().map(|x| normalised(x)).unzip();
    let mut dunits: Vec<Vec<f64>> = vectors.iter().map(|x| vec![0f64; x.len()]).collect();
    let pairs = vectors.len() / 2;
    let (mut losses, mut nearest) = (Vec::new(), 0);
    for i in 0..pairs {
        let scores: Vec<f64> = (0..pairs).map(|j| SCALE * dot(&units[2 * i], &units[2 * j + 1])).collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        losses.push(top + total.ln() - scores[i]);
        nearest += usize::from(scores.iter().enumerate().all(|(j, score)| j == i || *score < scores[i]));
        for (j, score) in scores.iter().enumerate() {
            let weight = SCALE * ((score - top).exp() / total - if i == j { 1.0 } else { 0.0 });
            for (from, to) in [(2 * j + 1, 2 * i), (2 * i, 2 * j + 1)] {
                dunits[to].iter_mut().zip(&units[from]).for_each(|(g, x)| *g += weight * x);
            }
        }
    }
    // through the normalisation: what lies along the unit vector is lost
    let dvectors = units.iter().zip(&dunits).zip(&norms).map(|((unit, g), norm)| {
        let along = dot(unit, g);
        unit.iter().zip(g).map(|(u, g)| (g - along * u) / norm).collect()
    });
    (losses, nearest, dvectors.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_those_of_differences() {
        let means: Vec<Vec<f64>> = (0..6)
            .map(|i| (0..4).map(|j| ((i * 7 + j * 3) as f64 * 0.9).sin() + 0.1 * j as f64).collect())
            .collect();
        let (losses, nearest, gradients) = ranking(&means);
        assert!(losses.len() == 3 && nearest <= 3);
        let total = |means: &[Vec<f64>]| ranking(means).0.iter().sum::<f64>();
        for (i, gradient) in gradients.iter().enumerate() {
            for (j, gradient) in gradient.iter().enumerate() {
                let shifted = |by: f64| {
                    let mut means = means.clone();
                    means[i][j] += by;
                    total(&means)
                };
                let expected = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
                assert!((gradient - expected).abs() < 1e-6, "{i} {j}: {gradient} {expected}");
            }
        }
    }

    #[test]
    fn an_anchor_is_nearest_to_one_positive_at_most() {
        let (a, b) = (vec![1.0, 0.0], vec![0.0, 1.0]);
        let near = |means: [&Vec<f64>; 4]| ranking(&means.map(Clone::clone)).1;
        assert_eq!([near([&a, &a, &b, &b]), near([&a, &b, &b, &b]), near([&a, &b, &b, &a])], [2, 0, 0]);
        assert_eq!(near([&a, &a, &b, &a]), 0, "a tie is no hit");
    }

    #[test]
    fn one_pair_has_nothing_to_be_told_from() {
        let (losses, nearest, gradients) = ranking(&[vec![1.0, 2.0], vec![0.5, -1.0]]);
        assert!(
            nearest == 1 && losses[0].abs() < 1e-12 && gradients.iter().flatten().all(|g| g.abs() < 1e-12)
        );
        assert!(ranking(&[]).0.is_empty());
    }
}
