//! Rotary position embedding (Su et al. 2021). In most models of transformers the two halves of a head form the pairs, in
//! some (Cohere) neighbours do.
//!
//! ```text
//! y_a = x_a cos_j - x_b sin_j        y_b = x_b cos_j + x_a sin_j        j < h = rotated / 2
//! halves: a = j, b = j + h           neighbours: a = 2 j, b = 2 j + 1
//! ```
//!
//! Entries of a head past the rotated part are copied. The vector-Jacobian product is the rotation backwards.

use crate::Isa;
use crate::isa::multiversion;
use rayon::prelude::*;

/// Rows handled by one task.
const TASK_ROWS: usize = 32;

/// The direction of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The forward pass.
    Forward,
    /// The vector-Jacobian product.
    Backward,
}

/// Which entries of a head are turned together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pairing {
    /// One of the first half with one of the second.
    #[default]
    Halves,
    /// Each even one with the next.
    Neighbours,
}

/// The heads of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Entries of a head.
    pub head_dim: usize,
    /// Which of them are turned together.
    pub pairing: Pairing,
}

/// By what angle each pair of each row is turned.
#[derive(Clone, Copy, Debug)]
pub struct Angles<'a> {
    /// The rows.
    pub rows: usize,
    /// The cosines, `[rows, h]`, one line a row, with `2 h <= head_dim` the rotated part of a head.
    pub cos: &'a [f32],
    /// The sines, likewise.
    pub sin: &'a [f32],
}

/// Rotates every head of every row of `x [rows, heads * head_dim]` into `y`.
///
/// Panics when the lengths do not fit.
pub fn rotate(
    isa: Isa,
    x: &[f32],
    Angles { rows, cos, sin }: Angles<'_>,
    Heads { head_dim, pairing }: Heads,
    direction: Direction,
    y: &mut [f32],
) {
    assert_eq!(x.len(), y.len(), "input and output of a rotation");
    assert_eq!(cos.len(), sin.len(), "cosines and sines");
    if rows == 0 {
        return;
    }
    let (width, half) = (x.len() / rows, cos.len() / rows);
    assert!(x.len() == rows * width && cos.len() == rows * half, "{rows} rows");
    assert!(
        head_dim > 0 && width.is_multiple_of(head_dim) && 2 * half <= head_dim,
        "{width} {head_dim} {half}"
    );
    let sign = if direction == Direction::Forward { 1.0 } else { -1.0 };
    y.par_chunks_mut(TASK_ROWS * width.max(1)).enumerate().for_each(|(task, y)| {
        for (i, y) in y.chunks_exact_mut(width).enumerate() {
            let row = task * TASK_ROWS + i;
            let x = &x[row * width..][..width];
            let (cos, sin) = (&cos[row * half..][..half], &sin[row * half..][..half]);
            match pairing {
                Pairing::Halves => rotate_halves(isa, x, cos, sin, head_dim, sign, y),
                Pairing::Neighbours => rotate_neighbours(isa, x, cos, sin, head_dim, sign, y),
            }
        }
    });
}

multiversion! {
    fn rotate_halves(isa: Isa, x: &[f32], cos: &[f32], sin: &[f32], head_dim: usize, sign: f32, y: &mut [f32]) {
        let half = cos.len();
        for (x, y) in x.chunks_exact(head_dim).zip(y.chunks_exact_mut(head_dim)) {
            let ((x1, x2), (y1, y2)) = (x.split_at(half), y.split_at_mut(half));
            for j in 0..half {
                y1[j] = x1[j] * cos[j] - x2[j] * sin[j] * sign;
                y2[j] = x2[j] * cos[j] + x1[j] * sin[j] * sign;
            }
            y2[half..].copy_from_slice(&x2[half..]);
        }
    }
}

multiversion! {
    fn rotate_neighbours(isa: Isa, x: &[f32], cos: &[f32], sin: &[f32], head_dim: usize, sign: f32, y: &mut [f32]) {
        let rotated = 2 * cos.len();
        for (x, y) in x.chunks_exact(head_dim).zip(y.chunks_exact_mut(head_dim)) {
            let pairs = x[..rotated].chunks_exact(2).zip(y[..rotated].chunks_exact_mut(2));
            for ((x, y), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                y[0] = x[0] * cos - x[1] * sin * sign;
                y[1] = x[1] * cos + x[0] * sin * sign;
            }
            y[rotated..].copy_from_slice(&x[rotated..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, random};

    #[test]
    fn rotation_matches_complex_multiplication_and_backward_undoes_it() {
        each_isa(|isa| {
            let sizes = [(0, 2, 4, 2), (1, 1, 2, 1), (3, 2, 6, 2), (33, 3, 34, 17), (2, 1, 8, 0)];
            let pairings = [Pairing::Halves, Pairing::Neighbours];
            for ((rows, heads, head_dim, half), pairing) in
                sizes.into_iter().flat_map(|size| pairings.map(|pairing| (size, pairing)))
            {
                let turned = Heads { head_dim, pairing };
                let x = random(rows * heads * head_dim, 1);
                let angles = random(rows * half, 2);
                let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
                let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
                let angles_of_rows = Angles { rows, cos: &cos, sin: &sin };
                let mut expected: Vec<f64> = x.iter().map(|x| *x as f64).collect();
                for row in 0..rows {
                    for head in 0..heads {
                        for j in 0..half {
                            let head = (row * heads + head) * head_dim;
                            let (i, k) = match pairing {
                                Pairing::Halves => (head + j, head + j + half),
                                Pairing::Neighbours => (head + 2 * j, head + 2 * j + 1),
                            };
                            let (a, b) = (x[i] as f64, x[k] as f64);
                            let angle = angles[row * half + j] as f64;
                            expected[i] = a * angle.cos() - b * angle.sin();
                            expected[k] = b * angle.cos() + a * angle.sin();
                        }
                    }
                }
                let mut y = vec![f32::NAN; x.len()];
                rotate(isa, &x, angles_of_rows, turned, Direction::Forward, &mut y);
                assert_close(
                    &y,
                    &expected,
                    1e-6,
                    &format!("{isa} {rows} {heads} {head_dim} {half} {pairing:?}"),
                );
                // a rotation is orthogonal, so its transpose (the vector-Jacobian product) is its inverse
                let mut back = vec![f32::NAN; x.len()];
                rotate(isa, &y, angles_of_rows, turned, Direction::Backward, &mut back);
                let original: Vec<f64> = x.iter().map(|x| *x as f64).collect();
                assert_close(&back, &original, 1e-6, &format!("{isa} backward"));
            }
        });
    }
}
