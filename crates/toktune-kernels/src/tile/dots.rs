//! Products of rows with a few rows: vectors run along the depth, which both operands have side by side, so that nothing is
//! packed and no lane is empty, however few the rows of the right operand are.

use super::Vector;

/// The operands of a product `out[m, n] = scale a[m, k] b[n, k]ᵀ`.
#[derive(Clone, Copy)]
pub(crate) struct Dots {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Entry (i, l) is `a[i * a_row + l]`.
    pub(crate) a: *const f32,
    pub(crate) a_row: usize,
    /// Entry (j, l) is `b[j * b_row + l]`.
    pub(crate) b: *const f32,
    pub(crate) b_row: usize,
    /// Entry (i, j) is `out[i * out_row + j]`.
    pub(crate) out: *mut f32,
    pub(crate) out_row: usize,
    pub(crate) scale: f32,
}

/// Rows of the right operand in one tile.
const COLS: usize = 4;

/// The whole product in tiles of `ROWS` by [`COLS`] sums. An entry is one sum in one order, whichever tile it falls into: lane by
/// lane along the depth, then the lanes, then what fills no vector.
///
/// # Safety
/// As [`super::dots`], on a machine with the vectors of `V`.
#[inline(always)]
pub(super) unsafe fn dots_with<V: Vector, const ROWS: usize>(of: &Dots) {
    for row in (0..of.m).step_by(ROWS) {
        for col in (0..of.n).step_by(COLS) {
            // SAFETY: the tile lies inside the operands.
            unsafe {
                match of.m - row {
                    rest if rest >= ROWS => tile::<V, ROWS>(of, row, col),
                    rest => (row..row + rest).for_each(|row| tile::<V, 1>(of, row, col)),
                }
            }
        }
    }
}

/// One tile, at the last columns a narrower one.
///
/// # Safety
/// As [`dots_with`].
#[inline(always)]
unsafe fn tile<V: Vector, const M: usize>(of: &Dots, row: usize, col: usize) {
    let cols = COLS.min(of.n - col);
    let whole = of.k - of.k % V::LEN;
    // SAFETY: rows past the last column read the last one again, so that every address lies inside the operands; results of
    // those are not stored.
    unsafe {
        let mut left = [of.a; M];
        left.iter_mut().enumerate().for_each(|(i, at)| *at = of.a.add((row + i) * of.a_row));
        let mut right = [of.b; COLS];
        right.iter_mut().enumerate().for_each(|(j, at)| *at = of.b.add((col + j.min(cols - 1)) * of.b_row));
        let mut sums = [[V::zero(); COLS]; M];
        for at in (0..whole).step_by(V::LEN) {
            let mut x = [V::zero(); M];
            x.iter_mut().zip(&left).for_each(|(x, left)| *x = V::load(left.add(at)));
            for (j, right) in right.iter().enumerate() {
                let b = V::load(right.add(at));
                for (sums, x) in sums.iter_mut().zip(&x) {
                    sums[j] = sums[j].add_product(*x, b);
                }
            }
        }
        for (i, sums) in sums.into_iter().enumerate() {
            let mut totals = V::totals(sums);
            for (total, right) in totals.iter_mut().zip(&right) {
                for at in whole..of.k {
                    *total += *left[i].add(at) * *right.add(at);
                }
            }
            let out = of.out.add((row + i) * of.out_row + col);
            for (j, total) in totals.iter().take(cols).enumerate() {
                *out.add(j) = of.scale * total;
            }
        }
    }
}
