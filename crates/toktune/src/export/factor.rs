//! The factors of low-rank updates, written to files without holding their zeros.

use super::error::Result;
use crate::weights::TensorOut;

/// A factor `[rows, cols]` of an update.
pub(super) struct Factor {
    shape: [usize; 2],
    values: Values,
}

enum Values {
    /// Zeros, and ones at these places, counted row by row.
    OneHot(Vec<usize>),
    /// All of them.
    Dense(Vec<f32>),
}

/// Zeros written at a time.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

impl Factor {
    /// Zeros, and ones at these `(row, col)`.
    pub(super) fn one_hot(shape: [usize; 2], ones: impl Iterator<Item = (usize, usize)>) -> Self {
        let mut places: Vec<usize> = ones.map(|(row, col)| row * shape[1] + col).collect();
        places.sort_unstable();
        Self { shape, values: Values::OneHot(places) }
    }

    /// A whole factor, whose values are told by `(row, col)`.
    pub(super) fn dense(shape: [usize; 2], value: impl Fn(usize, usize) -> f32) -> Self {
        let values = (0..shape[0]).flat_map(|row| (0..shape[1]).map(move |col| (row, col)));
        Self { shape, values: Values::Dense(values.map(|(row, col)| value(row, col)).collect()) }
    }

    /// The same with each row at the place that `place` gives it.
    pub(super) fn with_rows_at(self, place: impl Fn(usize) -> usize) -> Self {
        let [rows, cols] = self.shape;
        let values = match self.values {
            Values::OneHot(ones) => {
                let mut moved: Vec<usize> =
                    ones.iter().map(|one| place(one / cols) * cols + one % cols).collect();
                moved.sort_unstable();
                Values::OneHot(moved)
            }
            Values::Dense(values) => {
                let mut moved = vec![0f32; values.len()];
                for row in 0..rows {
                    moved[place(row) * cols..][..cols].copy_from_slice(&values[row * cols..][..cols]);
                }
                Values::Dense(moved)
            }
        };
        Self { shape: self.shape, values }
    }

    /// Its rows and columns.
    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// What it takes in a file.
    pub(super) fn bytes(&self) -> u64 {
        (self.shape[0] * self.shape[1] * size_of::<f32>()) as u64
    }

    /// Writes its values as `f32`, row by row.
    pub(super) fn write(&self, out: &mut TensorOut<'_>) -> Result<()> {
        let places = match &self.values {
            Values::Dense(values) => {
                // in parts, so that the bytes of all are not held beside the values
                for part in values.chunks(ZEROS.len() / 4) {
                    out.put(&part.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?;
                }
                return Ok(());
            }
            Values::OneHot(places) => places,
        };
        let mut next = 0;
        for &place in places {
            put_zeros(place - next, out)?;
            out.put(&1f32.to_le_bytes())?;
            next = place + 1;
        }
        put_zeros(self.shape[0] * self.shape[1] - next, out)
    }
}

fn put_zeros(count: usize, out: &mut TensorOut<'_>) -> Result<()> {
    let mut left = count * size_of::<f32>();
    while left > 0 {
        let part = left.min(ZEROS.len());
        out.put(&ZEROS[..part])?;
        left -= part;
    }
    Ok(())
}
