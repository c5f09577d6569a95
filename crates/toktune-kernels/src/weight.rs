//! Frozen weight matrices, read in the type they are stored in.
//!
//! A kernel never sees a whole matrix in `f32`: it asks a [`Matrix`] for a panel, uses it, and asks for the next.
//! This module owns the types and the panels; the GGUF block formats are in [`crate::blocks`].

use crate::{blocks, fp8};
use half::{bf16, f16};
use std::fmt;
use std::ops::Range;

/// A type in which a frozen weight may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// GGUF: 32 4-bit weights with a scale.
    Q4_0,
    /// GGUF: 32 4-bit weights with a scale and a minimum.
    Q4_1,
    /// GGUF: 32 5-bit weights with a scale.
    Q5_0,
    /// GGUF: 32 5-bit weights with a scale and a minimum.
    Q5_1,
    /// GGUF: 32 8-bit weights with a scale.
    Q8_0,
    /// GGUF: 256 2-bit weights, sixteen 4-bit scales and minima.
    Q2K,
    /// GGUF: 256 3-bit weights, sixteen 6-bit scales.
    Q3K,
    /// GGUF: 256 4-bit weights, eight 6-bit scales and minima.
    Q4K,
    /// GGUF: 256 5-bit weights, eight 6-bit scales and minima.
    Q5K,
    /// GGUF: 256 6-bit weights, sixteen 8-bit scales.
    Q6K,
    /// GGUF: 256 weights by a table of 2048 times eight, eight 3-bit scales.
    Iq1S,
    /// GGUF: 256 weights by a table of 2048 times eight, sixteen 3-bit scales.
    Iq1M,
    /// GGUF: 256 weights by a table of 256 times eight, eight 4-bit scales.
    Iq2Xxs,
    /// GGUF: 256 weights by a table of 512 times eight, sixteen 4-bit scales.
    Iq2Xs,
    /// GGUF: 256 weights by a table of 1024 times eight, sixteen 4-bit scales.
    Iq2S,
    /// GGUF: 256 weights by a table of 256 times four, eight 4-bit scales.
    Iq3Xxs,
    /// GGUF: 256 weights by a table of 512 times four, eight 4-bit scales.
    Iq3S,
    /// GGUF: 32 weights by a table of 16, with a scale.
    Iq4Nl,
    /// GGUF: 256 weights by a table of 16, eight 6-bit scales.
    Iq4Xs,
    /// GGUF: 256 weights of three values, five in a byte, with a scale.
    Tq1_0,
    /// GGUF: 256 weights of three values, four in a byte, with a scale.
    Tq2_0,
    /// GGUF: 32 4-bit floats with a power of two.
    Mxfp4,
    /// 8-bit floats with three bits of mantissa, which need [`Scales`].
    F8E4M3,
    /// 8-bit floats with two bits of mantissa, which need [`Scales`].
    F8E5M2,
}

impl WeightType {
    /// Every type.
    pub const ALL: [WeightType; 27] = [
        WeightType::F32,
        WeightType::F16,
        WeightType::BF16,
        WeightType::Q4_0,
        WeightType::Q4_1,
        WeightType::Q5_0,
        WeightType::Q5_1,
        WeightType::Q8_0,
        WeightType::Q2K,
        WeightType::Q3K,
        WeightType::Q4K,
        WeightType::Q5K,
        WeightType::Q6K,
        WeightType::Iq1S,
        WeightType::Iq1M,
        WeightType::Iq2Xxs,
        WeightType::Iq2Xs,
        WeightType::Iq2S,
        WeightType::Iq3Xxs,
        WeightType::Iq3S,
        WeightType::Iq4Nl,
        WeightType::Iq4Xs,
        WeightType::Tq1_0,
        WeightType::Tq2_0,
        WeightType::Mxfp4,
        WeightType::F8E4M3,
        WeightType::F8E5M2,
    ];

    /// The types that a GGUF file can have: all but the 8-bit floats.
    pub const GGUF: &'static [WeightType] = WeightType::ALL.split_at(25).0;

    /// The name, weights in a block and bytes of a block.
    #[rustfmt::skip]
    const fn layout(self) -> (&'static str, usize, usize) {
        match self {
            WeightType::F32 => ("F32", 1, 4),
            WeightType::F16 => ("F16", 1, 2),
            WeightType::BF16 => ("BF16", 1, 2),
            WeightType::Q4_0 => ("Q4_0", 32, 18),
            WeightType::Q4_1 => ("Q4_1", 32, 20),
            WeightType::Q5_0 => ("Q5_0", 32, 22),
            WeightType::Q5_1 => ("Q5_1", 32, 24),
            WeightType::Q8_0 => ("Q8_0", 32, 34),
            WeightType::Q2K => ("Q2_K", 256, 84),
            WeightType::Q3K => ("Q3_K", 256, 110),
            WeightType::Q4K => ("Q4_K", 256, 144),
            WeightType::Q5K => ("Q5_K", 256, 176),
            WeightType::Q6K => ("Q6_K", 256, 210),
            WeightType::Iq1S => ("IQ1_S", 256, 50),
            WeightType::Iq1M => ("IQ1_M", 256, 56),
            WeightType::Iq2Xxs => ("IQ2_XXS", 256, 66),
            WeightType::Iq2Xs => ("IQ2_XS", 256, 74),
            WeightType::Iq2S => ("IQ2_S", 256, 82),
            WeightType::Iq3Xxs => ("IQ3_XXS", 256, 98),
            WeightType::Iq3S => ("IQ3_S", 256, 110),
            WeightType::Iq4Nl => ("IQ4_NL", 32, 18),
            WeightType::Iq4Xs => ("IQ4_XS", 256, 136),
            WeightType::Tq1_0 => ("TQ1_0", 256, 54),
            WeightType::Tq2_0 => ("TQ2_0", 256, 66),
            WeightType::Mxfp4 => ("MXFP4", 32, 17),
            WeightType::F8E4M3 => ("F8_E4M3", 1, 1),
            WeightType::F8E5M2 => ("F8_E5M2", 1, 1),
        }
    }

    /// Weights in a block; 1 for the plain types.
    pub const fn block_len(self) -> usize {
        self.layout().1
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.layout().2
    }

    /// Bytes of `rows` rows of `cols` weights; `None` when `cols` is no multiple of the block or the size overflows.
    pub fn bytes(self, rows: usize, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())?.checked_mul(rows)
    }

    /// The name GGUF and safetensors use (`F32`, `BF16`, `Q4_K`).
    pub const fn name(self) -> &'static str {
        self.layout().0
    }
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

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

    /// Writes `rows` x `cols` into `panel`, row-major without gaps.
    ///
    /// Panics when the ranges are outside the matrix, off the column unit, or `panel` has another size.
    fn decode(&self, rows: Range<usize>, cols: Range<usize>, panel: &mut [f32]);
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

    fn decode(&self, rows: Range<usize>, cols: Range<usize>, panel: &mut [f32]) {
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
            decode_run(self.dtype, &stored[within.clone()], out);
            if let Some(scales) = &self.scales {
                scales.apply(row, self.cols, cols.start, out);
            }
        }
    }
}

/// Decodes a run of whole blocks.
fn decode_run(dtype: WeightType, data: &[u8], out: &mut [f32]) {
    match dtype {
        WeightType::F32 => decode_f32(data, out),
        WeightType::F16 => decode_f16(data, out),
        WeightType::BF16 => decode_bf16(data, out),
        WeightType::F8E4M3 => fp8::e4m3(data, out),
        WeightType::F8E5M2 => fp8::e5m2(data, out),
        _ => blocks::decode(dtype, data, out),
    }
}

fn decode_f32(data: &[u8], out: &mut [f32]) {
    for (x, bytes) in out.iter_mut().zip(data.as_chunks::<4>().0) {
        *x = f32::from_le_bytes(*bytes);
    }
}

crate::isa::multiversion! {
    fn decode_bf16(data: &[u8], out: &mut [f32]) {
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

/// Rounds `f32` rows into `dtype` (`F32`, `F16` or `BF16`), to nearest even, for writing trained rows into a checkpoint.
///
/// Returns `None` for the other types, which are not written.
pub fn encode(dtype: WeightType, rows: &[f32]) -> Option<Vec<u8>> {
    match dtype {
        WeightType::F32 => Some(rows.iter().flat_map(|x| x.to_le_bytes()).collect()),
        WeightType::F16 => Some(rows.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()),
        WeightType::BF16 => Some(rows.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect()),
        _ => None,
    }
}

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

    fn decode(&self, rows: Range<usize>, cols: Range<usize>, panel: &mut [f32]) {
        assert_eq!(panel.len(), rows.len() * cols.len(), "the size of a panel");
        let (width, frozen) = (self.cols(), self.base.rows());
        let (start, end) = (rows.start.min(frozen), rows.end.min(frozen));
        let (in_base, in_extra) = panel.split_at_mut((end - start) * cols.len());
        self.base.decode(start..end, cols.clone(), in_base);
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
                    weight.decode(0..rows, 0..cols, &mut panel);
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
        table.decode(0..5, 0..4, &mut all);
        assert_eq!(&all[..4], &base[..4]);
        assert_eq!(&all[4..8], &values[4..]);
        assert_eq!(&all[8..12], &base[8..]);
        assert_eq!(&all[12..16], &extra[..4]);
        assert_eq!(&all[16..], &values[..4]);
        for start in 0..5 {
            for end in start..=5 {
                let mut part = vec![0.0; (end - start) * 2];
                table.decode(start..end, 1..3, &mut part);
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
                whole(skipped).decode(rows.clone(), cols.clone(), &mut panel);
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
