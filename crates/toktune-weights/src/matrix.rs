//! A frozen matrix: bytes in their stored type, with a shape that has been checked.
//!
//! Owns the handle to the bytes; decoding is the kernels', finding the bytes is the checkpoint's.

use crate::{Bytes, Owner, Result, WeightsError};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use toktune_kernels::{Isa, Matrix, Precision, RowOrder, Scales, Weight, WeightType, weight::encode};

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
            Err(source) => Err(WeightsError::Matrix { tensor: name.to_string(), source }),
        }
    }

    /// The same matrix, each block of so many rows and columns multiplied with its scale.
    ///
    /// # Errors
    /// There are more or fewer scales than blocks.
    pub(super) fn scaled(self, values: Vec<f32>, block: [usize; 2]) -> Result<Self> {
        let scales = Scales { values: &values, block, skipped: 0 };
        if let Err(source) = self.view().scaled(scales) {
            return Err(WeightsError::Matrix { tensor: self.name.to_string(), source });
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

    /// Bytes of somebody else's memory as a row-major `[rows, cols]` matrix of `dtype`, little-endian; nothing is copied, and
    /// the owner lives as long as the matrix, its clones and its parts. `range` counts the owner's bytes.
    ///
    /// # Errors
    /// The range is reversed or reaches outside, the matrix does not begin where its type wants it, the shape and the number
    /// of bytes disagree, or a row ends inside a block.
    pub fn borrowed(
        name: impl Into<Arc<str>>,
        owner: Owner,
        range: Range<usize>,
        dtype: WeightType,
        rows: usize,
        cols: usize,
    ) -> Result<Self> {
        let (name, all) = (name.into(), Bytes::borrowed(owner));
        let Some(bytes) = all.slice(range.clone()) else {
            let Range { start, end } = range;
            return Err(WeightsError::MatrixRange {
                tensor: name.to_string(),
                start,
                end,
                available: all.len(),
            });
        };
        let expected = alignment(dtype);
        let found = bytes.as_ptr().addr() % expected;
        // the place of no bytes means nothing
        if found != 0 && !bytes.is_empty() {
            return Err(WeightsError::MatrixAlignment {
                tensor: name.to_string(),
                dtype: dtype.name(),
                expected,
                found,
            });
        }
        Self::new(name, bytes, dtype, rows, cols, RowOrder::Plain)
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
        // exact: the same bits on every instruction set
        self.view().decode(Isa::best(), rows, 0..self.cols, &mut out);
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
            Ok::<(), WeightsError>(())
        })?;
        Ok(bytes)
    }

    /// This matrix with other bytes.
    fn remade(&self, bytes: Bytes, dtype: WeightType, rows: usize, order: RowOrder) -> Result<Self> {
        let matrix = Self::new(self.name.clone(), bytes, dtype, rows, self.cols, order)?;
        Ok(Self { precision: self.precision, ..matrix })
    }

    fn unencodable(&self, dtype: WeightType) -> WeightsError {
        WeightsError::Serialise(format!("{} as {dtype}", self.name))
    }

    /// The first entry, in row-major order, that is a NaN or an infinity, as `(row, col)`.
    pub fn first_non_finite(&self) -> Option<(usize, usize)> {
        if self.cols == 0 {
            return None;
        }
        let panel_rows = (SCAN_ENTRIES / self.cols).max(1);
        let (isa, weight) = (Isa::best(), self.view()); // decoding is exact: the same bits on every instruction set
        (0..self.rows.div_ceil(panel_rows))
            .into_par_iter()
            .map_init(Vec::new, |panel, i| {
                let rows = i * panel_rows..((i + 1) * panel_rows).min(self.rows);
                panel.resize(rows.len() * self.cols, 0.0f32);
                weight.decode(isa, rows.clone(), 0..self.cols, panel);
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

/// Where a value of a type may begin: at multiples of so many bytes. Blocks are made of bytes.
fn alignment(dtype: WeightType) -> usize {
    match dtype {
        WeightType::F32 => align_of::<f32>(),
        WeightType::F16 | WeightType::BF16 => align_of::<u16>(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Memory that says when it is given up. Its `f32` make sure that it is aligned.
    struct Tensor {
        values: Vec<f32>,
        dropped: Arc<AtomicBool>,
    }

    impl AsRef<[u8]> for Tensor {
        fn as_ref(&self) -> &[u8] {
            // SAFETY: the memory of the values, all of which is initialised, and any byte is a `u8`; the lifetime is that
            // of the values.
            unsafe { std::slice::from_raw_parts(self.values.as_ptr().cast(), size_of_val(&self.values[..])) }
        }
    }

    impl Drop for Tensor {
        fn drop(&mut self) {
            self.dropped.store(true, Ordering::Relaxed);
        }
    }

    fn tensor(count: usize) -> (Owner, Arc<AtomicBool>) {
        let dropped = Arc::new(AtomicBool::new(false));
        let values = (0..count).map(|x| x as f32).collect();
        (Arc::new(Tensor { values, dropped: dropped.clone() }), dropped)
    }

    #[test]
    fn borrowed_memory_is_read_where_it_lies_and_lives_as_long_as_the_matrix() {
        let (owner, dropped) = tensor(8);
        let place = (*owner).as_ref().as_ptr();
        let matrix =
            FrozenMatrix::borrowed("w", owner, 8..32, WeightType::F32, 2, 3).expect("a valid matrix");
        assert_eq!(matrix.stored_bytes().as_ptr(), place.wrapping_add(8));
        assert_eq!(matrix.decode_rows(0..2), [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        let part = matrix.part(1..2).expect("inside");
        drop(matrix);
        assert!(!dropped.load(Ordering::Relaxed), "a part is left");
        assert_eq!(part.decode_rows(0..1), [5.0, 6.0, 7.0]);
        drop(part);
        assert!(dropped.load(Ordering::Relaxed));
    }

    #[test]
    fn borrowed_memory_that_does_not_fit_is_refused() {
        let borrowed =
            |range, dtype, rows, cols| FrozenMatrix::borrowed("w", tensor(4).0, range, dtype, rows, cols);
        #[expect(clippy::reversed_empty_ranges, reason = "what is tested")]
        let outside = [0..17, 17..17, 8..4, usize::MAX - 1..usize::MAX];
        for range in outside {
            let error = borrowed(range.clone(), WeightType::F32, 1, 1).expect_err("outside");
            assert!(matches!(&error, WeightsError::MatrixRange { available: 16, .. }), "{error}");
            let told = format!("matrix 'w' is said to lie at bytes {}..{} of 16", range.start, range.end);
            assert_eq!(error.to_string(), told);
        }
        for (range, dtype, found) in
            [(1..5, WeightType::F32, 1), (2..6, WeightType::F32, 2), (3..5, WeightType::BF16, 1)]
        {
            let error = borrowed(range, dtype, 1, 1).expect_err("not aligned");
            assert!(
                matches!(&error, WeightsError::MatrixAlignment { found: at, .. } if *at == found),
                "{error}"
            );
            assert!(error.to_string().contains("'w'") && error.to_string().contains(dtype.name()), "{error}");
        }
        borrowed(2..4, WeightType::BF16, 1, 1).expect("aligned for its type");
        borrowed(1..1, WeightType::F32, 0, 4).expect("no bytes lie anywhere");
        for (range, dtype, rows, cols) in [
            (0..16, WeightType::F32, 1, 3),
            (0..16, WeightType::F32, usize::MAX, 4),
            (0..16, WeightType::F32, usize::MAX, usize::MAX),
            (0..16, WeightType::Q8_0, 1, 16),
        ] {
            let error = borrowed(range, dtype, rows, cols).expect_err("another shape");
            assert!(matches!(&error, WeightsError::Matrix { tensor, .. } if tensor == "w"), "{error}");
        }
    }

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
