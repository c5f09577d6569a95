//! A mixture of experts: a router sends each row through a few gated MLPs of many and adds their weighted results.
//!
//! ```text
//! p = softmax(x Rᵀ),   C = the likeliest experts,   y = Σ_{e in C} w_e expert_e(x)
//! w_e = p_e, or p_e / Σ_{C} p where the weights are normalised
//! ```
//!
//! Which experts a row takes is a constant of the backward pass, as in transformers; their weights are not.
//!
//! Without a graph the experts take their rows one expert after the other, so that each decodes its weights once, and at most
//! [`CHUNK_ROWS`] rows are gathered at a time. A row gets the results of its experts in the order of the experts, whatever the
//! number of threads. With a graph the same is composed of candle's operations.

use super::linear::Linear;
use super::mlp::{KeptMlp, Mlp};
use crate::error::Result;
use crate::models::buffers::{Buffer, Buffers};
use candle_core::{D, Tensor};
use rayon::prelude::*;
use toktune_kernels::gated_mlp::CHUNK_ROWS;
use toktune_kernels::matmul::Write;
use toktune_kernels::rows;

/// Frozen weights of a mixture of experts.
#[derive(Clone, Debug)]
pub(crate) struct Experts {
    /// `[experts, d]`. Its products are always `f32`: rounding could send a row to other experts, which is no small error.
    pub(super) router: Linear,
    /// Gated, without updates.
    pub(super) experts: Vec<Mlp>,
    /// How many of them a row takes; at least 1 and no more than there are.
    pub(super) chosen: usize,
    /// Their weights sum to 1.
    pub(super) normalised: bool,
}

/// Where the rows go.
struct Routing {
    /// What the weights are made of, `[rows, experts]`: the probabilities, or, where they are normalised, the weights
    /// themselves and zeros. Either way the gradient of the logits is that of a softmax with these values.
    shares: Buffer,
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

impl Experts {
    /// The router, then every expert's.
    pub(super) fn linears(&self) -> Vec<&Linear> {
        [&self.router].into_iter().chain(self.experts.iter().flat_map(Mlp::linears)).collect()
    }

    pub(super) fn linears_of_experts_mut(&mut self) -> Vec<&mut Linear> {
        self.experts.iter_mut().flat_map(Mlp::linears_mut).collect()
    }

    pub(super) fn kept_floats(&self) -> usize {
        self.chosen * self.experts.first().map_or(0, Mlp::kept_floats)
    }

    /// Width of the rows.
    fn width(&self) -> usize {
        self.router.inputs()
    }

    /// `y [rows, d]` from `x [rows, d]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let logits = self.router.forward(x, None)?;
        let top = logits.max_keepdim(D::Minus1)?.detach();
        let exponentials = logits.broadcast_sub(&top)?.exp()?;
        let probabilities = exponentials.broadcast_div(&exponentials.sum_keepdim(D::Minus1)?)?;
        let lines: Vec<Vec<f32>> = probabilities.to_vec2()?;
        let chosen: Vec<u32> = lines.iter().flat_map(|line| likeliest(line, self.chosen)).collect();
        let index = Tensor::from_slice(&chosen, (lines.len(), self.chosen), x.device())?;
        let mut weights = probabilities.gather(&index, 1)?;
        if self.normalised {
            weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        }
        let weights = weights.flatten_all()?;
        let mut y = x.zeros_like()?;
        for (number, mlp) in self.experts.iter().enumerate() {
            let places: Vec<u32> =
                (0..chosen.len()).filter(|&at| chosen[at] as usize == number).map(|at| at as u32).collect();
            if places.is_empty() {
                continue;
            }
            let rows: Vec<u32> = places.iter().map(|at| at / self.chosen as u32).collect();
            let rows = Tensor::new(rows, x.device())?;
            let own = weights.index_select(&Tensor::new(places, x.device())?, 0)?.unsqueeze(1)?;
            let result = mlp.forward(&x.index_select(&rows, 0)?, None)?;
            y = y.index_add(&rows, &result.broadcast_mul(&own)?, 0)?;
        }
        Ok(y)
    }

    fn route(&self, x: &[f32], buffers: &Buffers) -> Routing {
        let count = self.experts.len();
        let mut shares = buffers.take(x.len() / self.width().max(1) * count);
        self.router.run(x, Write::Over, &mut shares);
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
        x: &[f32],
        write: Write,
        y: &mut [f32],
        keep: bool,
        buffers: &Buffers,
    ) -> Option<KeptMlp> {
        let (d, routing) = (self.width(), self.route(x, buffers));
        // what is in `y` is added to the whole sum, not to its parts
        let mut sum = buffers.take(y.len());
        sum.fill(0.0);
        let mut kept = Vec::new();
        for (mlp, assigned) in self.experts.iter().zip(&routing.assigned) {
            for (rows, weights) in assigned.chunks() {
                let own = gather(x, rows, d, buffers);
                let mut result = buffers.take(own.len());
                kept.extend(mlp.run(&own, Write::Over, &mut result, keep, buffers));
                scatter_add(&result, rows, |at| weights[at], d, &mut sum);
            }
        }
        match write {
            Write::Over => y.copy_from_slice(&sum),
            Write::Add => rows::add(y, &sum),
        }
        keep.then_some(KeptMlp::Experts(kept))
    }

    /// As [`super::feed_forward::FeedForward::pull`].
    pub(super) fn pull(
        &self,
        x: &[f32],
        dy: &[f32],
        kept: Option<KeptMlp>,
        dx: &mut [f32],
        buffers: &Buffers,
    ) {
        let (d, count) = (self.width(), self.experts.len());
        let Routing { shares, assigned } = self.route(x, buffers);
        let kept = match kept {
            Some(KeptMlp::Experts(kept)) => kept,
            _ => Vec::new(),
        };
        let mut kept = kept.into_iter();
        // the gradients of the weights become those of the logits, in place
        let mut dlogits = buffers.take(shares.len());
        dlogits.fill(0.0);
        dx.fill(0.0);
        for (number, (mlp, assigned)) in self.experts.iter().zip(&assigned).enumerate() {
            for (rows, weights) in assigned.chunks() {
                let (own, dresult) = (gather(x, rows, d, buffers), gather(dy, rows, d, buffers));
                let (mut down, mut dweights) = (buffers.take(own.len()), buffers.take(rows.len()));
                mlp.pull_weighted(
                    (&own, weights),
                    &dresult,
                    kept.next(),
                    (&mut down, &mut dweights),
                    buffers,
                );
                scatter_add(&down, rows, |_| 1.0, d, dx);
                for (&row, &dweight) in rows.iter().zip(&*dweights) {
                    dlogits[row as usize * count + number] = dweight;
                }
            }
        }
        dlogits.par_chunks_mut(count.max(1)).zip(shares.par_chunks(count.max(1))).for_each(|(d, shares)| {
            // experts that were not chosen have no gradient of a weight
            let mean: f32 = d.iter().zip(shares).map(|(d, share)| d * share).sum();
            d.iter_mut().zip(shares).for_each(|(d, share)| *d = share * (*d - mean));
        });
        self.router.pull(&dlogits, Write::Add, dx);
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

/// The given rows of `x [.., d]`, one after the other.
fn gather(x: &[f32], rows: &[u32], d: usize, buffers: &Buffers) -> Buffer {
    let mut own = buffers.take(rows.len() * d);
    own.par_chunks_mut(d.max(1))
        .zip(rows)
        .for_each(|(own, &row)| own.copy_from_slice(&x[row as usize * d..][..d]));
    own
}

/// Rows of `y` that one task adds to.
const TASK_ROWS: usize = 64;

/// `y[rows[i]] += weight(i) * x[i]` for the rows of `x [rows, d]`; `rows` ascend.
fn scatter_add(x: &[f32], rows: &[u32], weight: impl Fn(usize) -> f32 + Sync, d: usize, y: &mut [f32]) {
    y.par_chunks_mut((TASK_ROWS * d).max(1)).enumerate().for_each(|(task, y)| {
        let first = (task * TASK_ROWS) as u32;
        let begin = rows.partition_point(|&row| row < first);
        let end = rows.partition_point(|&row| row < first + TASK_ROWS as u32);
        for at in begin..end {
            let (y, x) = (&mut y[(rows[at] - first) as usize * d..][..d], &x[at * d..][..d]);
            let weight = weight(at);
            y.iter_mut().zip(x).for_each(|(y, x)| *y += weight * x);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::super::mlp::Up;
    use super::*;
    use crate::models::update::Slot;
    use crate::ops::testing::random;
    use crate::ops::{Activation, StoredAs, vjp};
    use crate::weights::FrozenMatrix;

    const D: usize = 6;
    const COUNT: usize = 5;

    fn values(rows: usize, cols: usize, seed: u64) -> Vec<f32> {
        random((rows, cols), seed).and_then(|x| x.flatten_all()?.to_vec1()).expect("numbers")
    }

    fn linear(outputs: usize, inputs: usize, seed: u64) -> Linear {
        let weight = FrozenMatrix::from_f32("w", outputs, inputs, values(outputs, inputs, seed));
        Linear {
            module: format!("linear {seed}"),
            slot: Slot(usize::MAX),
            weight: weight.expect("a matrix"),
            stored: StoredAs::Rows,
            bias: None,
            host_bias: None,
        }
    }

    fn experts(chosen: usize, normalised: bool) -> Experts {
        let expert = |seed: u64| Mlp {
            up: Up::Gated(linear(7, D, seed), linear(7, D, seed + 1)),
            down: linear(D, 7, seed + 2),
            activation: Activation::Silu,
        };
        let experts = (0..COUNT as u64).map(|e| expert(10 * e + 20)).collect();
        Experts { router: linear(COUNT, D, 1), experts, chosen, normalised }
    }

    fn assert_close(got: &[f32], expected: &[f32], what: &str) {
        assert_eq!(got.len(), expected.len(), "{what}");
        let scale = expected.iter().fold(1e-3f32, |m, x| m.max(x.abs()));
        let worst = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-5 * scale, "{what}: off by {worst}");
    }

    #[test]
    fn both_ways_give_the_same_and_what_is_kept_changes_nothing() {
        for (chosen, normalised) in
            [(1, false), (1, true), (2, false), (2, true), (COUNT, false), (COUNT, true)]
        {
            for rows in [1, 3, 2 * TASK_ROWS + 5] {
                let what = format!("{chosen} of {COUNT}, {normalised}, {rows} rows");
                let (experts, buffers) = (experts(chosen, normalised), Buffers::default());
                let (x, dy) = (values(rows, D, 3), values(rows, D, 4));
                let tensor =
                    |x: &[f32]| Tensor::from_slice(x, (rows, D), &candle_core::Device::Cpu).expect("x");
                let flat = |x: Tensor| -> Vec<f32> { x.flatten_all().and_then(|x| x.to_vec1()).expect("y") };
                let expected = flat(experts.forward(&tensor(&x)).expect("a forward pass"));
                let of_x = vjp(&tensor(&x), &tensor(&dy), |x| experts.forward(x)).expect("a backward pass");
                let of_x = flat(of_x);
                let mut gradients = Vec::new();
                for keep in [false, true] {
                    let (mut y, mut dx) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
                    let kept = experts.run(&x, Write::Over, &mut y, keep, &buffers);
                    assert_eq!(kept.is_some(), keep);
                    assert_close(&y, &expected, &what);
                    experts.pull(&x, &dy, kept, &mut dx, &buffers);
                    assert_close(&dx, &of_x, &format!("{what}: gradient"));
                    gradients.push(dx);
                    let mut sum = dy.clone();
                    experts.run(&x, Write::Add, &mut sum, false, &buffers);
                    assert!(
                        sum.iter().zip(y.iter().zip(&dy)).all(|(s, (y, d))| *s == d + y),
                        "{what}: added"
                    );
                }
                assert!(gradients[0] == gradients[1], "{what}: kept");
            }
        }
    }

    /// The results of all experts with their weights, or 0.
    fn in_f64(experts: &Experts, x: &[f64]) -> Vec<f64> {
        let product = |w: &Linear, x: &[f64]| -> Vec<f64> {
            let rows = w.weight.decode_rows(0..w.weight.rows());
            rows.chunks(x.len()).map(|r| r.iter().zip(x).map(|(w, x)| *w as f64 * x).sum()).collect()
        };
        let e: Vec<f64> = product(&experts.router, x).iter().map(|l| l.exp()).collect();
        let sum: f64 = e.iter().sum();
        let chosen = likeliest(&e.iter().map(|e| *e as f32).collect::<Vec<_>>(), experts.chosen);
        let of_chosen: f64 = chosen.iter().map(|&c| e[c as usize]).sum();
        let mut y = vec![0f64; x.len()];
        for &c in &chosen {
            let weight = e[c as usize] / if experts.normalised { of_chosen } else { sum };
            let mlp = &experts.experts[c as usize];
            let Up::Gated(gate, up) = &mlp.up else { panic!("gated experts") };
            let (gate, up) = (product(gate, x), product(up, x));
            let inner: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            y.iter_mut().zip(product(&mlp.down, &inner)).for_each(|(y, r)| *y += weight * r);
        }
        y
    }

    #[test]
    fn results_and_gradients_are_those_of_f64() {
        for (chosen, normalised) in [(1, false), (2, true), (3, false)] {
            let (experts, buffers) = (experts(chosen, normalised), Buffers::default());
            let (x, dy) = (values(9, D, 5), values(9, D, 6));
            let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            experts.run(&x, Write::Over, &mut y, false, &buffers);
            experts.pull(&x, &dy, None, &mut dx, &buffers);
            for (row, x) in x.chunks(D).enumerate() {
                let own = row * D..(row + 1) * D;
                let mut x: Vec<f64> = x.iter().map(|x| *x as f64).collect();
                let expected: Vec<f32> = in_f64(&experts, &x).iter().map(|y| *y as f32).collect();
                assert_close(&y[own.clone()], &expected, "results");
                let mut loss = |at: usize, h: f64| {
                    let before = std::mem::replace(&mut x[at], 0.0);
                    x[at] = before + h;
                    let y = in_f64(&experts, &x);
                    x[at] = before;
                    y.iter().zip(&dy[own.clone()]).map(|(y, d)| y * *d as f64).sum::<f64>()
                };
                let slopes: Vec<f32> =
                    (0..D).map(|at| ((loss(at, 1e-6) - loss(at, -1e-6)) / 2e-6) as f32).collect();
                assert_close(&dx[own], &slopes, "gradients");
            }
        }
    }

    #[test]
    fn the_result_does_not_depend_on_the_number_of_threads() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| {
                let (experts, buffers) = (experts(3, true), Buffers::default());
                let (x, dy) = (values(300, D, 5), values(300, D, 6));
                let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                experts.run(&x, Write::Over, &mut y, false, &buffers);
                experts.pull(&x, &dy, None, &mut dx, &buffers);
                (y, dx)
            })
        };
        assert!(run(1) == run(3));
    }

    #[test]
    fn the_first_of_equals_is_taken() {
        assert_eq!(likeliest(&[0.2, 0.3, 0.3, 0.2], 3), [1, 2, 0]);
        assert_eq!(likeliest(&[f32::NAN, 0.5], 1).len(), 1);
    }
}
