//! The two directions along which some rows differ most (principal components).

use crate::random::Random;
use rayon::prelude::*;

/// Rounds of the iteration, at most; a map needs no more digits than a screen has.
const ROUNDS: usize = 60;
/// The directions have settled when a round turns them by less than this.
const SETTLED: f64 = 1e-7;
/// What is shorter than this share of what it was is nothing but rounding.
const NOTHING: f64 = 1e-9;
/// Rows whose sums are taken together, whatever the number of threads.
const CHUNK: usize = 64;

/// A plane through some rows.
#[derive(Clone, Debug)]
pub(super) struct Plane {
    mean: Vec<f64>,
    axes: [Vec<f64>; 2],
    /// The share of the rows' variance that lies in the plane.
    pub(super) share: f64,
}

impl Plane {
    /// The plane in which rows of `width` numbers differ most, by iterating on two directions together; nothing for fewer than three
    /// rows, rows that are all alike, or rows with numbers that are not finite.
    pub(super) fn of(rows: &[f32], width: usize, seed: u64) -> Option<Self> {
        let count = rows.len() / width.max(1);
        if count < 3 || width < 2 || rows.iter().any(|x| !x.is_finite()) {
            return None;
        }
        let mut mean = vec![0f64; width];
        for row in rows.chunks_exact(width) {
            mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        mean.iter_mut().for_each(|sum| *sum /= count as f64);
        let centred: Vec<f64> = rows
            .chunks_exact(width)
            .flat_map(|row| row.iter().zip(&mean).map(|(x, mean)| f64::from(*x) - mean))
            .collect();
        let total: f64 = centred.iter().map(|x| x * x).sum();
        if !(total > 0.0 && total.is_finite()) {
            return None;
        }
        let mut random = Random::named(seed, &["map"]);
        let mut axes = [(); 2].map(|()| (0..width).map(|_| random.normal()).collect::<Vec<f64>>());
        orthonormal(&mut axes);
        let mut held = [0f64; 2];
        for _ in 0..ROUNDS {
            let mut next = products(&centred, &axes, width);
            held = [0, 1].map(|at| dot(&next[at], &axes[at]));
            orthonormal(&mut next);
            let is_settled = |at: usize| {
                let now = dot(&next[at], &next[at]);
                now == 0.0 || 1.0 - dot(&next[at], &axes[at]).abs() < SETTLED
            };
            let is_settled = [0, 1].into_iter().all(is_settled);
            axes = next;
            if is_settled {
                break;
            }
        }
        // which way an axis points is a matter of taste: the largest entry is positive
        for axis in &mut axes {
            let largest = axis.iter().fold(0f64, |most, x| if x.abs() > most.abs() { *x } else { most });
            if largest < 0.0 {
                axis.iter_mut().for_each(|x| *x = -*x);
            }
        }
        let share = (held.iter().sum::<f64>() / total).clamp(0.0, 1.0);
        Some(Self { mean, axes, share })
    }

    /// Where a row lies in the plane.
    pub(super) fn place(&self, row: &[f32]) -> (f64, f64) {
        let along = |axis: &[f64]| -> f64 {
            row.iter().zip(&self.mean).zip(axis).map(|((x, mean), axis)| (f64::from(*x) - mean) * axis).sum()
        };
        (along(&self.axes[0]), along(&self.axes[1]))
    }
}

/// `X^T X a` for both axes: what the rows make of them, summed in a fixed order.
fn products(rows: &[f64], axes: &[Vec<f64>; 2], width: usize) -> [Vec<f64>; 2] {
    let of = |chunk: &[f64]| {
        let mut sums = [vec![0f64; width], vec![0f64; width]];
        for row in chunk.chunks_exact(width) {
            for (sum, axis) in sums.iter_mut().zip(axes) {
                let along = dot(row, axis);
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += along * x);
            }
        }
        sums
    };
    let parts: Vec<[Vec<f64>; 2]> = rows.par_chunks(CHUNK * width).map(of).collect();
    let mut all = [vec![0f64; width], vec![0f64; width]];
    for part in &parts {
        for (sum, part) in all.iter_mut().zip(part) {
            sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
    }
    all
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Makes two directions of length 1 and at a right angle, the first one first; a second one that goes along the first becomes
/// nothing, since what rounding leaves of it points anywhere.
fn orthonormal(axes: &mut [Vec<f64>; 2]) {
    let size = |axis: &[f64]| dot(axis, axis).sqrt();
    let unit = |axis: &mut Vec<f64>| {
        let size = size(axis);
        if size > 0.0 {
            axis.iter_mut().for_each(|x| *x /= size);
        }
    };
    let [first, second] = axes;
    unit(first);
    unit(second);
    // twice, since the first time leaves what rounding left of it
    for _ in 0..2 {
        let along = dot(first, second);
        second.iter_mut().zip(first.iter()).for_each(|(x, y)| *x -= along * y);
        if size(second) < NOTHING {
            second.fill(0.0);
        }
        unit(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plane_is_the_one_in_which_rows_differ_most() {
        // two directions of known size in five dimensions, and noise
        let mut random = Random::new(3);
        let (a, b) = ([0.6, 0.8, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0]);
        let rows: Vec<f32> = (0..400)
            .flat_map(|_| {
                let (x, y) = (3.0 * random.normal(), random.normal());
                let noise = [(); 5].map(|()| 0.05 * random.normal());
                [0, 1, 2, 3, 4].map(|i| (7.0 + x * a[i] + y * b[i] + noise[i]) as f32)
            })
            .collect();
        let plane = Plane::of(&rows, 5, 1).expect("a plane");
        assert!(dot(&plane.axes[0], &a).abs() > 0.999 && dot(&plane.axes[1], &b).abs() > 0.999, "{plane:?}");
        assert!(plane.share > 0.99 && plane.share <= 1.0, "{}", plane.share);
        let at = |row: [f32; 5]| plane.place(&row);
        let (origin, along) = (at([7.0; 5]), at([7.6, 7.8, 7.0, 7.0, 7.0]));
        assert!(((along.0 - origin.0).abs() - 1.0).abs() < 0.01 && (along.1 - origin.1).abs() < 0.05);
        // the same for any number of threads
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads");
        let other = pool.install(|| Plane::of(&rows, 5, 1)).expect("a plane");
        assert_eq!((plane.axes, plane.share), (other.axes, other.share));
    }

    #[test]
    fn what_has_no_plane_has_none() {
        assert!(Plane::of(&[], 4, 0).is_none());
        assert!(Plane::of(&[1.0; 8], 4, 0).is_none(), "two rows");
        assert!(Plane::of(&[1.0; 40], 4, 0).is_none(), "all alike");
        assert!(Plane::of(&[f32::NAN, 1.0, 2.0, 3.0, 4.0, 5.0], 2, 0).is_none());
        let line = [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0];
        let plane = Plane::of(&line, 2, 0).expect("a line has a plane");
        assert!((plane.share - 1.0).abs() < 1e-5 && plane.place(&[5.0, 5.0]).1.abs() < 0.01);
    }
}
