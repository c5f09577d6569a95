//! The softmax of scores that come a tile at a time (Milakov and Gimelshein, 2018): what a row has seen so far is a largest score
//! and the sum of `e^(score - largest)`.

use crate::math::{exp, max_of_lanes, sum_of_lanes};

crate::isa::multiversion! {
    /// Turns scores, which `factor` is missing from, into `e^(score - largest)`, `largest` being that of these and of those before
    /// them. Returns the new largest, what sums over the earlier ones are to be multiplied with, and the sum of the weights.
    ///
    /// Where nothing has been seen yet and all scores are negative infinity, the weights are 0 and so is their sum.
    pub(super) fn add_scores(isa: Isa, scores: &mut [f32], factor: f32, largest: f32) -> [f32; 3] {
        let mut lanes = [f32::NEG_INFINITY; 16];
        let mut chunks = scores.chunks_exact(16);
        for chunk in &mut chunks {
            for i in 0..16 {
                let score = chunk[i] * factor;
                lanes[i] = if score > lanes[i] { score } else { lanes[i] };
            }
        }
        let mut new = max_of_lanes(lanes).max(largest);
        for score in chunks.remainder() {
            new = new.max(*score * factor);
        }
        if new == f32::NEG_INFINITY {
            scores.fill(0.0);
            return [new, 1.0, 0.0];
        }
        let mut lanes = [0f32; 16];
        let mut chunks = scores.chunks_exact_mut(16);
        for chunk in &mut chunks {
            for i in 0..16 {
                chunk[i] = exp(chunk[i] * factor - new);
                lanes[i] += chunk[i];
            }
        }
        let mut sum = sum_of_lanes(lanes);
        for score in chunks.into_remainder() {
            *score = exp(*score * factor - new);
            sum += *score;
        }
        [new, if new == largest { 1.0 } else { exp(largest - new) }, sum]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{each_isa, random};

    #[test]
    fn pieces_give_the_softmax_of_the_whole() {
        each_isa(|isa| {
            for (length, cut) in [(1, 1), (5, 2), (16, 16), (40, 17), (100, 33)] {
                let scores: Vec<f32> = random(length, 3).iter().map(|x| x * 9.0).collect();
                let top = scores.iter().fold(f64::NEG_INFINITY, |top, s| top.max(*s as f64 * 0.7));
                let expected: f64 = scores.iter().map(|s| (*s as f64 * 0.7 - top).exp()).sum();
                let (mut largest, mut total) = (f32::NEG_INFINITY, 0.0);
                for piece in scores.chunks(cut) {
                    let mut weights = piece.to_vec();
                    let [new, keep, sum] = add_scores(isa, &mut weights, 0.7, largest);
                    for (weight, score) in weights.iter().zip(piece) {
                        let exact = (*score as f64 * 0.7 - new as f64).exp();
                        assert!((*weight as f64 - exact).abs() < 1e-6, "{isa} {weight} {exact}");
                    }
                    (largest, total) = (new, total * keep + sum);
                }
                assert!((largest as f64 - top).abs() < 1e-6, "{isa} {largest} {top}");
                assert!((total as f64 / expected - 1.0).abs() < 1e-6, "{isa} {total} {expected}");
            }
        });
    }

    #[test]
    fn nothing_seen_weighs_nothing() {
        each_isa(|isa| {
            let mut scores = [f32::NEG_INFINITY; 20];
            let found = add_scores(isa, &mut scores, 1.0, f32::NEG_INFINITY);
            assert_eq!((found, scores), ([f32::NEG_INFINITY, 1.0, 0.0], [0.0; 20]), "{isa}");
            assert_eq!(add_scores(isa, &mut [], 1.0, 2.0), [2.0, 1.0, 0.0], "{isa}");
        });
    }
}
