//! A token matrix with rows appended to it and trained rows over both.

use super::{Matrix, StoredRow, Weight};
use crate::Isa;
use crate::weight_type::WeightType;
use std::ops::Range;

/// A token matrix as the method sees it: the frozen rows, rows appended by a resize, and trained rows over both.
///
/// The trained rows replace decoded ones inside the panel, so that neither a copy nor a gradient of the whole matrix
/// ever exists.
#[derive(Clone, Copy, Debug)]
pub struct TokenTable<'a> {
    base: Weight<'a>,
    extra: &'a [f32],
    overrides: &'a [(usize, usize)],
    values: &'a [f32],
}

impl<'a> TokenTable<'a> {
    /// `extra` holds whole rows that follow the frozen ones. Each `(row, at)` of `overrides`, sorted by row, says that
    /// row `row` is replaced by the `at`-th row of `values`.
    ///
    /// Panics when the parts do not fit together: a shape is the caller's to check.
    pub fn new(
        base: Weight<'a>,
        extra: &'a [f32],
        overrides: &'a [(usize, usize)],
        values: &'a [f32],
    ) -> Self {
        let cols = base.cols().max(1);
        assert!(extra.len().is_multiple_of(cols) && values.len().is_multiple_of(cols), "whole rows");
        assert!(overrides.is_sorted_by(|a, b| a.0 < b.0), "overrides sorted by row, none twice");
        let rows = base.rows() + extra.len() / cols;
        assert!(
            overrides.iter().all(|&(row, at)| row < rows && at < values.len() / cols),
            "overrides in range"
        );
        Self { base, extra, overrides, values }
    }

    /// The trained rows as `(row, index into the values)`, sorted by row.
    pub fn overrides(&self) -> &'a [(usize, usize)] {
        self.overrides
    }

    /// The trained values `[k, cols]`.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }
}

impl Matrix for TokenTable<'_> {
    fn rows(&self) -> usize {
        self.base.rows() + self.extra.len() / self.cols().max(1)
    }

    fn cols(&self) -> usize {
        self.base.cols()
    }

    fn column_unit(&self) -> usize {
        self.base.column_unit()
    }

    fn decode(&self, isa: Isa, rows: Range<usize>, cols: Range<usize>, panel: &mut [f32]) {
        assert_eq!(panel.len(), rows.len() * cols.len(), "the size of a panel");
        let (width, frozen) = (self.cols(), self.base.rows());
        let (start, end) = (rows.start.min(frozen), rows.end.min(frozen));
        let (in_base, in_extra) = panel.split_at_mut((end - start) * cols.len());
        self.base.decode(isa, start..end, cols.clone(), in_base);
        if cols.is_empty() {
            return;
        }
        for (out, row) in in_extra.chunks_exact_mut(cols.len()).zip(rows.start.max(frozen)..rows.end) {
            out.copy_from_slice(&self.extra[(row - frozen) * width..][..width][cols.clone()]);
        }
        let first = self.overrides.partition_point(|o| o.0 < rows.start);
        for &(row, at) in self.overrides[first..].iter().take_while(|o| o.0 < rows.end) {
            panel[(row - rows.start) * cols.len()..][..cols.len()]
                .copy_from_slice(&self.values[at * width..][..width][cols.clone()]);
        }
    }

    fn stored_type(&self) -> Option<WeightType> {
        self.base.stored_type()
    }

    fn stored_row(&self, row: usize) -> Option<StoredRow<'_>> {
        let is_frozen = row < self.base.rows() && self.overrides.binary_search_by_key(&row, |o| o.0).is_err();
        if is_frozen { self.base.stored_row(row) } else { None }
    }
}
