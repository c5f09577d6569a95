//! Products of bf16 operands with `f32` sums: how operands are packed, and the tiles that multiply them.
//!
//! Both operands are packed into blocks that are one AMX tile each, 1 KiB, one after the other along the depth:
//!
//! ```text
//! left   [m / 16][k / 32 | 1][16 rows][32]              a row of a block is a row of the operand
//! right  [n / 16][k / 32][16 pairs of depth][16][2]     what VDPBF16PS and TDPBF16PS take as their second operand
//! ```
//!
//! padded with zeros to an even number of blocks of rows and columns and to whole blocks of depth. The AVX512-BF16 tiles
//! read the same layout.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod pack;

pub(crate) use pack::{pack_left, pack_left_transposed, pack_right, pack_right_transposed};

use crate::Isa;
use crate::isa::{Level, multiversion};

/// Numbers of depth in a block.
pub(crate) const DEPTH: usize = 32;

/// Rows of a left block, columns of a right one.
pub(crate) const SIDE: usize = 16;

/// Numbers in a block.
const BLOCK: usize = SIDE * DEPTH;

/// The instructions that multiply bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// VDPBF16PS.
    Avx512,
    /// TDPBF16PS.
    Amx,
}

/// The best bf16 instructions of an instruction set that this machine has.
pub(crate) fn engine(isa: Isa) -> Option<Engine> {
    match isa.level() {
        Level::Amx => Some(Engine::Amx),
        _ if isa.has_bf16() => Some(Engine::Avx512),
        _ => None,
    }
}

/// The operands of a product of packed blocks, `out[m, n] (+)= left right`.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    pub(crate) m: usize,
    pub(crate) n: usize,
    /// Blocks of depth.
    pub(crate) blocks: usize,
    /// First block of the left operand, and numbers from one block of rows to the next.
    pub(crate) left: *const u16,
    pub(crate) left_stride: usize,
    /// The same for the right operand.
    pub(crate) right: *const u16,
    pub(crate) right_stride: usize,
    /// Entry (i, j) is `out[i * out_row + j]`.
    pub(crate) out: *mut f32,
    pub(crate) out_row: usize,
    /// Add to what is in `out`.
    pub(crate) accumulate: bool,
}

/// Runs a product.
///
/// # Safety
/// `engine` came from [`engine`]; the blocks are readable, padding included, and `out` is writable as [`Operands`]
/// says, and nobody else touches its entries.
pub(crate) unsafe fn multiply(engine: Engine, of: &Operands) {
    // SAFETY: the caller's promise.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        match engine {
            Engine::Amx => amx::multiply(of),
            Engine::Avx512 => avx512::multiply(of),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("no {engine:?} for {} x {} on this architecture", of.m, of.n);
}

/// The operands of a product of few rows with rows of a weight as they lie, `out[m, n] (+)= x rowsᵀ`.
#[derive(Clone, Copy)]
pub(crate) struct Streamed<'a> {
    /// Rows of `k`, each padded with zeros to a multiple of [`DEPTH`].
    pub(crate) x: &'a [u16],
    pub(crate) m: usize,
    pub(crate) k: usize,
    /// The bytes of each of the `n` rows, `k` numbers.
    pub(crate) rows: &'a [&'a [u8]],
    /// Entry (i, j) is `out[i * out_row + j]`.
    pub(crate) out: *mut f32,
    pub(crate) out_row: usize,
    /// Add to what is in `out`.
    pub(crate) add: bool,
}

/// Runs a product of few rows. Each entry is one sum whose order depends on the depth alone.
///
/// # Safety
/// The machine has AVX512-BF16; `out` is writable as [`Streamed`] says, and nobody else touches its entries.
pub(crate) unsafe fn stream(of: &Streamed<'_>) {
    assert!(of.x.len() >= of.m * of.k.next_multiple_of(DEPTH), "{} rows of {}", of.m, of.k);
    assert!(of.rows.iter().all(|row| row.len() == 2 * of.k), "rows of {} bf16", of.k);
    // SAFETY: the caller's promise; the lengths were checked.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        avx512::stream(of);
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("no AVX512-BF16 for {} rows on this architecture", of.m);
}

/// Numbers that a right operand of `cols` columns of `depth` takes when packed.
pub(crate) fn packed_len(cols: usize, depth: usize) -> usize {
    cols.next_multiple_of(2 * SIDE) * depth.next_multiple_of(DEPTH)
}

/// Numbers from one block of rows of a packed left operand of `depth` to the next: an odd number of blocks, so that the same
/// depth of many rows does not fall into a few sets of the caches.
pub(crate) fn left_stride(depth: usize) -> usize {
    (depth.div_ceil(DEPTH) | 1) * BLOCK
}

/// Numbers that a left operand of `rows` takes when packed.
pub(crate) fn left_len(rows: usize, depth: usize) -> usize {
    rows.div_ceil(2 * SIDE) * 2 * left_stride(depth)
}

/// `x` rounded to bf16, to nearest even; NaN stays NaN.
#[inline(always)]
fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded }
}

multiversion! {
    /// Replaces each number by the nearest bf16.
    pub(crate) fn round_all(isa: Isa, row: &mut [f32]) {
        for x in row {
            *x = f32::from_bits((round(*x) as u32) << 16);
        }
    }
}

multiversion! {
    /// Rounds numbers into a longer row, whose rest becomes zero.
    pub(crate) fn round_into(isa: Isa, from: &[f32], to: &mut [u16]) {
        let (to, rest) = to.split_at_mut(from.len());
        for (to, x) in to.iter_mut().zip(from) {
            *to = round(*x);
        }
        rest.fill(0);
    }
}

/// A buffer of floats as room for bf16.
pub(crate) fn as_bf16(floats: &mut [f32]) -> &mut [u16] {
    // SAFETY: every pair of u16 is a float's worth of plain memory, aligned more strictly than they need.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), 2 * floats.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operand::{FloatRows, Rows};
    use crate::testing::{assert_close, each_isa, random};

    /// The product of packed operands, one number at a time.
    fn reference(of: &Operands, left: &[u16], right: &[u16]) -> Vec<f64> {
        let number = |x: u16| f32::from_bits((x as u32) << 16) as f64;
        let (m, n) = (of.m, of.n);
        let at = |row: usize, l: usize| (row / SIDE * of.blocks + l / DEPTH) * BLOCK;
        (0..m * n)
            .map(|e| {
                let (i, j) = (e / n, e % n);
                (0..of.blocks * DEPTH)
                    .map(|l| {
                        let a = number(left[at(i, l) + i % SIDE * DEPTH + l % DEPTH]);
                        let within = l % DEPTH / 2 * (2 * SIDE) + 2 * (j % SIDE) + l % 2;
                        a * number(right[at(j, l) + within])
                    })
                    .sum()
            })
            .collect()
    }

    const SIZES: [(usize, usize, usize); 9] = [
        (1, 1, 1),
        (5, 3, 31),
        (16, 16, 32),
        (17, 33, 33),
        (32, 32, 64),
        (40, 70, 100),
        (65, 48, 130),
        (9, 96, 40),
        (7, 112, 33),
    ];

    #[test]
    fn packed_products_match_the_f64_product_of_the_rounded_operands() {
        each_isa(|isa| {
            for (m, n, k) in SIZES {
                let (a, b) = (random(m * k, 1), random(n * k, 2));
                let mut left = vec![u16::MAX; packed_len(m, k)];
                let block = k.next_multiple_of(DEPTH) * SIDE;
                for (i, out) in left.chunks_exact_mut(block).enumerate() {
                    let rows = &a[(i * SIDE * k).min(m * k)..((i + 1) * SIDE * k).min(m * k)];
                    pack_left(isa, FloatRows::dense(rows, k), out);
                }
                let mut right = vec![u16::MAX; packed_len(n, k)];
                for (j, out) in right.chunks_exact_mut(block).enumerate() {
                    let data = &b[(j * SIDE * k).min(n * k)..((j + 1) * SIDE * k).min(n * k)];
                    pack_right_transposed(isa, Rows::floats(data, k), out);
                }

                let mut out = vec![0.5f32; m * n];
                let blocks = k.div_ceil(DEPTH);
                for accumulate in [false, true] {
                    let of = Operands {
                        m,
                        n,
                        blocks,
                        left: left.as_ptr(),
                        left_stride: block,
                        right: right.as_ptr(),
                        right_stride: block,
                        out: out.as_mut_ptr(),
                        out_row: n,
                        accumulate,
                    };
                    let expected = reference(&of, &left, &right);
                    let exact: Vec<f64> = (0..m * n)
                        .map(|e| (0..k).map(|l| a[e / n * k + l] as f64 * b[e % n * k + l] as f64).sum())
                        .collect();
                    let largest = expected.iter().zip(&exact).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
                    assert!(largest <= 0.02 * (k as f64).sqrt(), "{isa} {m}x{n}x{k}: rounding {largest}");
                    if let Some(engine) = engine(isa) {
                        // SAFETY: the engine is this machine's, the operands are whole vectors.
                        unsafe { multiply(engine, &of) };
                        let times = if accumulate { 2.0 } else { 1.0 };
                        let expected: Vec<f64> = expected.iter().map(|x| x * times).collect();
                        assert_close(&out, &expected, 1e-5, &format!("{isa} {m}x{n}x{k} {accumulate}"));
                    }
                }
            }
        });
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        for (x, expected) in [(1.0, 0x3f80), (f32::from_bits(0x3f80_8000), 0x3f80), (-0.0, 0x8000)] {
            assert_eq!(round(x), expected);
        }
        assert_eq!(round(f32::from_bits(0x3f81_8000)), 0x3f82);
        assert_eq!(round(f32::MAX), 0x7f80); // to infinity, as hardware and torch do
        assert!(half::bf16::from_bits(round(f32::NAN)).is_nan());
        let mut row = random(100, 1);
        let expected: Vec<f32> = row.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
        round_all(Isa::best(), &mut row);
        assert_eq!(row, expected);
    }
}
