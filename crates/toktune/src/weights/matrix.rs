//! A frozen matrix: bytes in their stored type, with a shape that has been checked.
//!
//! Owns the handle to the bytes; decoding is the kernels', finding the bytes is the checkpoint's.

use super::Bytes;
use crate::{Error, Result};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use toktune_kernels::{Matrix, Precision, RowOrder, Weight, WeightType};

/// Entries decoded at a time when scanning: 256 KiB of `f32`, which stays in the second-level cache.
const SCAN_ENTRIES: usize = 1 << 16;

/// A frozen `[rows, cols]` matrix in its stored type. Clones share the bytes.
#[derive(Clone, Debug)]
pub struct FrozenMatrix {
    bytes: Bytes,
    dtype: WeightType,
    rows: usize,
    cols: usize,
    order: RowOrder,
    name: Arc<str>,
    precision: Precision,
}

impl FrozenMatrix {
    /// `bytes` as a row-major `[rows, cols]` matrix of `dtype`, little-endian.
    ///
    /// # Errors
    /// The shape and the number of bytes disagree, a row ends inside a block, or `order` does not divide the
    /// rows.
    pub fn new(
        name: impl Into<Arc<str>>,
        bytes: Bytes,
        dtype: WeightType,
        rows: usize,
        cols: usize,
        order: RowOrder,
    ) -> Result<Self> {
        let name = name.into();
        match Weight::new(dtype, &bytes, rows, cols, order) {
            Ok(_) => Ok(Self { bytes, dtype, rows, cols, order, name, precision: Precision::F32 }),
            Err(source) => Err(Error::Matrix { tensor: name.to_string(), source }),
        }
    }

    /// A matrix of `f32` values held in memory.
    ///
    /// # Errors
    /// The values are not `rows` x `cols`.
    pub fn from_f32(name: impl Into<Arc<str>>, rows: usize, cols: usize, values: Vec<f32>) -> Result<Self> {
        let bytes = Bytes::owned(values.iter().flat_map(|x| x.to_le_bytes()).collect());
        Self::new(name, bytes, WeightType::F32, rows, cols, RowOrder::Plain)
    }

    /// What the kernels multiply with.
    pub fn view(&self) -> Weight<'_> {
        match Weight::new(self.dtype, &self.bytes, self.rows, self.cols, self.order) {
            Ok(weight) => weight,
            Err(error) => unreachable!("checked by the constructor, and nothing changes: {error}"),
        }
    }

    /// In which precision products with it are taken; `f32` at first.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Takes products with it in `precision` from now on.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// Rows: outputs of a linear layer, entries of a vocabulary.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: inputs of a linear layer, width of an embedding.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The stored type.
    pub fn dtype(&self) -> WeightType {
        self.dtype
    }

    /// In which order the rows lie in the file.
    pub fn order(&self) -> RowOrder {
        self.order
    }

    /// The tensor's name in its checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bytes as they are stored (with the rows in [`FrozenMatrix::order`]).
    pub fn stored_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// These rows as `f32`, row-major.
    ///
    /// Panics when the range reaches outside: a row number is the caller's to check.
    pub fn decode_rows(&self, rows: Range<usize>) -> Vec<f32> {
        let mut out = vec![0.0; rows.len() * self.cols];
        self.view().decode(rows, 0..self.cols, &mut out);
        out
    }

    /// The first entry, in row-major order, that is a NaN or an infinity, as `(row, col)`.
    pub fn first_non_finite(&self) -> Option<(usize, usize)> {
        if self.cols == 0 {
            return None;
        }
        let panel_rows = (SCAN_ENTRIES / self.cols).max(1);
        let weight = self.view();
        (0..self.rows.div_ceil(panel_rows))
            .into_par_iter()
            .map_init(Vec::new, |panel, i| {
                let rows = i * panel_rows..((i + 1) * panel_rows).min(self.rows);
                panel.resize(rows.len() * self.cols, 0.0f32);
                weight.decode(rows.clone(), 0..self.cols, panel);
                // Looked at without a way out first, since that vectorises and nearly every panel is fine.
                if panel.iter().fold(true, |fine, x| fine & x.is_finite()) {
                    return None;
                }
                let at = panel.iter().position(|x| !x.is_finite())?;
                Some((rows.start + at / self.cols, at % self.cols))
            })
            .find_map_first(|found| found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_in_their_order() {
        let values: Vec<f32> = (0..24).map(|x| x as f32).collect();
        let plain = FrozenMatrix::from_f32("w", 8, 3, values).expect("a valid matrix");
        assert_eq!((plain.rows(), plain.cols(), plain.name()), (8, 3, "w"));
        assert_eq!(plain.decode_rows(2..4), [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        let order = RowOrder::Interleaved { head_dim: 4 };
        let bytes = Bytes::owned(plain.stored_bytes().to_vec());
        let interleaved =
            FrozenMatrix::new("w", bytes, WeightType::F32, 8, 3, order).expect("a valid matrix");
        assert_eq!(interleaved.decode_rows(1..2), plain.decode_rows(2..3));
        assert_eq!(interleaved.clone().decode_rows(6..7), plain.decode_rows(5..6));
    }

    #[test]
    fn wrong_sizes_are_refused_with_the_name() {
        for (rows, cols, count) in [(2, 3, 5), (usize::MAX, usize::MAX, 1), (0, 3, 1)] {
            let message = FrozenMatrix::from_f32("lm_head", rows, cols, vec![0.0; count])
                .expect_err("not this shape")
                .to_string();
            assert!(message.contains("lm_head"), "{message}");
        }
    }

    #[test]
    fn the_first_non_finite_entry_is_found_whatever_the_panel() {
        let (rows, cols) = (700, 300); // more than two panels
        let mut values = vec![1.0f32; rows * cols];
        let matrix = |values: &[f32]| {
            FrozenMatrix::from_f32("w", rows, cols, values.to_vec()).expect("a valid matrix")
        };
        assert_eq!(matrix(&values).first_non_finite(), None);
        for (at, bad) in
            [(rows * cols - 1, f32::NAN), (500 * cols + 7, f32::NEG_INFINITY), (3, f32::INFINITY)]
        {
            values[at] = bad;
            assert_eq!(matrix(&values).first_non_finite(), Some((at / cols, at % cols)));
        }
        let wide = FrozenMatrix::from_f32("w", 2, 1 << 17, vec![f32::NAN; 1 << 18]).expect("a valid matrix");
        assert_eq!(wide.first_non_finite(), Some((0, 0)));
        let empty = FrozenMatrix::from_f32("w", 4, 0, vec![]).expect("a valid matrix");
        assert_eq!(empty.first_non_finite(), None);
    }
}
