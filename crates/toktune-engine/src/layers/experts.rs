//! A mixture of experts: a router sends each row through a few gated MLPs of many and adds their weighted results.
//!
//! ```text
//! p = softmax(x Rᵀ),   C = the likeliest experts,   y = Σ_{e in C} w_e expert_e(x)
//! w_e = p_e, or p_e / Σ_{C} p where the weights are normalised
//! ```
//!
//! Which experts a row takes is a constant of the backward pass, as in transformers; their weights are not.
//!
//! The experts take their rows one expert after the other, so that each decodes its weights once, and at most [`CHUNK_ROWS`]
//! rows are gathered at a time. A row gets the results of its experts in the order of the experts, whatever the number of
//! threads.

use super::around::{Around, Gradients};
use super::linear::Linear;
use super::mlp::{KeptMlp, Mlp};
use crate::backend::{Backend, Write};
use rayon::prelude::*;
use toktune_kernels::gated_mlp::CHUNK_ROWS;

/// Frozen weights of a mixture of experts.
#[derive(Debug)]
pub(super) struct Experts<B: Backend> {
    /// `[experts, d]`. Its products are always `f32`: rounding could send a row to other experts, which is no small error.
    pub(super) router: Linear<B>,
    /// Gated, without updates.
    pub(super) experts: Vec<Mlp<B>>,
    /// How many of them a row takes; at least 1 and no more than there are.
    pub(super) chosen: usize,
    /// Their weights sum to 1.
    pub(super) normalised: bool,
}

/// Where the rows go.
struct Routing {
    /// What the weights are made of, `[rows, experts]`: the probabilities, or, where they are normalised, the weights
    /// themselves and zeros. Either way the gradient of the logits is that of a softmax with these values.
    shares: Vec<f32>,
    /// For each expert.
    assigned: Vec<Assigned>,
}

/// The rows of an expert, in order.
#[derive(Default)]
struct Assigned {
    rows: Vec<u32>,
    /// Of its results.
    weights: Vec<f32>,
}

impl Assigned {
    /// Rows with their weights, few enough to be gathered.
    fn chunks(&self) -> impl Iterator<Item = (&[u32], &[f32])> {
        self.rows.chunks(CHUNK_ROWS).zip(self.weights.chunks(CHUNK_ROWS))
    }
}

impl<B: Backend> Experts<B> {
    /// The router, then every expert's.
    pub(super) fn linears(&self) -> Vec<&Linear<B>> {
        [&self.router].into_iter().chain(self.experts.iter().flat_map(Mlp::linears)).collect()
    }

    pub(super) fn kept_floats(&self) -> usize {
        self.chosen * self.experts.first().map_or(0, Mlp::kept_floats)
    }

    /// Width of the rows.
    fn width(&self) -> usize {
        self.router.inputs()
    }

    fn route(&self, backend: &B, x: &B::Buffer) -> Routing {
        let count = self.experts.len();
        let mut logits = backend.take(backend.len(x) / self.width().max(1) * count);
        self.router.run_frozen(backend, x, Write::Over, &mut logits);
        let mut shares = backend.read(&logits);
        let of_row = |row: &mut [f32]| -> Vec<(u32, f32)> {
            softmax(row);
            let chosen = likeliest(row, self.chosen).into_iter().map(|e| (e, row[e as usize]));
            let mut chosen: Vec<(u32, f32)> = chosen.collect();
            if self.normalised {
                let sum: f32 = chosen.iter().map(|(_, p)| p).sum();
                chosen.iter_mut().for_each(|(_, p)| *p /= sum);
                row.fill(0.0);
                chosen.iter().for_each(|&(e, weight)| row[e as usize] = weight);
            }
            chosen
        };
        let chosen: Vec<_> = shares.par_chunks_mut(count.max(1)).map(of_row).collect();
        let mut assigned: Vec<Assigned> = self.experts.iter().map(|_| Assigned::default()).collect();
        for (row, chosen) in chosen.into_iter().enumerate() {
            for (expert, weight) in chosen {
                let of = &mut assigned[expert as usize];
                of.rows.push(row as u32);
                of.weights.push(weight);
            }
        }
        Routing { shares, assigned }
    }

    /// As [`super::feed_forward::FeedForward::run`].
    pub(super) fn run(
        &self,
        around: &Around<'_, B>,
        x: &B::Buffer,
        write: Write,
        y: &mut B::Buffer,
        keep: bool,
    ) -> Option<KeptMlp<B>> {
        let backend = around.backend;
        let (d, routing) = (self.width(), self.route(backend, x));
        // what is in `y` is added to the whole sum, not to its parts
        let mut sum = backend.zeros(backend.len(y));
        let mut kept = Vec::new();
        for (mlp, assigned) in self.experts.iter().zip(&routing.assigned) {
            for (rows, weights) in assigned.chunks() {
                let own = backend.gather(x, rows, d);
                let mut result = backend.take(backend.len(&own));
                kept.extend(mlp.run(around, &own, Write::Over, &mut result, keep));
                let weights = backend.place(weights.to_vec());
                backend.scatter(&result, rows, Some(&weights), d, &mut sum);
            }
        }
        match write {
            Write::Over => backend.put(&sum, 0, y),
            Write::Add => backend.add(y, &sum),
        }
        keep.then_some(KeptMlp::Experts(kept))
    }

    /// As [`super::feed_forward::FeedForward::pull`].
    pub(super) fn pull(
        &self,
        around: &Around<'_, B>,
        [x, dy]: [&B::Buffer; 2],
        kept: Option<KeptMlp<B>>,
        dx: &mut B::Buffer,
        gradients: &mut Gradients<'_, B>,
    ) {
        let backend = around.backend;
        let (d, count) = (self.width(), self.experts.len());
        let Routing { shares, assigned } = self.route(backend, x);
        let kept = match kept {
            Some(KeptMlp::Experts(kept)) => kept,
            _ => Vec::new(),
        };
        let mut kept = kept.into_iter();
        // the gradients of the weights become those of the logits, in place
        let mut dlogits = vec![0f32; shares.len()];
        backend.put(&backend.zeros(backend.len(dx)), 0, dx);
        for (number, (mlp, assigned)) in self.experts.iter().zip(&assigned).enumerate() {
            for (rows, weights) in assigned.chunks() {
                let (own, dresult) = (backend.gather(x, rows, d), backend.gather(dy, rows, d));
                let weights = backend.place(weights.to_vec());
                let mut down = backend.take(backend.len(&own));
                let inputs = [&own, &dresult, &weights];
                let dweights = mlp.pull_weighted(around, inputs, kept.next(), &mut down, gradients);
                backend.scatter(&down, rows, None, d, dx);
                for (&row, dweight) in rows.iter().zip(backend.read(&dweights)) {
                    dlogits[row as usize * count + number] = dweight;
                }
            }
        }
        dlogits.par_chunks_mut(count.max(1)).zip(shares.par_chunks(count.max(1))).for_each(|(d, shares)| {
            // experts that were not chosen have no gradient of a weight
            let mean: f32 = d.iter().zip(shares).map(|(d, share)| d * share).sum();
            d.iter_mut().zip(shares).for_each(|(d, share)| *d = share * (*d - mean));
        });
        self.router.pull_frozen(backend, &backend.place(dlogits), Write::Add, dx);
    }
}

fn softmax(row: &mut [f32]) {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|x| *x = (*x - top).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
}

/// The `count` largest of `probabilities`, the largest first; of equals the first.
fn likeliest(probabilities: &[f32], count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..probabilities.len() as u32).collect();
    let of = |at: u32| probabilities[at as usize];
    order.sort_unstable_by(|&a, &b| of(b).total_cmp(&of(a)).then(a.cmp(&b)));
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_is_taken() {
        assert_eq!(likeliest(&[0.2, 0.3, 0.3, 0.2], 3), [1, 2, 0]);
        assert_eq!(likeliest(&[f32::NAN, 0.5], 1).len(), 1);
    }
}
