//! Frozen weight matrices, read in the type they are stored in.
//!
//! A kernel never sees a whole matrix in `f32`: it asks a [`Matrix`] for a panel, uses it, and asks for the next.
//! This module owns the panels; the stored types are in [`WeightType`], a token matrix with trained rows over it in
//! `token_table`, the GGUF block formats in [`crate::blocks`].

use crate::Isa;
use crate::weight_type::WeightType;
use crate::{blocks, fp8};
use half::{bf16, f16};
use std::fmt;
use std::ops::Range;

mod token_table;

pub use token_table::TokenTable;

/// In which order the rows of a matrix lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// As they are numbered.
    Plain,
    /// As llama.cpp's converter stores the query and key projections of llama-family models: within each head of this
    /// many rows, the two halves are interleaved (row `t * half + j` lies at `2 * j + t`).
    Interleaved {
        /// Rows of one head; even.
        head_dim: usize,
    },
    /// As llama.cpp's converter stores a fused projection whose rows are grouped by the heads of keys (Falcon, BLOOM):
    /// the queries of all groups, then all keys, then all values, where a group's rows are numbered queries, key, value.
    Regrouped {
        /// Heads of keys.
        groups: usize,
        /// Rows of the queries of a group.
        queries: usize,
        /// Rows of a head.
        head_dim: usize,
    },
}

impl RowOrder {
    /// Where row `row` lies.
    pub fn stored(self, row: usize) -> usize {
        match self {
            RowOrder::Plain => row,
            RowOrder::Regrouped { groups, queries, head_dim } => {
                let size = queries + 2 * head_dim;
                let (group, within) = (row / size, row % size);
                match within.checked_sub(queries) {
                    None => group * queries + within,
                    Some(within) => {
                        // the keys first, the values behind them
                        let (of, at) = (within / head_dim, within % head_dim);
                        groups * queries + (of * groups + group) * head_dim + at
                    }
                }
            }
            RowOrder::Interleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let (t, j) = (within / (head_dim / 2), within % (head_dim / 2));
                head * head_dim + 2 * j + t
            }
        }
    }
}

/// Why bytes are not the matrix they are said to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WeightError {
    /// A row does not consist of whole blocks.
    PartialBlock {
        /// The stored type.
        dtype: WeightType,
        /// Weights in a row.
        cols: usize,
    },
    /// The bytes are more or fewer than the shape needs.
    Size {
        /// The bytes that the shape needs; `None` when that overflows.
        expected: Option<usize>,
        /// The bytes there are.
        found: usize,
    },
    /// There are not as many scales as the weights have blocks, or a block has no weights.
    Scales {
        /// Rows and columns of the matrix.
        shape: [usize; 2],
        /// Rows and columns of a block.
        block: [usize; 2],
        /// Scales that there are.
        found: usize,
    },
    /// The rows do not divide into heads of an even number of rows.
    Heads {
        /// Rows of the matrix.
        rows: usize,
        /// Rows of a head.
        head_dim: usize,
    },
    /// The rows are not so many groups of queries, a key and a value.
    Groups {
        /// Rows of the matrix.
        rows: usize,
        /// Groups there should be.
        groups: usize,
        /// Rows of the queries of a group.
        queries: usize,
        /// Rows of a head.
        head_dim: usize,
    },
}

impl fmt::Display for WeightError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WeightError::PartialBlock { dtype, cols } => {
                write!(
                    f,
                    "rows of {cols} weights are no whole number of {dtype} blocks of {}",
                    dtype.block_len()
                )
            }
            WeightError::Size { expected: Some(expected), found } => {
                write!(f, "expected {expected} bytes, found {found}")
            }
            WeightError::Size { expected: None, found } => {
                write!(f, "a shape too large for memory, in {found} bytes")
            }
            WeightError::Scales { shape, block, found } => {
                write!(f, "{found} scales for {shape:?} weights in blocks of {block:?}")
            }
            WeightError::Heads { rows, head_dim } => {
                write!(f, "{rows} rows are no whole number of heads of {head_dim}")
            }
            WeightError::Groups { rows, groups, queries, head_dim } => {
                write!(f, "{rows} rows are not {groups} groups of {queries} + 2 x {head_dim}")
            }
        }
    }
}

impl std::error::Error for WeightError {}

/// A frozen `[rows, cols]` matrix that decodes panels of itself.
pub trait Matrix: Sync {
    /// Rows (outputs of a linear layer, entries of a vocabulary).
    fn rows(&self) -> usize;

    /// Columns (inputs of a linear layer, width of an embedding).
    fn cols(&self) -> usize;

    /// Panels must begin at a multiple of this column, and end at one or at the last.
    fn column_unit(&self) -> usize;

    /// Writes `rows` x `cols` into `panel`, row-major without gaps: the same bits on every instruction set.
    ///
    /// Panics when the ranges are outside the matrix, off the column unit, or `panel` has another size.
    fn decode(&self, isa: Isa, rows: Range<usize>, cols: Range<usize>, panel: &mut [f32]);

    /// The type of the rows that [`Self::stored_row`] gives; `None` where it gives none.
    fn stored_type(&self) -> Option<WeightType> {
        None
    }

    /// Row `row` as it is stored, where it is shown as that; `None` for a row that was put over it, or has scales of its own.
    fn stored_row(&self, _row: usize) -> Option<StoredRow<'_>> {
        None
    }

    /// The bytes of [`Self::stored_row`] where that is bf16.
    fn bf16_row(&self, row: usize) -> Option<&[u8]> {
        self.stored_row(row).filter(|row| row.dtype == WeightType::BF16).map(|row| row.bytes)
    }
}

/// A row as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub struct StoredRow<'a> {
    /// The stored type.
    pub dtype: WeightType,
    /// Its bytes, little-endian.
    pub bytes: &'a [u8],
}

/// What the weights of an 8-bit type are multiplied with: one number for each block of rows and columns.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'a> {
    /// One for each block, row by row; blocks at the end may be cut off by the matrix.
    pub values: &'a [f32],
    /// Rows and columns of a block.
    pub block: [usize; 2],
    /// Rows of the first block that lie before the matrix, when that is a part of a larger one.
    pub skipped: usize,
}

impl Scales<'_> {
    /// Whether these are the scales of a matrix of this shape.
    fn fit(&self, rows: usize, cols: usize) -> bool {
        let Some(rows) = rows.checked_add(self.skipped) else { return false };
        let [height, width] = self.block;
        height > 0
            && width > 0
            && self.skipped < height
            && rows.div_ceil(height).checked_mul(cols.div_ceil(width)) == Some(self.values.len())
    }

    /// Multiplies columns of row `row` of a matrix of `width` columns, `first` being the first of them.
    fn apply(&self, row: usize, width: usize, first: usize, out: &mut [f32]) {
        let across = width.div_ceil(self.block[1]);
        let of_row = &self.values[(row + self.skipped) / self.block[0] * across..][..across];
        let mut at = first;
        let mut rest = out;
        while !rest.is_empty() {
            let end = (at / self.block[1] + 1) * self.block[1];
            let (part, behind) = rest.split_at_mut(rest.len().min(end - at));
            let scale = of_row[at / self.block[1]];
            part.iter_mut().for_each(|x| *x *= scale);
            (at, rest) = (end, behind);
        }
    }
}

/// A borrowed weight in its stored type.
#[derive(Clone, Copy, Debug)]
pub struct Weight<'a> {
    dtype: WeightType,
    data: &'a [u8],
    rows: usize,
    cols: usize,
    order: RowOrder,
    scales: Option<Scales<'a>>,
}

impl<'a> Weight<'a> {
    /// `data` as a row-major `[rows, cols]` matrix of `dtype`, little-endian, with no alignment asked for.
    ///
    /// # Errors
    /// The shape and the number of bytes disagree, a row ends inside a block, or `order` does not divide the rows.
    pub fn new(
        dtype: WeightType,
        data: &'a [u8],
        rows: usize,
        cols: usize,
        order: RowOrder,
    ) -> Result<Self, WeightError> {
        if !cols.is_multiple_of(dtype.block_len()) {
            return Err(WeightError::PartialBlock { dtype, cols });
        }
        let expected = dtype.bytes(rows, cols);
        if expected != Some(data.len()) {
            return Err(WeightError::Size { expected, found: data.len() });
        }
        if let RowOrder::Interleaved { head_dim } = order
            && (head_dim == 0 || head_dim % 2 != 0 || !rows.is_multiple_of(head_dim))
        {
            return Err(WeightError::Heads { rows, head_dim });
        }
        if let RowOrder::Regrouped { groups, queries, head_dim } = order {
            let size = head_dim.checked_mul(2).and_then(|heads| heads.checked_add(queries));
            if head_dim == 0 || size.and_then(|size| size.checked_mul(groups)) != Some(rows) {
                return Err(WeightError::Groups { rows, groups, queries, head_dim });
            }
        }
        Ok(Self { dtype, data, rows, cols, order, scales: None })
    }

    /// The same weight, multiplied with `scales`, block by block of its rows as they are stored.
    ///
    /// # Errors
    /// There are more or fewer scales than blocks, or a block is empty.
    pub fn scaled(self, scales: Scales<'a>) -> Result<Self, WeightError> {
        if !scales.fit(self.rows, self.cols) {
            let (shape, block) = ([self.rows, self.cols], scales.block);
            return Err(WeightError::Scales { shape, block, found: scales.values.len() });
        }
        Ok(Self { scales: Some(scales), ..self })
    }

    /// The stored type.
    pub fn dtype(&self) -> WeightType {
        self.dtype
    }
}

impl Matrix for Weight<'_> {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn column_unit(&self) -> usize {
        self.dtype.block_len()
    }

    fn decode(&self, isa: Isa, rows: Range<usize>, cols: Range<usize>, panel: &mut [f32]) {
        assert!(
            rows.end <= self.rows && cols.end <= self.cols,
            "{rows:?} x {cols:?} of {} x {}",
            self.rows,
            self.cols
        );
        assert_eq!(panel.len(), rows.len() * cols.len(), "the size of a panel");
        if cols.is_empty() {
            return;
        }
        let (block_len, block_bytes) = (self.dtype.block_len(), self.dtype.block_bytes());
        assert!(
            cols.start.is_multiple_of(block_len) && cols.end.is_multiple_of(block_len),
            "{cols:?} cuts a {} block",
            self.dtype
        );
        let row_bytes = self.cols / block_len * block_bytes;
        let within = cols.start / block_len * block_bytes..cols.end / block_len * block_bytes;
        for (out, row) in panel.chunks_exact_mut(cols.len()).zip(rows) {
            let row = self.order.stored(row);
            let stored = &self.data[row * row_bytes..][..row_bytes];
            decode_run(isa, self.dtype, &stored[within.clone()], out);
            if let Some(scales) = &self.scales {
                scales.apply(row, self.cols, cols.start, out);
            }
        }
    }

    fn stored_type(&self) -> Option<WeightType> {
        self.scales.is_none().then_some(self.dtype)
    }

    fn stored_row(&self, row: usize) -> Option<StoredRow<'_>> {
        let len = self.cols / self.dtype.block_len() * self.dtype.block_bytes();
        let bytes = &self.data[self.order.stored(row) * len..][..len];
        self.scales.is_none().then_some(StoredRow { dtype: self.dtype, bytes })
    }
}

/// Decodes a run of whole blocks.
fn decode_run(isa: Isa, dtype: WeightType, data: &[u8], out: &mut [f32]) {
    match dtype {
        WeightType::F32 => decode_f32(data, out),
        WeightType::F16 => decode_f16(data, out),
        WeightType::BF16 => decode_bf16(isa, data, out),
        WeightType::F8E4M3 => fp8::e4m3(isa, data, out),
        WeightType::F8E5M2 => fp8::e5m2(isa, data, out),
        _ => blocks::decode(isa, dtype, data, out),
    }
}

fn decode_f32(data: &[u8], out: &mut [f32]) {
    for (x, bytes) in out.iter_mut().zip(data.as_chunks::<4>().0) {
        *x = f32::from_le_bytes(*bytes);
    }
}

crate::isa::multiversion! {
    fn decode_bf16(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (x, bytes) in out.iter_mut().zip(data.as_chunks::<2>().0) {
            *x = f32::from_bits((u16::from_le_bytes(*bytes) as u32) << 16);
        }
    }
}

fn decode_f16(data: &[u8], out: &mut [f32]) {
    use half::slice::HalfFloatSliceExt;
    // `half` converts slices with the machine's own instruction where there is one, but wants aligned input.
    let mut aligned = [f16::ZERO; 64];
    for (out, data) in out.chunks_mut(64).zip(data.chunks(128)) {
        let aligned = &mut aligned[..out.len()];
        for (x, bytes) in aligned.iter_mut().zip(data.as_chunks::<2>().0) {
            *x = f16::from_le_bytes(*bytes);
        }
        aligned.convert_to_f32_slice(out);
    }
}

/// Rounds `f32` rows into `dtype`, for writing trained rows into a checkpoint: `F32`, `F16` and `BF16` to nearest even, `Q8_0`,
/// `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q4_K`, `Q5_K` and `Q6_K` as ggml's reference does, from finite numbers.
///
/// Returns `None` for the other types, which are not written, and for rows that end inside a block.
pub fn encode(dtype: WeightType, rows: &[f32]) -> Option<Vec<u8>> {
    match dtype {
        WeightType::F32 => Some(rows.iter().flat_map(|x| x.to_le_bytes()).collect()),
        WeightType::F16 => Some(rows.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()),
        WeightType::BF16 => Some(rows.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect()),
        _ => blocks::round(dtype, rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{each_isa, random};

    #[test]
    fn plain_types_decode_what_was_encoded() {
        each_isa(|isa| {
            for (rows, cols) in [(0, 4), (1, 1), (3, 65), (2, 128)] {
                let exact: Vec<f32> =
                    random(rows * cols, 3).iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
                for dtype in [WeightType::F32, WeightType::F16, WeightType::BF16] {
                    let data = encode(dtype, &exact).expect("a plain type");
                    let weight =
                        Weight::new(dtype, &data, rows, cols, RowOrder::Plain).expect("a valid weight");
                    let mut panel = vec![0.0; rows * cols];
                    weight.decode(isa, 0..rows, 0..cols, &mut panel);
                    for (got, expected) in panel.iter().zip(&exact) {
                        assert!((got - expected).abs() < 1e-4, "{isa} {dtype} {got} {expected}");
                    }
                }
            }
        });
    }

    #[test]
    fn a_table_shows_extra_and_trained_rows() {
        let base: Vec<f32> = (0..12).map(|x| x as f32).collect();
        let data = encode(WeightType::F32, &base).expect("a plain type");
        let weight = Weight::new(WeightType::F32, &data, 3, 4, RowOrder::Plain).expect("a valid weight");
        let (extra, values) = ([50.0f32; 8], [-1.0f32, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0]);
        let table = TokenTable::new(weight, &extra, &[(1, 1), (4, 0)], &values);
        assert_eq!((table.rows(), table.cols()), (5, 4));
        let mut all = vec![0.0; 20];
        table.decode(Isa::best(), 0..5, 0..4, &mut all);
        assert_eq!(&all[..4], &base[..4]);
        assert_eq!(&all[4..8], &values[4..]);
        assert_eq!(&all[8..12], &base[8..]);
        assert_eq!(&all[12..16], &extra[..4]);
        assert_eq!(&all[16..], &values[..4]);
        for start in 0..5 {
            for end in start..=5 {
                let mut part = vec![0.0; (end - start) * 2];
                table.decode(Isa::best(), start..end, 1..3, &mut part);
                let expected: Vec<f32> =
                    (start..end).flat_map(|r| all[r * 4 + 1..r * 4 + 3].to_vec()).collect();
                assert_eq!(part, expected, "rows {start}..{end}");
            }
        }
    }

    #[test]
    fn scales_belong_to_blocks_whatever_the_panel() {
        // 1.0 and 2.0 in E4M3
        let data: Vec<u8> = (0..35).map(|i| if i % 2 == 0 { 0x38 } else { 0x40 }).collect();
        let values: Vec<f32> = (0..6).map(|i| 10f32.powi(i)).collect();
        let whole = |skipped| {
            let weight = Weight::new(WeightType::F8E4M3, &data, 5, 7, RowOrder::Plain).expect("valid");
            weight.scaled(Scales { values: &values, block: [3, 3], skipped }).expect("valid")
        };
        for skipped in [0, 1] {
            let expected = |row: usize, col: usize| {
                let scale = values[(row + skipped) / 3 * 3 + col / 3];
                scale * if (row * 7 + col).is_multiple_of(2) { 1.0 } else { 2.0 }
            };
            for (rows, cols) in [(0..5, 0..7), (1..4, 2..7), (4..5, 5..6), (2..3, 3..3)] {
                let mut panel = vec![f32::NAN; rows.len() * cols.len()];
                whole(skipped).decode(Isa::best(), rows.clone(), cols.clone(), &mut panel);
                let wanted: Vec<f32> = rows
                    .flat_map(|row| cols.clone().map(move |col| (row, col)))
                    .map(|(r, c)| expected(r, c))
                    .collect();
                assert_eq!(panel, wanted);
            }
        }
        let weight = whole(0);
        for (count, block, skipped) in [(5, [3, 3], 0), (6, [0, 3], 0), (6, [3, 0], 0), (6, [3, 3], 3)] {
            let scales = Scales { values: &values[..count], block, skipped };
            let error = weight.scaled(scales).expect_err("no such scales");
            assert_eq!(error, WeightError::Scales { shape: [5, 7], block, found: count });
        }
    }

    #[test]
    fn interleaved_rows_are_found() {
        // two heads of four rows: stored 0 2 1 3 within each
        let order = RowOrder::Interleaved { head_dim: 4 };
        assert_eq!((0..8).map(|r| order.stored(r)).collect::<Vec<_>>(), [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn regrouped_rows_are_found() {
        // two groups of three rows of queries, a key and a value of two: q q q k k v v twice
        let order = RowOrder::Regrouped { groups: 2, queries: 3, head_dim: 2 };
        let stored: Vec<usize> = (0..14).map(|r| order.stored(r)).collect();
        assert_eq!(stored, [0, 1, 2, 6, 7, 10, 11, 3, 4, 5, 8, 9, 12, 13]);
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let refused = |dtype, bytes: usize, rows, cols, order| {
            Weight::new(dtype, &vec![0; bytes], rows, cols, order).expect_err("not a valid weight")
        };
        let plain = RowOrder::Plain;
        assert_eq!(
            refused(WeightType::Q4_0, 18, 1, 33, plain),
            WeightError::PartialBlock { dtype: WeightType::Q4_0, cols: 33 }
        );
        assert_eq!(
            refused(WeightType::F32, 7, 1, 2, plain),
            WeightError::Size { expected: Some(8), found: 7 }
        );
        assert_eq!(
            refused(WeightType::F32, 8, usize::MAX, 2, plain),
            WeightError::Size { expected: None, found: 8 }
        );
        assert_eq!(
            refused(WeightType::F32, 24, 3, 2, RowOrder::Interleaved { head_dim: 2 }),
            WeightError::Heads { rows: 3, head_dim: 2 }
        );
        for (groups, queries, head_dim) in [(2, 3, 2), (3, 1, 0), (1, usize::MAX, 1), (0, 1, 1)] {
            assert_eq!(
                refused(WeightType::F32, 24, 3, 2, RowOrder::Regrouped { groups, queries, head_dim }),
                WeightError::Groups { rows: 3, groups, queries, head_dim }
            );
        }
    }
}
