//! A slice that several threads write at once, each in places of its own, and per-thread scratch memory.

use std::cell::RefCell;
use std::marker::PhantomData;

/// A row-major matrix whose disjoint rectangles are written from different threads.
///
/// Rust's slices cannot be cut by columns, and tiles of a matrix product are rectangles.
pub(crate) struct SharedMatrix<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    _borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the only way to reach the data is `rectangle`, whose callers promise that no two threads touch the same
// entry; the exclusive borrow of the slice lasts as long as `'a`, so nobody else does either.
unsafe impl Sync for SharedMatrix<'_> {}

impl<'a> SharedMatrix<'a> {
    /// Panics when `data` does not hold `rows * cols` entries.
    pub(crate) fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} x {cols} matrix");
        Self { data: data.as_mut_ptr(), rows, cols, _borrow: PhantomData }
    }

    /// The rectangle that starts at (`row`, `col`), as a pointer with row stride [`Self::stride`].
    ///
    /// # Safety
    /// The caller writes within `height x width` only, and while it does so no other thread reads or writes there.
    pub(crate) unsafe fn rectangle(&self, row: usize, col: usize, height: usize, width: usize) -> *mut f32 {
        assert!(row + height <= self.rows && col + width <= self.cols, "a rectangle inside the matrix");
        // SAFETY: the assertion keeps the offset inside the allocation (or one past its end for an empty rectangle).
        unsafe { self.data.add(row * self.cols + col) }
    }

    /// Row `row`, columns from `col` on, `width` wide, as a slice.
    ///
    /// # Safety
    /// As for [`Self::rectangle`], for as long as the slice lives.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn row(&self, row: usize, col: usize, width: usize) -> &mut [f32] {
        // SAFETY: `rectangle` checks the bounds; the caller promises that nobody else uses these entries.
        unsafe { std::slice::from_raw_parts_mut(self.rectangle(row, col, 1, width), width) }
    }

    pub(crate) fn stride(&self) -> usize {
        self.cols
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with a buffer of `len` floats of arbitrary content that this thread keeps for the next call.
///
/// Allocating panels anew for every tile would have the system hand out and clear the same pages over and over.
pub(crate) fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SCRATCH.with(|pool| take_fitting(&mut pool.borrow_mut(), len));
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    let result = work(&mut buffer[..len]);
    SCRATCH.with(|pool| pool.borrow_mut().push(buffer));
    result
}

/// Cuts the first `len` floats off a buffer.
pub(crate) fn cut<'a>(room: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (first, rest) = std::mem::take(room).split_at_mut(len);
    *room = rest;
    first
}

/// Takes the smallest buffer that is large enough, else the largest to be grown: a small request that took a large buffer
/// would have every buffer grow to the largest request.
fn take_fitting(pool: &mut Vec<Vec<f32>>, len: usize) -> Vec<f32> {
    let fitting = pool.iter().enumerate().filter(|(_, b)| b.len() >= len).min_by_key(|(_, b)| b.len());
    let chosen = fitting.or_else(|| pool.iter().enumerate().max_by_key(|(_, b)| b.len())).map(|(at, _)| at);
    chosen.map_or_else(Vec::new, |at| pool.swap_remove(at))
}

/// Cuts `0..total` into equal pieces of at most `most`, in order; the bounds depend on the two numbers alone.
pub(crate) fn pieces(total: usize, most: usize) -> Vec<std::ops::Range<usize>> {
    let count = total.div_ceil(most.max(1));
    (0..count).map(|i| total * i / count..total * (i + 1) / count).collect()
}

/// [`pieces`] whose bounds, but the last, are multiples of `unit`; a piece is at least one unit.
pub(crate) fn aligned_pieces(total: usize, most: usize, unit: usize) -> Vec<std::ops::Range<usize>> {
    let cut = pieces(total.div_ceil(unit), (most / unit).max(1));
    cut.into_iter().map(|units| units.start * unit..(units.end * unit).min(total)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_everything_once() {
        assert!(pieces(0, 8).is_empty());
        for total in [1, 7, 8, 9, 1000] {
            let cut = pieces(total, 8);
            assert_eq!(
                cut.iter().flat_map(|r| r.clone()).collect::<Vec<_>>(),
                (0..total).collect::<Vec<_>>()
            );
            assert!(cut.iter().all(|r| !r.is_empty() && r.len() <= 8), "{cut:?}");
            let cut = aligned_pieces(total, 10, 4);
            assert!(cut.iter().all(|r| !r.is_empty() && r.len() <= 8 && r.start % 4 == 0), "{cut:?}");
            assert_eq!((cut[0].start, cut[cut.len() - 1].end), (0, total));
        }
    }
}
