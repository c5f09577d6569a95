//! A frozen model's states as labels: each labelled row is to be what the teacher's row was.
//!
//! The teacher read the same text as other tokens (a word as its pieces), so that its rows stand elsewhere and say the same:
//! whoever makes the batch decides which of them belongs to which label ([`TeacherRows`]). The mean squared error of last hidden
//! states is the objective of Token Distillation (Dobler et al., arXiv 2505.20133).
//!
//! The divergence of the teacher's distribution from the student's needs none of the teacher's logits. With `g` the gradient
//! of the teacher's cross-entropy in its state `h` (the expected row of the head, less the target's), `s` the student's state and both
//! losses against the same target, `KL = (h - s) · g + loss(s) - loss(h)`, and its gradient in `s` is the student's own less
//! `g`. That holds where logits are products of states and rows, not under a soft cap, and where the teacher knows nothing of the
//! tokens that are trained: it is run before they get rows.

use super::{LastRows, Loss, Losses, Objective, Reads};
use std::collections::HashMap;

/// What counts how much of a distillation's loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DistillationWeights {
    /// The mean over the `d` entries of a state of their squared differences from the teacher's.
    pub mse: f32,
    /// The divergence of the student's distribution over the tokens from the teacher's, in nats.
    pub kl: f32,
    /// The cross-entropy of the token that follows, in nats.
    pub ce: f32,
}

impl DistillationWeights {
    /// The squared error alone.
    pub const MSE: Self = Self { mse: 1.0, kl: 0.0, ce: 0.0 };
    /// The divergence alone.
    pub const KL: Self = Self { mse: 0.0, kl: 1.0, ce: 0.0 };
    /// The cross-entropy alone.
    pub const CE: Self = Self { mse: 0.0, kl: 0.0, ce: 1.0 };
}

/// What a teacher gives for some rows, in the order of their labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TeacherRows {
    /// The last hidden states after the final norm, `[labels, d]`: what meets the head.
    pub states: Vec<f32>,
    /// The loss of each label in nats; empty where no divergence is wanted.
    pub losses: Vec<f32>,
    /// Their gradients in the states, `[labels, d]`; empty where no divergence is wanted.
    pub gradients: Vec<f32>,
}

impl TeacherRows {
    /// Floats of so many rows with `d` entries, with losses and gradients where a divergence is wanted.
    pub fn floats(rows: usize, d: usize, divergence: bool) -> usize {
        rows * (d + usize::from(divergence) * (d + 1))
    }

    /// Adds the rows of another after these.
    pub fn extend(&mut self, rows: &Self) {
        self.states.extend_from_slice(&rows.states);
        self.losses.extend_from_slice(&rows.losses);
        self.gradients.extend_from_slice(&rows.gradients);
    }
}

/// The objective of one batch: its labelled rows in order, and what the teacher gave for them.
///
/// A row that does not depend on what is trained is left out: nothing can bring it nearer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distillation {
    rows: TeacherRows,
    weights: DistillationWeights,
    /// Where the label of a row of a sequence is among the teacher's rows.
    places: HashMap<(usize, usize), usize>,
}

impl Default for DistillationWeights {
    fn default() -> Self {
        Self::MSE
    }
}

impl Distillation {
    /// For a batch of sequences with these targets; `rows` has a row for each target that is there, in their order.
    pub fn new(
        starts: &[usize],
        targets: &[Option<u32>],
        rows: TeacherRows,
        weights: DistillationWeights,
    ) -> Self {
        let of_sequence = |(sequence, bounds): (usize, &[usize])| {
            let rows = bounds[0]..bounds[1];
            let first = rows.start;
            rows.filter(|row| targets[*row].is_some())
                .map(move |row| (sequence, row - first))
                .collect::<Vec<_>>()
        };
        let labelled = starts.windows(2).enumerate().flat_map(of_sequence);
        let places = labelled.enumerate().map(|(at, label)| (label, at)).collect();
        Self { rows, weights, places }
    }

    /// How many labels there are.
    pub fn labels(&self) -> usize {
        self.places.len()
    }

    /// What the teacher gave.
    pub fn rows(&self) -> &TeacherRows {
        &self.rows
    }

    /// What counts how much.
    pub fn weights(&self) -> DistillationWeights {
        self.weights
    }

    /// The part of a label's loss that needs no vocabulary, and its gradient in the student's state, without the label's weight.
    fn beside_vocabulary(&self, at: usize, state: &[f32], gradient: &mut [f32]) -> f32 {
        let d = state.len();
        let own = at * d..(at + 1) * d;
        let teacher = self.rows.states.get(own.clone()).unwrap_or_default();
        let pulls = self.rows.gradients.get(own).unwrap_or_default();
        let DistillationWeights { mse, kl, .. } = self.weights;
        let mut value = 0f64;
        if mse != 0.0 {
            let each = f64::from(mse) / d as f64;
            for ((gradient, s), h) in gradient.iter_mut().zip(state).zip(teacher) {
                let off = f64::from(s - h);
                value += each * off * off;
                *gradient += (2.0 * each * off) as f32;
            }
        }
        if kl != 0.0 {
            let product: f64 = teacher
                .iter()
                .zip(state)
                .zip(pulls)
                .map(|((h, s), g)| f64::from(h - s) * f64::from(*g))
                .sum();
            value += f64::from(kl) * (product - f64::from(self.rows.losses.get(at).copied().unwrap_or(0.0)));
            gradient.iter_mut().zip(pulls).for_each(|(gradient, g)| *gradient -= kl * g);
        }
        value as f32
    }
}

impl Objective for Distillation {
    fn reads(&self) -> Reads {
        Reads::LabelledRows
    }

    fn losses(&self, rows: &mut dyn LastRows) -> Losses {
        let (labels, states) = rows.states();
        let d = states.len() / labels.len().max(1);
        let mut gradients = vec![0f32; states.len()];
        let mut losses = Vec::with_capacity(labels.len());
        for ((label, state), gradient) in
            labels.into_iter().zip(states.chunks_exact(d.max(1))).zip(gradients.chunks_exact_mut(d.max(1)))
        {
            let at = label.row.and_then(|row| self.places.get(&(label.sequence, row)));
            let value = at.map_or(0.0, |&at| self.beside_vocabulary(at, state, gradient));
            gradient.iter_mut().for_each(|g| *g *= label.weight);
            losses.push(Loss { value, ..label });
        }
        let share = self.weights.ce + self.weights.kl;
        for (loss, of_vocabulary) in losses.iter_mut().zip(rows.pull_states(&gradients, share)) {
            loss.value += share * of_vocabulary;
        }
        Losses { losses, ..Losses::default() }
    }
}
