//! A token matrix (an embedding or an output head) and the trained rows that replace some of its rows.

use crate::error::Result;
use std::sync::Arc;
use toktune_kernels::{Isa, TokenTable};
use toktune_weights::FrozenMatrix;

/// The frozen rows of an embedding or a head, and the rows a resize appended.
#[derive(Clone, Debug)]
pub struct TokenMatrix {
    name: String,
    base: FrozenMatrix,
    extra: Arc<Vec<f32>>,
    /// Whether `base` is no longer what the checkpoint holds.
    replaced: bool,
}

/// The rows of some tokens as they are trained, in place of the frozen ones.
///
/// They are kept in the order in which the tokens were chosen, which is the order of PEFT's files.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainedRows {
    indices: Vec<u32>,
    /// `(row of the matrix, index into the values)`, sorted by row.
    overrides: Vec<(usize, usize)>,
    width: usize,
    /// The values `[indices, width]`.
    pub values: Vec<f32>,
}

impl TrainedRows {
    /// Rows for `indices`, which must not repeat; `values` is `[indices, width]`.
    ///
    /// Panics when the length of `values` is another: tokens are checked where a configuration is read.
    pub fn new(indices: Vec<u32>, width: usize, values: Vec<f32>) -> Self {
        assert_eq!(values.len(), indices.len() * width, "{} rows of {width}", indices.len());
        let mut overrides: Vec<_> = indices.iter().enumerate().map(|(at, &id)| (id as usize, at)).collect();
        overrides.sort_unstable();
        Self { indices, overrides, width, values }
    }

    /// The chosen tokens, in order.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// Width of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Where token `id` lies among the values.
    pub fn position(&self, id: u32) -> Option<usize> {
        let found = self.overrides.binary_search_by_key(&(id as usize), |o| o.0).ok()?;
        Some(self.overrides[found].1)
    }

    /// `(row of the matrix, index into the values)`, sorted by row.
    pub fn overrides(&self) -> &[(usize, usize)] {
        &self.overrides
    }

    /// One row, by its position.
    pub fn row(&self, at: usize) -> &[f32] {
        &self.values[at * self.width..][..self.width]
    }

    /// The Euclidean norm of a row, by its position.
    pub fn norm(&self, at: usize) -> f64 {
        norm(self.row(at))
    }
}

/// The Euclidean norm of a row.
pub(super) fn norm(row: &[f32]) -> f64 {
    row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt()
}

impl TokenMatrix {
    /// The matrix of module `name` (as transformers names it, without `.weight`).
    pub fn new(name: impl Into<String>, base: FrozenMatrix) -> Self {
        Self { name: name.into(), base, extra: Arc::default(), replaced: false }
    }

    /// The module's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rows that come from the checkpoint.
    pub fn frozen(&self) -> &FrozenMatrix {
        &self.base
    }

    /// The appended rows, `[extra, width]`.
    pub fn extra(&self) -> &[f32] {
        &self.extra
    }

    /// Rows, the appended ones included.
    pub fn rows(&self) -> usize {
        self.base.rows() + self.extra.len() / self.width().max(1)
    }

    /// Width of a row.
    pub fn width(&self) -> usize {
        self.base.cols()
    }

    /// Whether rows were written into it, or all of it was replaced, since it was read.
    pub fn is_replaced(&self) -> bool {
        self.replaced
    }

    /// The matrix with `rows` written into it, each in the type that the matrix has there.
    ///
    /// # Errors
    /// None for the types that are read.
    pub fn with_rows(&self, rows: &TrainedRows) -> Result<Self> {
        let frozen = self.base.rows();
        let (low, high): (Vec<_>, Vec<_>) =
            rows.overrides.iter().map(|&(row, at)| (row, rows.row(at))).partition(|(row, _)| *row < frozen);
        let base = if low.is_empty() { self.base.clone() } else { self.base.with_rows(low)? };
        let mut extra = self.extra.clone();
        for (row, values) in high {
            let start = (row - frozen) * self.width();
            Arc::make_mut(&mut extra)[start..start + values.len()].copy_from_slice(values);
        }
        Ok(Self { name: self.name.clone(), base, extra, replaced: true })
    }

    /// The matrix that `base` and nothing after it makes, as an adapter's file can hold it.
    pub fn with_frozen(&self, base: FrozenMatrix) -> Self {
        let mut base = base.renamed(self.base.name());
        if base.dtype() == self.base.dtype() {
            base.set_precision(self.base.precision());
        }
        Self { name: self.name.clone(), base, extra: Arc::default(), replaced: true }
    }

    /// Takes products in the precision that `of` gives.
    pub fn set_precision(&mut self, of: impl Fn(&FrozenMatrix) -> toktune_kernels::Precision) {
        self.base.set_precision(of(&self.base));
    }

    /// Appends whole rows.
    pub fn append(&mut self, rows: &[f32]) {
        Arc::make_mut(&mut self.extra).extend_from_slice(rows);
    }

    /// The matrix with trained rows over it, as the kernels read it.
    pub fn table<'a>(&'a self, trained: Option<&'a TrainedRows>) -> TokenTable<'a> {
        let (overrides, values): (&[_], &[_]) = trained.map_or((&[], &[]), |t| (&t.overrides, &t.values));
        TokenTable::new(self.base.view(), &self.extra, overrides, values)
    }

    /// The untrained rows of `ids`, `[ids, width]`.
    pub fn gather(&self, ids: &[u32]) -> Vec<f32> {
        let mut rows = vec![0f32; ids.len() * self.width()];
        // exact: the same bits on every instruction set
        toktune_kernels::embedding::gather(Isa::best(), ids, &self.table(None), 1.0, &mut rows);
        rows
    }

    /// The mean of the frozen rows `[width]` and the root mean square of all their entries.
    ///
    /// Summed in `f64`, a block of rows at a time.
    pub fn statistics(&self) -> (Vec<f32>, f32) {
        let (rows, width) = (self.base.rows(), self.width());
        let (mut sums, mut squares) = (vec![0f64; width], 0f64);
        for start in (0..rows).step_by(1024) {
            let block = self.base.decode_rows(start..(start + 1024).min(rows));
            for row in block.chunks_exact(width) {
                for (sum, x) in sums.iter_mut().zip(row) {
                    *sum += *x as f64;
                    squares += *x as f64 * *x as f64;
                }
            }
        }
        let mean = sums.iter().map(|s| (s / rows.max(1) as f64) as f32).collect();
        (mean, (squares / (rows * width).max(1) as f64).sqrt() as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> TokenMatrix {
        let base = FrozenMatrix::from_f32("m", 3, 2, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).expect("valid");
        TokenMatrix::new("m", base)
    }

    #[test]
    fn appended_rows_follow_the_frozen_ones() {
        let mut matrix = matrix();
        matrix.append(&[7.0, 8.0]);
        assert_eq!((matrix.rows(), matrix.width()), (4, 2));
        assert_eq!(matrix.gather(&[3, 0]), [7.0, 8.0, 1.0, 2.0]);
        let (mean, rms) = matrix.statistics();
        assert_eq!(mean, [3.0, 4.0]);
        assert!((rms - (91.0f32 / 6.0).sqrt()).abs() < 1e-6);
    }

    #[test]
    fn rows_are_written_into_both_parts_and_the_original_stays() {
        let mut matrix = matrix();
        matrix.append(&[7.0, 8.0]);
        let rows = TrainedRows::new(vec![3, 1], 2, vec![-7.0, -8.0, -3.0, -4.0]);
        let merged = matrix.with_rows(&rows).expect("written");
        assert_eq!(merged.gather(&[0, 1, 2, 3]), [1.0, 2.0, -3.0, -4.0, 5.0, 6.0, -7.0, -8.0]);
        assert_eq!(matrix.gather(&[0, 1, 2, 3]), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        assert!(merged.is_replaced() && !matrix.is_replaced());
        let whole = FrozenMatrix::from_f32("other", 5, 2, vec![0.5; 10]).expect("valid");
        let replaced = matrix.with_frozen(whole);
        assert_eq!((replaced.rows(), replaced.frozen().name()), (5, "m"));
    }

    #[test]
    fn trained_rows_keep_the_order_in_which_they_were_chosen() {
        let rows = TrainedRows::new(vec![9, 2, 5], 1, vec![0.9, 0.2, 0.5]);
        assert_eq!([9, 2, 5, 3].map(|id| rows.position(id)), [Some(0), Some(1), Some(2), None]);
        assert_eq!(rows.row(1), [0.2]);
    }
}
