//! Products of a few rows with rows of a weight, both along the depth as they lie: a few sums in registers, nothing packed.

use super::Vector;

/// Rows of the left operand that share the reading of the weight's.
const ROWS: usize = 4;

/// The operands of `out[m, n] (+)= x[m, k] rows[n, k]ᵀ`.
#[derive(Clone, Copy)]
pub(crate) struct Dots<'a> {
    /// Rows of `k`, without gaps.
    pub(crate) x: &'a [f32],
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) rows: WeightRows<'a>,
    /// Entry (i, j) is `out[i * out_row + j]`.
    pub(crate) out: *mut f32,
    pub(crate) out_row: usize,
    /// Add to what is in `out`.
    pub(crate) add: bool,
}

/// Rows of a weight.
#[derive(Clone, Copy)]
pub(crate) enum WeightRows<'a> {
    /// `[n, k]`, without gaps.
    Floats(&'a [f32]),
    /// Each `k` bf16, anywhere.
    Bf16(&'a [&'a [u8]]),
}

impl WeightRows<'_> {
    /// How many there are.
    ///
    /// Panics when one of them has not `k` numbers.
    pub(crate) fn count(&self, k: usize) -> usize {
        match self {
            Self::Floats(rows) => {
                let n = rows.len().checked_div(k).unwrap_or(0);
                assert_eq!(rows.len(), n * k, "rows of {k}");
                n
            }
            Self::Bf16(rows) => {
                assert!(rows.iter().all(|row| row.len() == 2 * k), "rows of {k} bf16");
                rows.len()
            }
        }
    }
}

/// How the numbers of a row of a weight lie.
trait Numbers: Copy {
    /// Where row `row` begins.
    ///
    /// # Safety
    /// The row is there.
    unsafe fn row(self, row: usize) -> *const u8;
    /// A vector of numbers from `at` on.
    ///
    /// # Safety
    /// They are inside the row.
    unsafe fn load<V: Vector>(row: *const u8, at: usize) -> V;
    /// The number at `at`.
    ///
    /// # Safety
    /// It is inside the row.
    unsafe fn one(row: *const u8, at: usize) -> f32;
}

#[derive(Clone, Copy)]
struct Floats<'a>(&'a [f32], usize);

impl Numbers for Floats<'_> {
    #[inline(always)]
    unsafe fn row(self, row: usize) -> *const u8 {
        // SAFETY: the caller's promise; so for every method here and below.
        unsafe { self.0.as_ptr().add(row * self.1).cast() }
    }

    #[inline(always)]
    unsafe fn load<V: Vector>(row: *const u8, at: usize) -> V {
        // SAFETY: as above.
        unsafe { V::load(row.cast::<f32>().add(at)) }
    }

    #[inline(always)]
    unsafe fn one(row: *const u8, at: usize) -> f32 {
        // SAFETY: as above.
        unsafe { *row.cast::<f32>().add(at) }
    }
}

#[derive(Clone, Copy)]
struct Bf16<'a>(&'a [&'a [u8]]);

impl Numbers for Bf16<'_> {
    #[inline(always)]
    unsafe fn row(self, row: usize) -> *const u8 {
        // SAFETY: as above.
        unsafe { self.0.get_unchecked(row).as_ptr() }
    }

    #[inline(always)]
    unsafe fn load<V: Vector>(row: *const u8, at: usize) -> V {
        // SAFETY: as above.
        unsafe { V::load_bf16(row.add(2 * at)) }
    }

    #[inline(always)]
    unsafe fn one(row: *const u8, at: usize) -> f32 {
        // SAFETY: as above.
        let bits = unsafe { row.add(2 * at).cast::<[u8; 2]>().read() };
        f32::from_bits((u16::from_le_bytes(bits) as u32) << 16)
    }
}

/// Runs a product, `C` rows of the weight at a time. Each entry is one sum whose order depends on the depth alone.
///
/// # Safety
/// As [`super::dots`], inside a function compiled for the vector's instruction set.
#[inline(always)]
pub(super) unsafe fn dots_with<V: Vector, const C: usize>(of: &Dots<'_>) {
    let n = of.rows.count(of.k);
    // SAFETY: passed on; the rows were counted.
    unsafe {
        match of.rows {
            WeightRows::Floats(rows) => all::<V, _, C>(of, Floats(rows, of.k), n),
            WeightRows::Bf16(rows) => all::<V, _, C>(of, Bf16(rows), n),
        }
    }
}

/// # Safety
/// As [`dots_with`], for the `n` rows of `rows`.
#[inline(always)]
unsafe fn all<V: Vector, N: Numbers, const C: usize>(of: &Dots<'_>, rows: N, n: usize) {
    let mut col = 0;
    while col < n {
        let width = if n - col >= C { C } else { 1 };
        for row in (0..of.m).step_by(ROWS) {
            // SAFETY: passed on, for a block inside the result.
            unsafe {
                match (width == C, of.m - row) {
                    (true, 1) => block::<V, N, 1, C>(of, rows, row, col),
                    (true, 2) => block::<V, N, 2, C>(of, rows, row, col),
                    (true, 3) => block::<V, N, 3, C>(of, rows, row, col),
                    (true, _) => block::<V, N, ROWS, C>(of, rows, row, col),
                    (false, 1) => block::<V, N, 1, 1>(of, rows, row, col),
                    (false, 2) => block::<V, N, 2, 1>(of, rows, row, col),
                    (false, 3) => block::<V, N, 3, 1>(of, rows, row, col),
                    (false, _) => block::<V, N, ROWS, 1>(of, rows, row, col),
                }
            }
        }
        col += width;
    }
}

/// `R` rows by `C` columns of the result.
///
/// # Safety
/// As [`dots_with`], for this block.
#[inline(always)]
unsafe fn block<V: Vector, N: Numbers, const R: usize, const C: usize>(
    of: &Dots<'_>,
    rows: N,
    row: usize,
    col: usize,
) {
    let whole = of.k - of.k % V::LEN;
    // SAFETY: the caller's promise; every offset is below `k`.
    unsafe {
        let x = of.x.as_ptr().add(row * of.k);
        let mut from = [std::ptr::null(); C];
        for (j, from) in from.iter_mut().enumerate() {
            *from = rows.row(col + j);
        }
        let mut sums = [[V::zero(); C]; R];
        for at in (0..whole).step_by(V::LEN) {
            let mut right = [V::zero(); C];
            for (right, from) in right.iter_mut().zip(&from) {
                *right = N::load(*from, at);
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let left = V::load(x.add(i * of.k + at));
                for (sum, right) in sums.iter_mut().zip(&right) {
                    *sum = sum.add_product(left, *right);
                }
            }
        }
        // two loops: with the rest of the depth in the first one it is not unrolled, and the sums would live in memory
        let mut totals = [[0f32; C]; R];
        for (totals, sums) in totals.iter_mut().zip(&sums) {
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = sum.sum();
            }
        }
        for (i, totals) in totals.into_iter().enumerate() {
            for (j, mut total) in totals.into_iter().enumerate() {
                for at in whole..of.k {
                    total += *x.add(i * of.k + at) * N::one(from[j], at);
                }
                let to = of.out.add((row + i) * of.out_row + col + j);
                *to = if of.add { *to + total } else { total };
            }
        }
    }
}
