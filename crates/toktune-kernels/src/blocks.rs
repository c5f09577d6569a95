//! The GGUF block formats: decoding runs of whole blocks to `f32`, and rounding to the usual ones.
//!
//! A block holds 32 or 256 small integers and what turns them into weights: one or two half-precision
//! factors, and in the K formats a small integer factor for each 16 or 32 of them; in the formats of `codebook`
//! the integers stand for entries of a table. Every product and sum is taken in the order that ggml takes them, so
//! the decoded weights are equal to the last bit.
//!
//! The loops run over arrays of fixed length and have no branches, which is what lets the compiler vectorise
//! them.

use crate::Isa;
use crate::isa::multiversion;
use crate::weight_type::WeightType;

mod codebook;
mod grids;
mod rounding;
mod ternary;
#[cfg(test)]
mod tests;

pub(crate) use rounding::round;

/// Decodes `data`, a run of whole blocks of `dtype`, into `out`.
///
/// Panics when `dtype` is no block type, `data` ends inside a block, or `out` has another length than the
/// blocks.
pub fn decode(isa: Isa, dtype: WeightType, data: &[u8], out: &mut [f32]) {
    let (block_len, block_bytes) = (dtype.block_len(), dtype.block_bytes());
    assert!(data.len().is_multiple_of(block_bytes), "{} bytes end inside a {dtype} block", data.len());
    assert_eq!(out.len(), data.len() / block_bytes * block_len, "the length of decoded {dtype} blocks");
    match dtype {
        WeightType::Q4_0 => q4_0(isa, data, out),
        WeightType::Q4_1 => q4_1(isa, data, out),
        WeightType::Q5_0 => q5_0(isa, data, out),
        WeightType::Q5_1 => q5_1(isa, data, out),
        WeightType::Q8_0 => q8_0(isa, data, out),
        WeightType::Q2K => q2_k(isa, data, out),
        WeightType::Q3K => q3_k(isa, data, out),
        WeightType::Q4K => q4_k(isa, data, out),
        WeightType::Q5K => q5_k(isa, data, out),
        WeightType::Q6K => q6_k(isa, data, out),
        WeightType::Iq1S => codebook::iq1_s(isa, data, out),
        WeightType::Iq1M => codebook::iq1_m(isa, data, out),
        WeightType::Iq2Xxs => codebook::iq2_xxs(isa, data, out),
        WeightType::Iq2Xs => codebook::iq2_xs(isa, data, out),
        WeightType::Iq2S => codebook::iq2_s(isa, data, out),
        WeightType::Iq3Xxs => codebook::iq3_xxs(isa, data, out),
        WeightType::Iq3S => codebook::iq3_s(isa, data, out),
        WeightType::Iq4Nl => codebook::iq4_nl(isa, data, out),
        WeightType::Iq4Xs => codebook::iq4_xs(isa, data, out),
        WeightType::Tq1_0 => ternary::tq1_0(isa, data, out),
        WeightType::Tq2_0 => ternary::tq2_0(isa, data, out),
        WeightType::Mxfp4 => codebook::mxfp4(isa, data, out),
        WeightType::F32 | WeightType::F16 | WeightType::BF16 | WeightType::F8E4M3 | WeightType::F8E5M2 => {
            panic!("{dtype} is no block type")
        }
    }
}

/// The half-precision number at byte `at` of a block.
///
/// Not `half`'s conversion: that one asks at every call which instructions the machine has.
#[inline(always)]
pub(crate) fn half_at(block: &[u8], at: usize) -> f32 {
    half(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// The half-precision number with these bits.
#[inline(always)]
pub(crate) fn half(bits: u16) -> f32 {
    const SCALE: f32 = f32::from_bits((127 + 112) << 23); // 2^112: between the exponent biases, 127 and 15
    let bits = bits as u32;
    let magnitude = f32::from_bits((bits & 0x7FFF) << 13) * SCALE;
    let special = if bits & 0x7C00 == 0x7C00 { 0xFF << 23 } else { 0 }; // infinities and NaNs
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}

/// The `N` bytes of a block from byte `at`.
#[inline(always)]
pub(crate) fn bytes_at<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    let Some(bytes) = block[at..].first_chunk() else { unreachable!("blocks have a fixed size") };
    bytes
}

/// Eight bytes of 1.
const ONES: u64 = 0x0101_0101_0101_0101;

/// The 4-bit numbers of 16 bytes: the low halves, then the high ones.
///
/// Eight bytes are taken apart at a time, in one register: a loop over 16 bytes is unrolled before it can be
/// vectorised.
#[inline(always)]
pub(crate) fn nibbles(bytes: &[u8; 16]) -> [u8; 32] {
    let (low, high) = (u64::from_le_bytes(*bytes_at(bytes, 0)), u64::from_le_bytes(*bytes_at(bytes, 8)));
    let mut out = [0; 32];
    for (out, bytes) in out.as_chunks_mut::<8>().0.iter_mut().zip([low, high, low >> 4, high >> 4]) {
        *out = (bytes & (15 * ONES)).to_le_bytes();
    }
    out
}

/// The 5-bit numbers of 16 bytes and 4 bytes of fifth bits: bit `i` of those belongs to number `i`.
///
/// Eight bits at a time are spread over eight bytes by a multiplication: byte `j` keeps bit `j` alone, and
/// adding 127 moves it, wherever in the byte it is, to the top.
#[inline(always)]
pub(crate) fn with_fifth_bits(bytes: &[u8; 16], fifth: &[u8; 4]) -> [u8; 32] {
    let mut out = nibbles(bytes);
    for (out, bits) in out.as_chunks_mut::<8>().0.iter_mut().zip(fifth) {
        let alone = (*bits as u64 * ONES) & 0x8040_2010_0804_0201;
        let sixteens = ((alone + 127 * ONES) >> 3) & (16 * ONES);
        *out = (u64::from_le_bytes(*out) | sixteens).to_le_bytes();
    }
    out
}

multiversion! {
    up to avx2:
    /// Scale, 16 bytes: weight `i` in the low and weight `i + 16` in the high half of byte `i`, less 8.
    fn q4_0(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<18>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let (d, q) = (half_at(block, 0), nibbles(bytes_at(block, 2)));
            for i in 0..32 {
                out[i] = (q[i] as i32 - 8) as f32 * d;
            }
        }
    }
}

multiversion! {
    up to avx2:
    /// Scale, minimum, 16 bytes as in `q4_0`, not shifted.
    fn q4_1(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<20>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let (d, m, q) = (half_at(block, 0), half_at(block, 2), nibbles(bytes_at(block, 4)));
            for i in 0..32 {
                out[i] = q[i] as i32 as f32 * d + m;
            }
        }
    }
}

multiversion! {
    up to avx2:
    /// Scale, 32 fifth bits, 16 bytes as in `q4_0`; less 16.
    fn q5_0(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<22>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let (d, q) = (half_at(block, 0), with_fifth_bits(bytes_at(block, 6), bytes_at(block, 2)));
            for i in 0..32 {
                out[i] = (q[i] as i32 - 16) as f32 * d;
            }
        }
    }
}

multiversion! {
    up to avx2:
    /// Scale, minimum, 32 fifth bits, 16 bytes as in `q4_0`, not shifted.
    fn q5_1(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<24>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let (d, m) = (half_at(block, 0), half_at(block, 2));
            let q = with_fifth_bits(bytes_at(block, 8), bytes_at(block, 4));
            for i in 0..32 {
                out[i] = q[i] as i32 as f32 * d + m;
            }
        }
    }
}

multiversion! {
    up to avx2:
    /// Scale, 32 signed bytes.
    fn q8_0(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<34>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let (d, q) = (half_at(block, 0), bytes_at::<32>(block, 2));
            for i in 0..32 {
                out[i] = q[i] as i8 as i32 as f32 * d;
            }
        }
    }
}

multiversion! {
    up to avx2:
    /// Sixteen 4-bit scales and minima, 64 bytes of four 2-bit numbers each, scale, scale of the minima. Of each 32
    /// bytes the first numbers are a run of 32 weights with two scales and minima, then the second ones and so on.
    fn q2_k(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<84>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let (d, d_min) = (half_at(block, 80), half_at(block, 82));
            for (part, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let (half, run, side) = (part / 8, part / 2 % 4, part % 2);
                let q = bytes_at::<16>(block, 16 + 32 * half + 16 * side);
                let scale = d * (block[part] & 15) as f32;
                let min = d_min * (block[part] >> 4) as f32;
                for i in 0..16 {
                    out[i] = (q[i] >> (2 * run) & 3) as i32 as f32 * scale - min;
                }
            }
        }
    }
}

multiversion! {
    up to avx2:
    /// 32 bytes of third bits, 64 bytes of four 2-bit numbers each in runs as in `q2_k`, sixteen packed 6-bit scales
    /// less 32, scale. Bit `r` of byte `i` belongs to weight `i` of run `r`; where it is not set, the number is less 4.
    /// The scales' low halves are the halves of eight bytes, their top two bits those of four bytes, the first of each
    /// first.
    fn q3_k(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<110>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let (d, packed) = (half_at(block, 108), bytes_at::<12>(block, 96));
            for (part, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let (half, run, side) = (part / 8, part / 2, part % 2);
                let third = bytes_at::<16>(block, 16 * side);
                let q = bytes_at::<16>(block, 32 + 32 * half + 16 * side);
                let low = packed[part % 8] >> (4 * (part / 8)) & 15;
                let top = packed[8 + part % 4] >> (2 * (part / 4)) & 3;
                let scale = d * ((low | top << 4) as i32 - 32) as f32;
                for i in 0..16 {
                    let number = (q[i] >> (2 * (run % 4)) & 3) | (third[i] >> run & 1) << 2;
                    out[i] = (number as i32 - 4) as f32 * scale;
                }
            }
        }
    }
}

/// The eight 6-bit scales and the eight 6-bit minima that Q4_K and Q5_K pack into 12 bytes: the first four of
/// each in the low bits of bytes 0 to 7, the last four in the halves of bytes 8 to 11 with their top two bits
/// above the first.
#[inline(always)]
pub(crate) fn scales_and_minima(block: &[u8], at: usize) -> ([u8; 8], [u8; 8]) {
    let packed = bytes_at::<12>(block, at);
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for i in 0..4 {
        scales[i] = packed[i] & 63;
        minima[i] = packed[i + 4] & 63;
        scales[i + 4] = (packed[i + 8] & 15) | (packed[i] >> 6) << 4;
        minima[i + 4] = (packed[i + 8] >> 4) | (packed[i + 4] >> 6) << 4;
    }
    (scales, minima)
}

multiversion! {
    up to avx2:
    /// Scale, scale of the minima, packed scales and minima of eight groups of 32 weights, 128 bytes: of each
    /// 32, the low halves are one group and the high halves the next.
    fn q4_k(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<144>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let (d, d_min) = (half_at(block, 0), half_at(block, 2));
            let (scales, minima) = scales_and_minima(block, 4);
            for (pair, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
                let q = bytes_at::<32>(block, 16 + 32 * pair);
                let (q_low, q_high) = (q.map(|q| q & 15), q.map(|q| q >> 4));
                let (low, high) = (2 * pair, 2 * pair + 1);
                let (scale, min) = (d * scales[low] as f32, d_min * minima[low] as f32);
                for i in 0..32 {
                    out[i] = q_low[i] as i32 as f32 * scale - min;
                }
                let (scale, min) = (d * scales[high] as f32, d_min * minima[high] as f32);
                for i in 0..32 {
                    out[i + 32] = q_high[i] as i32 as f32 * scale - min;
                }
            }
        }
    }
}

multiversion! {
    up to avx2:
    /// As `q4_k`, with 32 bytes of fifth bits before the 128: bit `g` of byte `i` belongs to weight `i` of
    /// group `g`.
    fn q5_k(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<176>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let (d, d_min) = (half_at(block, 0), half_at(block, 2));
            let (scales, minima) = scales_and_minima(block, 4);
            let fifth = bytes_at::<32>(block, 16);
            for (pair, out) in out.as_chunks_mut::<64>().0.iter_mut().enumerate() {
                let q = bytes_at::<32>(block, 48 + 32 * pair);
                let (low, high) = (2 * pair, 2 * pair + 1);
                let (scale, min) = (d * scales[low] as f32, d_min * minima[low] as f32);
                for i in 0..32 {
                    out[i] = ((q[i] & 15) | (fifth[i] >> low & 1) << 4) as i32 as f32 * scale - min;
                }
                let (scale, min) = (d * scales[high] as f32, d_min * minima[high] as f32);
                for i in 0..32 {
                    out[i + 32] = ((q[i] >> 4) | (fifth[i] >> high & 1) << 4) as i32 as f32 * scale - min;
                }
            }
        }
    }
}

multiversion! {
    up to avx2:
    /// 128 bytes of low halves, 64 bytes of two high bits each, 16 signed scales, the scale of the scales.
    /// Each half of the block is four runs of 32 weights with two scales each: runs 0 and 1 are the low, runs
    /// 2 and 3 the high halves of 64 bytes, and run `r` has bits `2r` and `2r + 1` of 32 bytes on top; less
    /// 32.
    fn q6_k(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<210>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = half_at(block, 208);
            for (half, out) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
                let high = bytes_at::<32>(block, 128 + 32 * half);
                let scales = bytes_at::<8>(block, 192 + 8 * half);
                for (run, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                    let low = bytes_at::<32>(block, 64 * half + 32 * (run % 2));
                    let nibble = 4 * (run / 2);
                    for (part, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                        let scale = d * (scales[2 * run + part] as i8) as f32;
                        let (low, high) = (bytes_at::<16>(low, 16 * part), bytes_at::<16>(high, 16 * part));
                        for i in 0..16 {
                            let q = (low[i] >> nibble & 15) | (high[i] >> (2 * run) & 3) << 4;
                            out[i] = (q as i32 - 32) as f32 * scale;
                        }
                    }
                }
            }
        }
    }
}
