//! The register tile of an `f32` product: the innermost loops, written once over a [`Vector`] and compiled for each
//! instruction set.
//!
//! The left operand is read where it lies, with any strides; the right one is packed into panels `[n / cols][k][cols]`
//! ([`crate::pack`]), so that a step of the innermost loop loads a few neighbouring vectors, broadcasts one number a row
//! and does `rows * vectors` multiply-adds with everything else in registers.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dots;
mod portable;

pub(crate) use dots::{Dots, WeightRows};

use crate::isa::{Isa, Level};

/// A register of floats of some instruction set.
///
/// # Safety
/// The methods may only be called inside functions compiled for that instruction set, on a machine that has it.
trait Vector: Copy {
    /// Floats in a register.
    const LEN: usize;
    /// All zero.
    unsafe fn zero() -> Self;
    /// `LEN` floats from `at`, unaligned.
    unsafe fn load(at: *const f32) -> Self;
    /// `LEN` floats to `at`, unaligned.
    unsafe fn store(self, at: *mut f32);
    /// One float in every place.
    unsafe fn splat(at: *const f32) -> Self;
    /// `self + a * b`.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// `self + a`.
    unsafe fn add(self, a: Self) -> Self;
    /// `LEN` bf16 from `at`, unaligned.
    unsafe fn load_bf16(at: *const u8) -> Self;
    /// The sum of the floats, the upper half added to the lower one until one is left.
    unsafe fn sum(self) -> f32;
}

/// The operands of a product `out[m, n] (+)= a[m, k] b[k, n]`.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Entry (i, l) is `a[i * a_row + l * a_col]`.
    pub(crate) a: *const f32,
    pub(crate) a_row: usize,
    pub(crate) a_col: usize,
    /// Packed panels `[n / cols][k][cols]`, the last one padded; or rows of `n` as they lie.
    pub(crate) b: *const f32,
    /// How far apart rows that are not packed lie; `n` is whole vectors then.
    pub(crate) b_row: Option<usize>,
    /// Entry (i, j) is `out[i * out_row + j]`.
    pub(crate) out: *mut f32,
    pub(crate) out_row: usize,
    /// Add to what is in `out`.
    pub(crate) accumulate: bool,
}

/// Columns of a packed panel for an instruction set.
pub(crate) fn panel_cols(isa: Isa) -> usize {
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Amx => avx512::COLS,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::COLS,
        _ => portable::COLS,
    }
}

/// Floats in a vector of an instruction set.
pub(crate) fn vector_len(isa: Isa) -> usize {
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Amx => avx512::LEN,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::LEN,
        _ => portable::LEN,
    }
}

/// Runs a product. Each entry of the result is one sum over `k` in order.
///
/// # Safety
/// The machine has `isa`; `a` and `b` are readable and `out` writable as [`Operands`] says, `b` packed with the
/// [`panel_cols`] of `isa`, and nobody else touches the entries of `out`.
pub(crate) unsafe fn multiply(isa: Isa, of: &Operands) {
    // SAFETY: the caller's promise.
    unsafe {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Amx => avx512::multiply(of),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::multiply(of),
            _ => portable::multiply(of),
        }
    }
}

/// Runs a product of few rows. Each entry of the result is one sum whose order depends on the instruction set and the depth.
///
/// # Safety
/// The machine has `isa`; `x` has `m` rows of `k` floats, `out` is writable as [`Dots`] says, and nobody else touches its
/// entries.
pub(crate) unsafe fn dots(isa: Isa, of: &Dots<'_>) {
    assert!(of.x.len() >= of.m * of.k, "{} rows of {}", of.m, of.k);
    // SAFETY: the caller's promise.
    unsafe {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Amx => avx512::dots(of),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::dots(of),
            _ => portable::dots(of),
        }
    }
}

/// `M` rows by `N` vectors of the result, in registers over the whole depth.
///
/// # Safety
/// As [`multiply`], for this tile; `out` has room for whole vectors.
#[inline(always)]
unsafe fn tile<V: Vector, const M: usize, const N: usize>(
    of: &Operands,
    a: *const f32,
    mut b: *const f32,
    panel_cols: usize,
    out: *mut f32,
    out_row: usize,
    accumulate: bool,
) {
    // SAFETY: the caller's promise about the operands; every offset stays inside the tile.
    unsafe {
        let mut sums = [[V::zero(); N]; M];
        let mut rows = [a; M];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = a.add(i * of.a_row);
        }
        let mut at = 0;
        for _ in 0..of.k {
            let mut right = [V::zero(); N];
            for (j, right) in right.iter_mut().enumerate() {
                *right = V::load(b.add(j * V::LEN));
            }
            for (sums, row) in sums.iter_mut().zip(&rows) {
                let left = V::splat(row.add(at));
                for (sum, right) in sums.iter_mut().zip(&right) {
                    *sum = sum.add_product(left, *right);
                }
            }
            at += of.a_col;
            b = b.add(panel_cols);
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                let to = out.add(i * out_row + j * V::LEN);
                if accumulate { sum.add(V::load(to)).store(to) } else { sum.store(to) }
            }
        }
    }
}

/// Rows of the tallest tile of any instruction set, and floats in the widest.
const MOST: (usize, usize) = (8, 48);

/// A tile whose last vector reaches past the result: through a buffer.
///
/// # Safety
/// As [`tile`], but `out` needs room for `width` columns only.
#[inline(always)]
unsafe fn edge_tile<V: Vector, const M: usize, const N: usize>(
    of: &Operands,
    a: *const f32,
    b: *const f32,
    panel_cols: usize,
    out: *mut f32,
    width: usize,
) {
    let mut buffer = [0f32; MOST.0 * MOST.1];
    let row = N * V::LEN;
    // SAFETY: the buffer holds `M` rows of `N` vectors; only `width` columns of `out` are touched.
    unsafe {
        tile::<V, M, N>(of, a, b, panel_cols, buffer.as_mut_ptr(), row, false);
        for i in 0..M {
            for (j, value) in buffer[i * row..][..width].iter().enumerate() {
                let to = out.add(i * of.out_row + j);
                *to = if of.accumulate { *to + value } else { *value };
            }
        }
    }
}

/// [`tile`] or [`edge_tile`] for a run of `width` columns.
///
/// # Safety
/// As [`edge_tile`].
#[inline(always)]
unsafe fn sized_tile<V: Vector, const M: usize, const N: usize>(
    of: &Operands,
    a: *const f32,
    b: *const f32,
    panel_cols: usize,
    out: *mut f32,
    width: usize,
) {
    // SAFETY: passed on; whole vectors are stored directly only where the width is whole vectors.
    unsafe {
        if width == N * V::LEN {
            tile::<V, M, N>(of, a, b, panel_cols, out, of.out_row, of.accumulate);
        } else {
            edge_tile::<V, M, N>(of, a, b, panel_cols, out, width);
        }
    }
}

/// Picks the tile for `rows <= ROWS` rows. The arms above `ROWS` vanish when this is compiled.
///
/// # Safety
/// As [`edge_tile`].
#[inline(always)]
unsafe fn tile_of_rows<V: Vector, const ROWS: usize, const N: usize>(
    rows: usize,
    of: &Operands,
    a: *const f32,
    b: *const f32,
    panel_cols: usize,
    out: *mut f32,
    width: usize,
) {
    // SAFETY: passed on.
    unsafe {
        match rows {
            1 => sized_tile::<V, 1, N>(of, a, b, panel_cols, out, width),
            2 => sized_tile::<V, 2, N>(of, a, b, panel_cols, out, width),
            3 => sized_tile::<V, 3, N>(of, a, b, panel_cols, out, width),
            4 => sized_tile::<V, 4, N>(of, a, b, panel_cols, out, width),
            5 if ROWS > 4 => sized_tile::<V, 5, N>(of, a, b, panel_cols, out, width),
            6 if ROWS > 5 => sized_tile::<V, 6, N>(of, a, b, panel_cols, out, width),
            7 if ROWS > 6 => sized_tile::<V, 7, N>(of, a, b, panel_cols, out, width),
            8 if ROWS > 7 => sized_tile::<V, 8, N>(of, a, b, panel_cols, out, width),
            _ => {}
        }
    }
}

/// The whole product in tiles of at most `ROWS` rows and `VECTORS` vectors. A few rows of the left operand stay in the
/// first-level cache while the panels of the right one, which fit into the second, pass by: each row is read once, however
/// far away it lies.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn multiply_with<V: Vector, const ROWS: usize, const VECTORS: usize>(of: &Operands) {
    const { assert!(ROWS <= MOST.0 && VECTORS * V::LEN <= MOST.1 && VECTORS <= 3) }
    let panel_cols = VECTORS * V::LEN;
    for row in (0..of.m).step_by(ROWS) {
        let rows = ROWS.min(of.m - row);
        for col in (0..of.n).step_by(panel_cols) {
            let width = panel_cols.min(of.n - col);
            // SAFETY: the tile lies inside the operands.
            unsafe {
                let a = of.a.add(row * of.a_row);
                let (b, b_row) = match of.b_row {
                    None => (of.b.add(col * of.k), panel_cols),
                    Some(b_row) => (of.b.add(col), b_row),
                };
                let out = of.out.add(row * of.out_row + col);
                match width.div_ceil(V::LEN) {
                    1 => tile_of_rows::<V, ROWS, 1>(rows, of, a, b, b_row, out, width),
                    2 if VECTORS > 1 => tile_of_rows::<V, ROWS, 2>(rows, of, a, b, b_row, out, width),
                    3 if VECTORS > 2 => tile_of_rows::<V, ROWS, 3>(rows, of, a, b, b_row, out, width),
                    _ => {}
                }
            }
        }
    }
}
