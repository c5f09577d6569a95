//! Packing of operands into the blocks of [`super`].
//!
//! Floats are rounded on the way; a weight that is stored in bf16 is only moved. Where the machine has AVX-512 that is shuffling of
//! whole vectors (`avx512.rs`); the loops here are for everything else and say what is meant.

#[cfg(target_arch = "x86_64")]
mod avx512;

use super::{BLOCK, DEPTH, SIDE, round};
use crate::Isa;
use crate::isa::multiversion;
use crate::operand::{FloatRows, Rows};

/// Packs a block of at most [`SIDE`] rows of a left operand; `out` holds the whole block.
pub(crate) fn pack_left(isa: Isa, rows: FloatRows<'_>, out: &mut [u16]) {
    assert!(rows.count <= SIDE && out.len() >= rows.width.next_multiple_of(DEPTH) * SIDE, "a block of rows");
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx512_bf16() {
        // SAFETY: the machine has the instructions.
        return unsafe { avx512::pack_left(rows, out) };
    }
    plain_left(isa, rows, out);
}

/// Packs a left operand `[m, k]` from its transpose, `rows [k, m]`; `out` is the whole of it.
pub(crate) fn pack_left_transposed(isa: Isa, rows: FloatRows<'_>, out: &mut [u16]) {
    let (k, m) = (rows.count, rows.width);
    let out = &mut out[..super::left_len(m, k)];
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx512_bf16() {
        // SAFETY: the machine has the instructions.
        return unsafe { avx512::pack_left_transposed(rows, out) };
    }
    out.fill(0);
    for (l, row) in rows.iter().enumerate() {
        for (i, x) in row.iter().enumerate() {
            let block = i / SIDE * super::left_stride(k) + l / DEPTH * BLOCK;
            out[block + i % SIDE * DEPTH + l % DEPTH] = round(*x);
        }
    }
}

/// Packs a block of at most [`SIDE`] columns of a right operand, given as the rows of its transpose, `rows [width, k]`; `out`
/// holds the whole block.
pub(crate) fn pack_right_transposed(isa: Isa, rows: Rows<'_>, out: &mut [u16]) {
    assert!(rows.count() <= SIDE && out.len() >= rows.width().next_multiple_of(DEPTH) * SIDE, "a block");
    #[cfg(target_arch = "x86_64")]
    if let Some(rows) = avx512::Readable::new(isa, rows) {
        // SAFETY: the machine has the instructions to read these rows.
        return unsafe { avx512::pack_right_transposed(rows, out) };
    }
    out.fill(0);
    plain_right_transposed(isa, &rows.decoded(), rows.width(), out);
}

/// Packs some depth of a right operand, `rows [depth, n]`, that begins at depth `at` (a multiple of [`DEPTH`]) of `k`; `out` is
/// the whole packed operand.
pub(crate) fn pack_right(isa: Isa, rows: Rows<'_>, at: usize, k: usize, out: &mut [u16]) {
    let (n, height) = (rows.width(), rows.count());
    assert!(at.is_multiple_of(DEPTH) && at + height <= k, "{height} rows at {at} of {k}");
    assert!(out.len() >= super::packed_len(n, k), "room for {k} x {n}");
    #[cfg(target_arch = "x86_64")]
    if let Some(rows) = avx512::Readable::new(isa, rows) {
        // SAFETY: the machine has the instructions to read these rows.
        return unsafe { avx512::pack_right(rows, at, k, out) };
    }
    plain_right(isa, &rows.decoded(), n, at, k, out);
}

multiversion! {
    /// [`pack_left`], one number after the other.
    fn plain_left(isa: Isa, rows: FloatRows<'_>, out: &mut [u16]) {
        let blocks = rows.width.div_ceil(DEPTH);
        for (i, row) in rows.iter().enumerate() {
            for (block, x) in row.chunks(DEPTH).enumerate() {
                let to = &mut out[block * BLOCK + i * DEPTH..][..DEPTH];
                for (to, x) in to.iter_mut().zip(x) {
                    *to = round(*x);
                }
                to[x.len()..].fill(0);
            }
        }
        for block in 0..blocks {
            out[block * BLOCK + rows.count * DEPTH..(block + 1) * BLOCK].fill(0);
        }
    }
}

multiversion! {
    /// [`pack_right_transposed`] into zeros, one number after the other.
    fn plain_right_transposed(isa: Isa, rows: &[f32], k: usize, out: &mut [u16]) {
        for (j, row) in rows.chunks_exact(k.max(1)).enumerate() {
            for (block, x) in row.chunks(DEPTH).enumerate() {
                let to = &mut out[block * BLOCK..][..BLOCK];
                for (l, x) in x.iter().enumerate() {
                    to[l / 2 * (2 * SIDE) + 2 * j + l % 2] = round(*x);
                }
            }
        }
    }
}

multiversion! {
    /// [`pack_right`], one number after the other.
    fn plain_right(isa: Isa, rows: &[f32], n: usize, at: usize, k: usize, out: &mut [u16]) {
        let blocks = k.div_ceil(DEPTH);
        for (block, rows) in rows.chunks(DEPTH * n.max(1)).enumerate() {
            for first in (0..n.next_multiple_of(2 * SIDE)).step_by(SIDE) {
                let start = (first / SIDE * blocks + at / DEPTH + block) * BLOCK;
                let (to, width) = (&mut out[start..][..BLOCK], SIDE.min(n.saturating_sub(first)));
                if width < SIDE || rows.len() < DEPTH * n {
                    to.fill(0);
                }
                if width == 0 {
                    continue;
                }
                for (pair, to) in rows.chunks(2 * n).zip(to.chunks_exact_mut(2 * SIDE)) {
                    let (even, odd) = pair.split_at(n);
                    for (to, x) in to.chunks_exact_mut(2).zip(&even[first..][..width]) {
                        to[0] = round(*x);
                    }
                    if !odd.is_empty() {
                        for (to, x) in to.chunks_exact_mut(2).zip(&odd[first..][..width]) {
                            to[1] = round(*x);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bf16::{left_len, left_stride, packed_len};
    use crate::testing::{each_isa, random};
    use crate::weight::encode;
    use crate::weight_type::WeightType;

    /// `(width, depth)` below, on and above the blocks.
    const SIZES: [(usize, usize); 9] =
        [(1, 1), (3, 31), (16, 32), (15, 33), (32, 64), (33, 65), (48, 96), (70, 100), (40, 1)];

    /// What is packed, from the rows of the transpose `[n, k]`.
    fn expected(rows: &[f32], n: usize, k: usize) -> Vec<u16> {
        let mut out = vec![0; packed_len(n, k)];
        let blocks = k.div_ceil(DEPTH);
        for (j, l) in (0..n).flat_map(|j| (0..k).map(move |l| (j, l))) {
            let block = (j / SIDE * blocks + l / DEPTH) * BLOCK;
            out[block + l % DEPTH / 2 * (2 * SIDE) + 2 * (j % SIDE) + l % 2] = round(rows[j * k + l]);
        }
        out
    }

    fn transposed(rows: &[f32], n: usize, k: usize) -> Vec<f32> {
        (0..k * n).map(|at| rows[at % n * k + at / n]).collect()
    }

    /// Packs both ways, from floats and from stored bf16, in one part and in two.
    #[test]
    fn every_way_packs_the_same_blocks() {
        each_isa(|isa| {
            for (n, k) in SIZES {
                let rows: Vec<f32> = random(n * k, 1);
                let exact: Vec<f32> = rows.iter().map(|x| f32::from_bits((round(*x) as u32) << 16)).collect();
                let turned = transposed(&exact, n, k);
                let bytes = [&exact, &turned].map(|x| encode(WeightType::BF16, x).expect("a plain type"));
                let stored: Vec<&[u8]> = bytes[0].chunks_exact(2 * k).collect();
                let turned_stored: Vec<&[u8]> = bytes[1].chunks_exact(2 * n).collect();
                let expected = expected(&rows, n, k);
                let block = k.next_multiple_of(DEPTH) * SIDE;
                for source in [Rows::floats(&rows, k), Rows::Stored(&stored)] {
                    let mut out = vec![u16::MAX; packed_len(n, k)];
                    for (j, out) in out.chunks_exact_mut(block).enumerate() {
                        let part = (j * SIDE).min(n)..((j + 1) * SIDE).min(n);
                        if part.is_empty() {
                            out.fill(0); // a second block that has no columns is the caller's
                        } else {
                            pack_right_transposed(isa, source.part(part), out);
                        }
                    }
                    assert!(out == expected, "{isa} {n}x{k}: transposed");
                }
                let rounded_late = transposed(&rows, n, k);
                for source in [Rows::floats(&rounded_late, n), Rows::Stored(&turned_stored)] {
                    let mut out = vec![u16::MAX; packed_len(n, k)];
                    let half = (k / 2).next_multiple_of(DEPTH).min(k);
                    for part in [0..half, half..k].into_iter().filter(|part| !part.is_empty()) {
                        pack_right(isa, source.part(part.clone()), part.start, k, &mut out);
                    }
                    assert!(out == expected, "{isa} {n}x{k}: rows");
                }
            }
        });
    }

    /// Rows in a wider matrix, as rows and as the rows of the transpose.
    #[test]
    fn left_blocks_hold_rows() {
        each_isa(|isa| {
            for (m, k) in [(1, 1), (16, 32), (5, 33), (15, 100), (16, 64), (0, 40), (40, 33), (64, 128)] {
                let rows = random(m * k, 1);
                let stride = left_stride(k);
                let expected = |at: usize| {
                    let (i, l) =
                        (at / stride * SIDE + at % BLOCK / DEPTH, at % stride / BLOCK * DEPTH + at % DEPTH);
                    if i < m && l < k { round(rows[i * k + l]) } else { 0 }
                };
                let is_data = |at: &usize| at % stride < k.next_multiple_of(DEPTH) * SIDE;
                let wide: Vec<f32> = rows.chunks(k).flat_map(|row| [row, &[7.0; 3]].concat()).collect();
                let mut out = vec![u16::MAX; left_len(m, k)];
                for (block, out) in out.chunks_exact_mut(stride).enumerate() {
                    let (first, last) = ((block * SIDE).min(m), ((block + 1) * SIDE).min(m));
                    let rows = FloatRows::new(&wide[first * (k + 3)..], k + 3, (last - first, k));
                    pack_left(isa, rows, out);
                }
                for at in (0..out.len()).filter(is_data) {
                    assert_eq!(out[at], expected(at), "{isa} {m}x{k} at {at}");
                }
                let turned = transposed(&rows, m, k);
                let wide: Vec<f32> =
                    turned.chunks(m.max(1)).flat_map(|row| [row, &[7.0; 3]].concat()).collect();
                let mut out = vec![u16::MAX; left_len(m, k)];
                pack_left_transposed(
                    isa,
                    FloatRows::new(&wide, m + 3, (if m == 0 { 0 } else { k }, m)),
                    &mut out,
                );
                for at in (0..out.len()).filter(is_data) {
                    assert_eq!(out[at], expected(at), "{isa} {m}x{k} transposed at {at}");
                }
            }
        });
    }
}
