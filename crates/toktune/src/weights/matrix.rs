//! A frozen matrix: bytes in their stored type, with a shape that has been checked.
//!
//! Owns the handle to the bytes; decoding is the kernels', finding the bytes is the checkpoint's.

use super::Bytes;
use crate::weights::WeightsError;
use crate::{Error, Result};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use toktune_kernels::{Matrix, Precision, RowOrder, Scales, Weight, WeightType, weight::encode};

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
    scales: Option<Arc<BlockScales>>,
    /// Rows of the first block of scales that are not the matrix's.
    skipped: usize,
}

/// What the weights of an 8-bit type are multiplied with.
#[derive(Debug)]
struct BlockScales {
    values: Vec<f32>,
    /// Rows and columns of a block.
    block: [usize; 2],
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
            Ok(_) => {
                let precision = Precision::F32;
                Ok(Self { bytes, dtype, rows, cols, order, name, precision, scales: None, skipped: 0 })
            }
            Err(source) => Err(Error::Weights(WeightsError::Matrix { tensor: name.to_string(), source })),
        }
    }

    /// The same matrix, each block of so many rows and columns multiplied with its scale.
    ///
    /// # Errors
    /// There are more or fewer scales than blocks.
    pub(super) fn scaled(self, values: Vec<f32>, block: [usize; 2]) -> Result<Self> {
        let scales = Scales { values: &values, block, skipped: 0 };
        if let Err(source) = self.view().scaled(scales) {
            return Err(WeightsError::Matrix { tensor: self.name.to_string(), source }.into());
        }
        Ok(Self { scales: Some(Arc::new(BlockScales { values, block })), ..self })
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
        let weight = Weight::new(self.dtype, &self.bytes, self.rows, self.cols, self.order);
        let scaled = weight.and_then(|weight| match &self.scales {
            Some(scales) => weight.scaled(self.view_scales(scales)),
            None => Ok(weight),
        });
        match scaled {
            Ok(weight) => weight,
            Err(error) => unreachable!("checked by the constructor, and nothing changes: {error}"),
        }
    }

    /// The scales of the blocks that the matrix has a part in.
    fn view_scales<'a>(&self, scales: &'a BlockScales) -> Scales<'a> {
        let [height, width] = scales.block;
        let across = self.cols.div_ceil(width);
        let first = self.skipped / height;
        let last = (self.skipped + self.rows).div_ceil(height);
        let values = scales.values.get(first * across..last * across).unwrap_or_default();
        Scales { values, block: scales.block, skipped: self.skipped % height }
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

    /// The type in which changed rows can be stored: its own, or `f32` when that is one of blocks.
    fn editable_type(&self) -> WeightType {
        match self.dtype {
            WeightType::F32 | WeightType::F16 | WeightType::BF16 => self.dtype,
            _ => WeightType::F32,
        }
    }

    /// A copy in memory, under the same name, with some rows replaced: each `(row, values)` is rounded to the
    /// matrix's type. A matrix of blocks becomes `f32`, so that its other rows stay what they are.
    ///
    /// Panics when a row is not there or `values` has another length: they are the caller's to check.
    pub fn with_rows<'a>(&self, rows: impl IntoIterator<Item = (usize, &'a [f32])>) -> Result<Self> {
        let dtype = self.editable_type();
        let row_bytes = dtype.bytes(1, self.cols).unwrap_or(0);
        let mut bytes = match dtype == self.dtype {
            true => self.bytes.to_vec(),
            false => self.encoded(dtype, |_, _| {})?,
        };
        // a decoded copy has its rows in order
        let order = if dtype == self.dtype { self.order } else { RowOrder::Plain };
        for (row, values) in rows {
            assert_eq!(values.len(), self.cols, "a row of {}", self.name);
            let encoded = encode(dtype, values).ok_or_else(|| self.unencodable(dtype))?;
            bytes[order.stored(row) * row_bytes..][..row_bytes].copy_from_slice(&encoded);
        }
        self.remade(Bytes::owned(bytes), dtype, self.rows, order)
    }

    /// A copy in memory, under the same name, with every row passed through `change(row, values)` and rounded to
    /// the matrix's type (`f32` for one of blocks).
    ///
    /// # Errors
    /// None for the types that are read.
    pub fn map_rows(&self, change: impl Fn(usize, &mut [f32]) + Sync) -> Result<Self> {
        let dtype = self.editable_type();
        let bytes = Bytes::owned(self.encoded(dtype, change)?);
        self.remade(bytes, dtype, self.rows, RowOrder::Plain)
    }

    /// The matrix followed by more rows, in its own type (`f32` for one of blocks); itself when there are none.
    ///
    /// # Errors
    /// `extra` is not whole rows.
    pub fn followed_by(&self, extra: &[f32]) -> Result<Self> {
        if extra.is_empty() {
            return Ok(self.clone());
        }
        let dtype = self.editable_type();
        let mut bytes = match dtype == self.dtype && self.order == RowOrder::Plain {
            true => self.bytes.to_vec(),
            false => self.encoded(dtype, |_, _| {})?,
        };
        bytes.extend(encode(dtype, extra).ok_or_else(|| self.unencodable(dtype))?);
        let rows = self.rows + extra.len() / self.cols.max(1);
        self.remade(Bytes::owned(bytes), dtype, rows, RowOrder::Plain)
    }

    /// Some of its rows as a matrix of their own, which shares the bytes; `None` when they are not all there, or do not lie
    /// in order.
    pub fn part(&self, rows: Range<usize>) -> Option<Self> {
        let row_bytes = self.dtype.bytes(1, self.cols)?;
        let bytes = self.bytes.slice(rows.start.checked_mul(row_bytes)?..rows.end.checked_mul(row_bytes)?)?;
        let plain = self.order == RowOrder::Plain && rows.end <= self.rows;
        let skipped = self.skipped + rows.start;
        plain.then(|| Self { bytes, rows: rows.len(), skipped, ..self.clone() })
    }

    /// The same matrix under another name.
    pub fn renamed(&self, name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), ..self.clone() }
    }

    /// All rows in order, changed and encoded; a panel at a time beside the result.
    fn encoded(&self, dtype: WeightType, change: impl Fn(usize, &mut [f32]) + Sync) -> Result<Vec<u8>> {
        let row_bytes = dtype.bytes(1, self.cols).unwrap_or(0);
        let mut bytes = vec![0u8; self.rows * row_bytes];
        if bytes.is_empty() {
            return Ok(bytes);
        }
        let panel_rows = (SCAN_ENTRIES / self.cols).max(1);
        bytes.par_chunks_mut(panel_rows * row_bytes).enumerate().try_for_each(|(i, out)| {
            let rows = i * panel_rows..((i + 1) * panel_rows).min(self.rows);
            let mut values = self.decode_rows(rows.clone());
            for (row, values) in rows.zip(values.chunks_exact_mut(self.cols)) {
                change(row, values);
            }
            out.copy_from_slice(&encode(dtype, &values).ok_or_else(|| self.unencodable(dtype))?);
            Ok::<(), Error>(())
        })?;
        Ok(bytes)
    }

    /// This matrix with other bytes.
    fn remade(&self, bytes: Bytes, dtype: WeightType, rows: usize, order: RowOrder) -> Result<Self> {
        let matrix = Self::new(self.name.clone(), bytes, dtype, rows, self.cols, order)?;
        Ok(Self { precision: self.precision, ..matrix })
    }

    fn unencodable(&self, dtype: WeightType) -> Error {
        Error::Serialise(format!("{} as {dtype}", self.name))
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
    fn a_part_shares_the_rows_it_is_of() {
        let values: Vec<f32> = (0..12).map(|x| x as f32).collect();
        let matrix = FrozenMatrix::from_f32("w", 4, 3, values.clone()).expect("valid");
        let part = matrix.part(1..3).expect("inside");
        assert_eq!((part.rows(), part.cols(), part.decode_rows(0..2)), (2, 3, values[3..9].to_vec()));
        assert!(matrix.part(3..5).is_none() && matrix.part(0..usize::MAX).is_none());
    }

    #[test]
    fn parts_of_a_scaled_matrix_keep_their_scales() {
        // 1.0 in E4M3
        let bytes = Bytes::owned(vec![0x38; 28]);
        let matrix = FrozenMatrix::new("w", bytes, WeightType::F8E4M3, 7, 4, RowOrder::Plain).expect("valid");
        let scales = (1..=6).map(|x| x as f32).collect();
        let matrix = matrix.scaled(scales, [3, 2]).expect("valid");
        let whole = matrix.decode_rows(0..7);
        assert_eq!(whole[..4], [1.0, 1.0, 2.0, 2.0]);
        assert_eq!(whole[24..], [5.0, 5.0, 6.0, 6.0]);
        for rows in [0..7, 1..3, 2..7, 4..5, 6..7] {
            let part = matrix.part(rows.clone()).expect("inside");
            assert_eq!(part.decode_rows(0..rows.len()), whole[rows.start * 4..rows.end * 4]);
            let of_part = part.part(rows.len() - 1..rows.len()).expect("inside");
            assert_eq!(of_part.decode_rows(0..1), whole[rows.end * 4 - 4..rows.end * 4]);
        }
        let changed = matrix.with_rows([(1, &[0.5f32; 4][..])]).expect("changed");
        assert_eq!((changed.dtype(), changed.decode_rows(1..2)), (WeightType::F32, vec![0.5; 4]));
        assert_eq!(changed.decode_rows(2..7), whole[8..]);
        assert!(matrix.scaled(vec![1.0; 5], [3, 2]).is_err());
    }

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
    fn changed_copies_keep_the_type_and_the_other_rows() {
        let values: Vec<f32> = (0..32).map(|x| x as f32).collect();
        let bf16 = encode(WeightType::BF16, &values).expect("encoded");
        for order in [RowOrder::Plain, RowOrder::Interleaved { head_dim: 4 }] {
            let matrix = FrozenMatrix::new("w", Bytes::owned(bf16.clone()), WeightType::BF16, 8, 4, order)
                .expect("a valid matrix");
            let before = matrix.decode_rows(0..8);
            let changed = matrix.with_rows([(2, &[0.5f32, 1.0, -2.0, 3.0][..])]).expect("changed");
            assert_eq!((changed.dtype(), changed.order(), changed.name()), (WeightType::BF16, order, "w"));
            assert_eq!(changed.decode_rows(2..3), [0.5, 1.0, -2.0, 3.0]);
            assert_eq!(changed.decode_rows(0..2), before[..8]);
            assert_eq!(changed.decode_rows(3..8), before[12..]);
            let doubled = matrix
                .map_rows(|row, values| values.iter_mut().for_each(|x| *x = 2.0 * *x + row as f32))
                .expect("changed");
            let expected: Vec<f32> =
                before.iter().enumerate().map(|(at, x)| 2.0 * x + (at / 4) as f32).collect();
            assert_eq!(doubled.decode_rows(0..8), expected);
            let longer = matrix.followed_by(&[9.0; 8]).expect("longer");
            assert_eq!((longer.rows(), longer.dtype()), (10, WeightType::BF16));
            assert_eq!(longer.decode_rows(0..8), before);
            assert_eq!(longer.decode_rows(9..10), [9.0; 4]);
        }
    }

    #[test]
    fn a_matrix_of_blocks_is_changed_as_f32() {
        let mut block = vec![0u8; 34];
        block[..2].copy_from_slice(&half::f16::from_f32(0.5).to_le_bytes());
        block[2] = 3;
        let bytes = Bytes::owned([block.clone(), block].concat());
        let matrix = FrozenMatrix::new("q", bytes, WeightType::Q8_0, 2, 32, RowOrder::Plain).expect("valid");
        let changed = matrix.with_rows([(1, &[0.25f32; 32][..])]).expect("changed");
        assert_eq!(changed.dtype(), WeightType::F32);
        assert_eq!(changed.decode_rows(0..1), matrix.decode_rows(0..1));
        assert_eq!(changed.decode_rows(1..2), [0.25; 32]);
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
