//! Which experts a row takes, and with which weights: from the router's logits, one row at a time, forward and back.
//!
//! ```text
//! s = softmax(l) or σ(l),   C = the best of s + correction, in the best groups,   w_e = scale · s_e / Σ_C s
//! ```
//!
//! Which experts are chosen is a constant of the backward pass, as in transformers; their weights are not.

use crate::spec::{ExpertGroups, ExpertScores, Normalised, Routing};

/// How the rows of one layer come to their experts.
#[derive(Debug)]
pub(super) struct Router {
    pub(super) routing: Routing,
    /// Added to the scores for the choice, `[experts]`; empty where nothing is.
    pub(super) correction: Vec<f32>,
}

impl Router {
    /// The experts that a row takes by its logits, the best first, each with its weight.
    pub(super) fn choose(&self, logits: &[f32]) -> Vec<(u32, f32)> {
        if let ExpertScores::NearBest { reach } = self.routing.scores {
            let near = near_best(logits, reach, self.routing.chosen);
            return near.into_iter().map(|(best, shares)| (best, shares[best as usize])).collect();
        }
        let scores = self.scores(logits);
        let chosen = self.best(logits, &scores);
        let divisor = self.divisor(chosen.iter().map(|e| scores[*e as usize]).sum());
        chosen.into_iter().map(|e| (e, self.routing.scale * scores[e as usize] / divisor)).collect()
    }

    /// Turns the gradients of the weights, which are zeros for experts that the row does not take, into those of its logits.
    pub(super) fn pull(&self, logits: &[f32], gradients: &mut [f32]) {
        if let ExpertScores::NearBest { reach } = self.routing.scores {
            let of_weights = gradients.to_vec();
            gradients.fill(0.0);
            for (best, shares) in near_best(logits, reach, self.routing.chosen) {
                let upstream = of_weights[best as usize] * shares[best as usize];
                gradients.iter_mut().zip(&shares).for_each(|(gradient, share)| *gradient -= upstream * share);
                gradients[best as usize] += upstream;
            }
            return;
        }
        let scores = self.scores(logits);
        let chosen = self.best(logits, &scores);
        self.pull_weights(&scores, &chosen, gradients);
        match self.routing.scores {
            ExpertScores::Sigmoid => {
                gradients.iter_mut().zip(&scores).for_each(|(gradient, s)| *gradient *= s * (1.0 - s));
            }
            _ => {
                let mean: f32 = gradients.iter().zip(&scores).map(|(gradient, s)| gradient * s).sum();
                gradients
                    .iter_mut()
                    .zip(&scores)
                    .for_each(|(gradient, s)| *gradient = s * (*gradient - mean));
            }
        }
    }

    /// Turns the gradients of the weights of the chosen into those of their scores.
    fn pull_weights(&self, scores: &[f32], chosen: &[u32], gradients: &mut [f32]) {
        let of = |e: &u32| *e as usize;
        let sum: f32 = chosen.iter().map(|e| scores[of(e)]).sum();
        let divisor = self.divisor(sum);
        // a floor takes no part in the sum's gradient
        let moves = match self.routing.normalised {
            Normalised::No => false,
            Normalised::Sum { .. } => true,
            Normalised::SumAtLeast { floor } => sum >= floor,
        };
        let mean: f32 = chosen.iter().map(|e| gradients[of(e)] * scores[of(e)] / divisor).sum();
        let mean = if moves { mean } else { 0.0 };
        for e in chosen {
            gradients[of(e)] = self.routing.scale * (gradients[of(e)] - mean) / divisor;
        }
    }

    fn divisor(&self, sum: f32) -> f32 {
        match self.routing.normalised {
            Normalised::No => 1.0,
            Normalised::Sum { plus } => sum + plus,
            Normalised::SumAtLeast { floor } => sum.max(floor),
        }
    }

    fn scores(&self, logits: &[f32]) -> Vec<f32> {
        let mut scores = logits.to_vec();
        match self.routing.scores {
            ExpertScores::Sigmoid => scores.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
            _ => softmax(&mut scores),
        }
        scores
    }

    /// The experts that are chosen, the best first.
    fn best(&self, logits: &[f32], scores: &[f32]) -> Vec<u32> {
        let chosen = self.routing.chosen;
        if self.correction.is_empty() && self.routing.groups.is_none() {
            // the order of the scores, also where they are rounded to the same
            return largest(logits, chosen);
        }
        let mut values = scores.to_vec();
        values.iter_mut().zip(&self.correction).for_each(|(value, correction)| *value += correction);
        if let Some(groups) = &self.routing.groups {
            leave_groups(&mut values, groups);
        }
        largest(&values, chosen)
    }
}

/// Makes the values of all experts outside the best groups so small that they are not chosen.
fn leave_groups(values: &mut [f32], groups: &ExpertGroups) {
    let size = (values.len() / groups.count.max(1)).max(1);
    let of_group = |group: &[f32]| -> f32 {
        largest(group, groups.counted).into_iter().map(|at| group[at as usize]).sum()
    };
    let scores: Vec<f32> = values.chunks(size).map(of_group).collect();
    let best = largest(&scores, groups.chosen);
    for (number, group) in values.chunks_mut(size).enumerate() {
        if !best.contains(&(number as u32)) {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

/// The best expert `count` times, each without those before it, with the softmax over those nearly as good as it, `[experts]`.
fn near_best(logits: &[f32], reach: f32, count: usize) -> Vec<(u32, Vec<f32>)> {
    let mut open = logits.to_vec();
    let mut found = Vec::with_capacity(count);
    for _ in 0..count {
        let Some(&best) = largest(&open, 1).first() else { break };
        let top = open[best as usize];
        let is_far = |s: f32| (top - s) / s.abs().max(top) > reach;
        let far = |(open, s): (&f32, &f32)| if is_far(*s) { f32::NEG_INFINITY } else { *open };
        let mut shares: Vec<f32> = open.iter().zip(logits).map(far).collect();
        softmax(&mut shares);
        found.push((best, shares));
        open[best as usize] = f32::NEG_INFINITY;
    }
    found
}

fn softmax(row: &mut [f32]) {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|x| *x = (*x - top).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
}

/// The places of the `count` largest values, the largest first; of equals the first.
fn largest(values: &[f32], count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    let of = |at: u32| values[at as usize];
    order.sort_unstable_by(|&a, &b| of(b).total_cmp(&of(a)).then(a.cmp(&b)));
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_is_taken() {
        assert_eq!(largest(&[0.2, 0.3, 0.3, 0.2], 3), [1, 2, 0]);
        assert_eq!(largest(&[f32::NAN, 0.5], 1).len(), 1);
    }

    fn routers() -> Vec<Router> {
        let plain = |routing| Router { routing, correction: Vec::new() };
        let sigmoid = Routing { scores: ExpertScores::Sigmoid, scale: 1.7, ..Routing::softmax(3, true) };
        let groups = ExpertGroups { count: 3, chosen: 2, counted: 2 };
        let correction: Vec<f32> = (0..9).map(|e| ((e * 5) % 7) as f32 * 0.17).collect();
        let floor = |floor| Normalised::SumAtLeast { floor };
        vec![
            plain(Routing::softmax(2, false)),
            plain(Routing::softmax(3, true)),
            plain(sigmoid),
            plain(Routing { normalised: Normalised::No, ..sigmoid }),
            plain(Routing { groups: Some(groups), normalised: Normalised::Sum { plus: 0.3 }, ..sigmoid }),
            Router { routing: Routing { groups: Some(groups), ..sigmoid }, correction: correction.clone() },
            Router { routing: Routing { normalised: floor(0.1), ..Routing::softmax(2, true) }, correction },
            plain(Routing { normalised: floor(0.99), ..Routing::softmax(2, true) }),
            plain(Routing { scores: ExpertScores::NearBest { reach: 0.6 }, ..Routing::softmax(2, false) }),
        ]
    }

    /// The weights of all experts, zeros for those that are not chosen.
    fn weights(router: &Router, logits: &[f32]) -> Vec<f32> {
        let mut all = vec![0.0; logits.len()];
        router.choose(logits).into_iter().for_each(|(e, weight)| all[e as usize] = weight);
        all
    }

    #[test]
    fn gradients_are_those_of_central_differences() {
        let logits = [0.4, -0.3, 1.6, 1.1, -0.9, 0.8, 1.9, 0.1, -1.3f32];
        let upstream = [0.7, -0.2, 0.5, 1.3, -0.6, 0.9, -1.1, 0.4, 0.3f32];
        for (case, router) in routers().iter().enumerate() {
            let own = weights(router, &logits);
            let mut gradients: Vec<f32> =
                own.iter().zip(upstream).map(|(weight, g)| if *weight == 0.0 { 0.0 } else { g }).collect();
            router.pull(&logits, &mut gradients);
            for (e, found) in gradients.iter().enumerate() {
                let loss = |step: f32| -> f32 {
                    let mut moved = logits;
                    moved[e] += step;
                    weights(router, &moved).iter().zip(upstream).map(|(weight, g)| weight * g).sum()
                };
                let expected = (loss(1e-2) - loss(-1e-2)) / 2e-2;
                assert!((found - expected).abs() < 2e-3, "{case} {e}: {found} {expected}");
            }
        }
    }

    #[test]
    fn the_best_experts_of_the_best_groups_are_chosen() {
        let logits = [0.9, 0.9, -3.0, 2.0, -3.0, -3.0, 0.8, 0.7, 0.6f32];
        let groups = |count| ExpertGroups { count: 3, chosen: 2, counted: count };
        let chosen = |counted| {
            let routing = Routing { groups: Some(groups(counted)), ..Routing::softmax(3, true) };
            let routing = Routing { scores: ExpertScores::Sigmoid, ..routing };
            let router = Router { routing, correction: Vec::new() };
            router.choose(&logits).into_iter().map(|(e, _)| e).collect::<Vec<_>>()
        };
        // by their two best the middle group is last, by the best one first
        assert_eq!((chosen(2), chosen(1)), (vec![0, 1, 6], vec![3, 0, 1]));
    }

    #[test]
    fn a_correction_chooses_and_does_not_weigh() {
        let mut correction = vec![0.0; 3];
        correction[2] = 5.0;
        let routing = Routing { scores: ExpertScores::Sigmoid, ..Routing::softmax(1, false) };
        let router = Router { routing, correction };
        assert_eq!(router.choose(&[1.0, 2.0, 0.0]), [(2, 0.5)]);
    }
}
