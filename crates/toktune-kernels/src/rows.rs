//! Sums and multiples of whole matrices, and sums and products of a row with the rows of one.

use crate::Isa;
use crate::isa::multiversion;
use rayon::prelude::*;

/// Entries handled by one task.
const TASK: usize = 16 * 1024;

/// `y += x`, entry by entry.
///
/// Panics when the lengths differ.
pub fn add(isa: Isa, y: &mut [f32], x: &[f32]) {
    assert_eq!(y.len(), x.len(), "as many entries");
    y.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(y, x)| add_piece(isa, y, x));
}

/// `y *= x`, entry by entry.
///
/// Panics when the lengths differ.
pub fn multiply(isa: Isa, y: &mut [f32], x: &[f32]) {
    assert_eq!(y.len(), x.len(), "as many entries");
    y.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(y, x)| multiply_piece(isa, y, x));
}

/// `y *= factor`, entry by entry.
pub fn scale(isa: Isa, y: &mut [f32], factor: f32) {
    y.par_chunks_mut(TASK).for_each(|y| crate::math::scale(isa, y, factor));
}

/// Adds `row [width]` to every row of `y [rows, width]`.
///
/// Panics when `y` is no whole number of rows.
pub fn add_to_each(isa: Isa, y: &mut [f32], row: &[f32]) {
    each_row(y, row, |y, row| add_piece(isa, y, row));
}

/// Multiplies every row of `y [rows, width]` with `row [width]`, entry by entry.
///
/// Panics when `y` is no whole number of rows.
pub fn multiply_each(isa: Isa, y: &mut [f32], row: &[f32]) {
    each_row(y, row, |y, row| multiply_piece(isa, y, row));
}

fn each_row(y: &mut [f32], row: &[f32], work: impl Fn(&mut [f32], &[f32]) + Sync) {
    let width = row.len().max(1);
    assert!(y.len().is_multiple_of(width), "rows of {width}");
    y.par_chunks_mut(width * (TASK / width).max(1))
        .for_each(|y| y.chunks_exact_mut(width).for_each(|y| work(y, row)));
}

multiversion! {
    fn add_piece(isa: Isa, y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

multiversion! {
    fn multiply_piece(isa: Isa, y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y *= x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{each_isa, random};

    #[test]
    fn sums_are_those_of_plain_loops() {
        each_isa(|isa| {
            for (rows, width) in [(0, 3), (1, 1), (5, 7), (TASK / 8 + 1, 9)] {
                let (y, x, row) = (random(rows * width, 1), random(rows * width, 2), random(width, 3));
                let mut sum = y.clone();
                add(isa, &mut sum, &x);
                assert!(
                    sum.iter().zip(y.iter().zip(&x)).all(|(s, (y, x))| *s == y + x),
                    "{isa} {rows} {width}"
                );
                let mut twice = y.clone();
                scale(isa, &mut twice, 2.0);
                assert!(twice.iter().zip(&y).all(|(t, y)| *t == 2.0 * y), "{isa} {rows} {width}");
                let mut sum = y.clone();
                add_to_each(isa, &mut sum, &row);
                let expected = y.iter().enumerate().map(|(at, y)| y + row[at % width]);
                assert!(expected.eq(sum.iter().copied()), "{isa} {rows} {width}: a row");
                let mut product = y.clone();
                multiply_each(isa, &mut product, &row);
                let expected = y.iter().enumerate().map(|(at, y)| y * row[at % width]);
                assert!(expected.eq(product.iter().copied()), "{isa} {rows} {width}: a product");
            }
        });
    }
}
