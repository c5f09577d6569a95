//! Rows of numbers as operands are packed from them: floats, or bf16 as it is stored.

use std::ops::Range;

/// Rows of numbers that are packed.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// To be rounded.
    Floats(FloatRows<'a>),
    /// The bytes of rows of bf16, little-endian, all of one length.
    Stored(&'a [&'a [u8]]),
}

/// Rows of floats in a matrix that may be wider.
#[derive(Clone, Copy)]
pub(crate) struct FloatRows<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) count: usize,
    pub(crate) width: usize,
}

impl<'a> FloatRows<'a> {
    /// `count` rows of `width`, `stride` from one to the next.
    ///
    /// Panics when they do not lie inside the data.
    pub(crate) fn new(data: &'a [f32], stride: usize, (count, width): (usize, usize)) -> Self {
        let end = count.checked_sub(1).map_or(0, |last| last * stride + width);
        assert!(end <= data.len(), "{count} rows of {width}, {stride} apart, in {}", data.len());
        Self { data, stride, count, width }
    }

    /// Rows of `width` without gaps.
    pub(crate) fn dense(data: &'a [f32], width: usize) -> Self {
        Self::new(data, width, (data.len().checked_div(width).unwrap_or(0), width))
    }

    /// Some of them.
    pub(crate) fn part(self, rows: Range<usize>) -> Self {
        let from = (rows.start * self.stride).min(self.data.len());
        Self::new(&self.data[from..], self.stride, (rows.len(), self.width))
    }

    /// The rows without what lies between them.
    pub(crate) fn iter(self) -> impl Iterator<Item = &'a [f32]> {
        (0..self.count).map(move |i| &self.data[i * self.stride..][..self.width])
    }
}

impl<'a> Rows<'a> {
    /// Rows of `width` floats without gaps.
    pub(crate) fn floats(data: &'a [f32], width: usize) -> Self {
        Self::Floats(FloatRows::dense(data, width))
    }

    /// Numbers in a row.
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::Floats(rows) => rows.width,
            Self::Stored(rows) => rows.first().map_or(0, |row| row.len() / 2),
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Floats(rows) => rows.count,
            Self::Stored(rows) => rows.len(),
        }
    }

    /// Some of them.
    pub(crate) fn part(self, rows: Range<usize>) -> Self {
        match self {
            Self::Floats(all) => Self::Floats(all.part(rows)),
            Self::Stored(all) => Self::Stored(&all[rows]),
        }
    }

    /// Panics when a stored row is shorter or longer than the first.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn check(&self) {
        if let Self::Stored(rows) = self {
            assert!(rows.iter().all(|row| row.len() == rows[0].len()), "rows of one length");
        }
    }

    /// The numbers, without gaps.
    pub(crate) fn decoded(self) -> Vec<f32> {
        let number = |bytes: &[u8; 2]| f32::from_bits((u16::from_le_bytes(*bytes) as u32) << 16);
        match self {
            Self::Floats(rows) => rows.iter().flatten().copied().collect(),
            Self::Stored(rows) => rows.iter().flat_map(|row| row.as_chunks::<2>().0).map(number).collect(),
        }
    }
}
