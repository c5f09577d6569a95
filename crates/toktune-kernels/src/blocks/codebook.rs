//! The GGUF formats whose numbers stand for entries of a table: of single weights in `IQ4` and `MXFP4`, of four or
//! eight weights at once, with their signs apart, in the other `IQ` formats.

use super::{bytes_at, grids, half_at, nibbles};
use crate::isa::multiversion;

/// What the 4-bit numbers of `IQ4_NL` and `IQ4_XS` stand for.
const IQ4: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

/// What the 4-bit numbers of `MXFP4` stand for, doubled.
const E2M1: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

static IQ1_S: [[i8; 8]; 2048] = eights(&grids::IQ1_S, [-1, 0, 1]);
static IQ2_XXS: [[i8; 8]; 256] = eights(&grids::IQ2_XXS, [8, 25, 43]);
static IQ2_XS: [[i8; 8]; 512] = eights(&grids::IQ2_XS, [8, 25, 43]);
static IQ2_S: [[i8; 8]; 1024] = eights(&grids::IQ2_S, [8, 25, 43]);
static IQ3_XXS: [[i8; 4]; 256] = fours(&grids::IQ3_XXS, [4, 12, 20, 28, 36, 44, 52, 62]);
static IQ3_S: [[i8; 4]; 512] = fours(&grids::IQ3_S, [1, 3, 5, 7, 9, 11, 13, 15]);

/// The entries of a table of eight weights, each of one of three values.
const fn eights<const N: usize>(packed: &[u16; N], values: [i8; 3]) -> [[i8; 8]; N] {
    let mut out = [[0; 8]; N];
    let mut at = 0;
    while at < 8 * N {
        out[at / 8][at % 8] = values[(packed[at / 8] >> (2 * (at % 8)) & 3) as usize];
        at += 1;
    }
    out
}

/// The entries of a table of four weights, each of one of eight values.
const fn fours<const N: usize>(packed: &[u16; N], values: [i8; 8]) -> [[i8; 4]; N] {
    let mut out = [[0; 4]; N];
    let mut at = 0;
    while at < 4 * N {
        out[at / 4][at % 4] = values[(packed[at / 4] >> (4 * (at % 4)) & 15) as usize];
        at += 1;
    }
    out
}

/// The number of two bytes at `at`.
#[inline(always)]
fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(*bytes_at(block, at))
}

/// The number of four bytes at `at`.
#[inline(always)]
fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes_at(block, at))
}

/// Half-byte `i` of the bytes from `at`.
#[inline(always)]
fn nibble_at(block: &[u8], at: usize, i: usize) -> u8 {
    block[at + i / 2] >> (4 * (i % 2)) & 15
}

/// The signs of eight weights from seven: their number is even.
#[inline(always)]
fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | ((seven.count_ones() & 1) as u8) << 7
}

/// `N` weights of a table, negative where `signs` has a bit.
#[inline(always)]
fn signed<const N: usize>(out: &mut [f32; N], entry: &[i8; N], signs: u8, scale: f32) {
    for i in 0..N {
        let negative = (signs as u32 >> i & 1) << 31;
        out[i] = f32::from_bits((scale * entry[i] as f32).to_bits() ^ negative);
    }
}

multiversion! {
    up to avx2:
    /// Scale, 16 bytes as in `Q4_0` of indices.
    pub(super) fn iq4_nl(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<18>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let (d, q) = (half_at(block, 0), nibbles(bytes_at(block, 2)));
            for i in 0..32 {
                out[i] = d * IQ4[q[i] as usize & 15];
            }
        }
    }
}

multiversion! {
    up to avx2:
    /// Scale, the two high and the four low bits of eight scales less 32, then 16 bytes as in `iq4_nl` for each.
    pub(super) fn iq4_xs(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<136>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let (d, high) = (half_at(block, 0), u16_at(block, 2));
            for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let scale = nibble_at(block, 4, group) as i32 | ((high >> (2 * group) & 3) as i32) << 4;
                let (d, q) = (d * (scale - 32) as f32, nibbles(bytes_at(block, 8 + 16 * group)));
                for i in 0..32 {
                    out[i] = d * IQ4[q[i] as usize & 15];
                }
            }
        }
    }
}

multiversion! {
    up to avx2:
    /// Exponent of a power of two, 16 bytes as in `Q4_0` of 4-bit floats.
    pub(super) fn mxfp4(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<17>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            // half of the power, for the floats are doubled; the two least of them are no normal numbers
            let exponent = block[0] as u32;
            let bits = if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 };
            let (d, q) = (f32::from_bits(bits), nibbles(bytes_at(block, 1)));
            for i in 0..32 {
                out[i] = d * E2M1[q[i] as usize & 15];
            }
        }
    }
}

multiversion! {
    up to avx2:
    /// Scale; for each 32 weights four indices of eight weights, and 32 bits: four times seven signs, a scale.
    pub(super) fn iq2_xxs(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<66>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = half_at(block, 0);
            for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let indices = bytes_at::<4>(block, 2 + 8 * group);
                let signs = u32_at(block, 6 + 8 * group);
                let scale = d * (0.5 + (signs >> 28) as f32) * 0.25;
                for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                    signed(out, &IQ2_XXS[indices[i] as usize], even_signs(signs >> (7 * i)), scale);
                }
            }
        }
    }
}

multiversion! {
    up to avx2:
    /// Scale, 32 times nine bits of an index of eight weights and seven signs, sixteen 4-bit scales.
    pub(super) fn iq2_xs(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<74>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = half_at(block, 0);
            for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let q = u16_at(block, 2 + 2 * i);
                let scale = d * (0.5 + nibble_at(block, 66, i / 2) as f32) * 0.25;
                signed(out, &IQ2_XS[q as usize & 511], even_signs((q >> 9) as u32), scale);
            }
        }
    }
}

multiversion! {
    up to avx2:
    /// Scale, the low bytes of 32 indices of eight weights, 32 bytes of signs, the two high bits of the indices,
    /// sixteen 4-bit scales.
    pub(super) fn iq2_s(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<82>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = half_at(block, 0);
            for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let index = block[2 + i] as usize | (block[66 + i / 4] as usize >> (2 * (i % 4)) & 3) << 8;
                let scale = d * (0.5 + nibble_at(block, 74, i / 2) as f32) * 0.25;
                signed(out, &IQ2_S[index], block[34 + i], scale);
            }
        }
    }
}

multiversion! {
    up to avx2:
    /// Scale, 64 indices of four weights, and for each 32 weights 32 bits: four times seven signs, a scale.
    pub(super) fn iq3_xxs(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<98>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = half_at(block, 0);
            for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let signs = u32_at(block, 66 + 4 * group);
                let scale = d * (0.5 + (signs >> 28) as f32) * 0.5;
                for (i, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let signs = even_signs(signs >> (7 * (i / 2))) >> (4 * (i % 2));
                    signed(out, &IQ3_XXS[block[2 + 8 * group + i] as usize], signs, scale);
                }
            }
        }
    }
}

multiversion! {
    up to avx2:
    /// Scale, the low bytes of 64 indices of four weights, their high bits, 32 bytes of signs, eight 4-bit scales.
    pub(super) fn iq3_s(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<110>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = half_at(block, 0);
            for (i, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let index = block[2 + i] as usize | (block[66 + i / 8] as usize >> (i % 8) & 1) << 8;
                let scale = d * (1 + 2 * nibble_at(block, 106, i / 8)) as f32;
                signed(out, &IQ3_S[index], block[74 + i / 2] >> (4 * (i % 2)), scale);
            }
        }
    }
}

/// Eight weights of -1, 0 and 1, all moved by an eighth.
#[inline(always)]
fn shifted(out: &mut [f32; 8], index: usize, down: bool, scale: f32) {
    let shift = if down { -0.125 } else { 0.125 };
    for (out, entry) in out.iter_mut().zip(&IQ1_S[index]) {
        *out = scale * (*entry as f32 + shift);
    }
}

multiversion! {
    up to avx2:
    /// Scale, the low bytes of 32 indices of eight weights, and for each 32 weights 16 bits: the high bits of four
    /// indices, a scale, whether they are moved down.
    pub(super) fn iq1_s(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<50>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = half_at(block, 0);
            for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let high = u16_at(block, 34 + 2 * group);
                let scale = d * (2 * (high >> 12 & 7) + 1) as f32;
                for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                    let index = block[2 + 4 * group + i] as usize | (high as usize >> (3 * i) & 7) << 8;
                    shifted(out, index, high & 0x8000 != 0, scale);
                }
            }
        }
    }
}

multiversion! {
    up to avx2:
    /// The low bytes of 32 indices of eight weights, half a byte for each of high bits and whether they are moved
    /// down, and four numbers of four 3-bit scales, whose top halves make the scale.
    pub(super) fn iq1_m(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<56>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let packed = [48, 50, 52, 54].map(|at| u16_at(block, at));
            let d = packed.iter().enumerate().fold(0, |d, (i, packed)| d | (packed >> 12) << (4 * i));
            let d = half_at(&d.to_le_bytes(), 0);
            for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let high = nibble_at(block, 32, i) as usize;
                let scale = d * (2 * (packed[i / 8] >> (3 * (i / 2 % 4)) & 7) + 1) as f32;
                shifted(out, block[i] as usize | (high & 7) << 8, high & 8 != 0, scale);
            }
        }
    }
}
