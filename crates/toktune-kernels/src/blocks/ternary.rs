//! The GGUF formats of weights that are -1, 0 or 1 times a scale.

use super::{bytes_at, half_at};
use crate::isa::multiversion;

/// What one byte of five weights is multiplied with to have the wanted one on top.
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

/// Weights of the bytes `q`, the same one of each, as digits of base 3 behind the point.
#[inline(always)]
fn digits<const N: usize>(out: &mut [f32; N], q: &[u8; N], power: u8, d: f32) {
    for i in 0..N {
        let digit = (q[i].wrapping_mul(power) as u16 * 3) >> 8;
        out[i] = d * (digit as i32 - 1) as f32;
    }
}

multiversion! {
    up to avx2:
    /// 32 and 16 bytes of five weights each and 4 bytes of four, first the first weight of each, then the second
    /// and so on; scale.
    pub(super) fn tq1_0(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<54>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = half_at(block, 52);
            let (long, rest) = out.split_at_mut(160);
            let (short, last) = rest.split_at_mut(80);
            for (out, power) in long.as_chunks_mut().0.iter_mut().zip(POWERS) {
                digits::<32>(out, bytes_at(block, 0), power, d);
            }
            for (out, power) in short.as_chunks_mut().0.iter_mut().zip(POWERS) {
                digits::<16>(out, bytes_at(block, 32), power, d);
            }
            for (out, power) in last.as_chunks_mut().0.iter_mut().zip(POWERS) {
                digits::<4>(out, bytes_at(block, 48), power, d);
            }
        }
    }
}

multiversion! {
    up to avx2:
    /// 64 bytes of four 2-bit numbers less 1, first the first of each of 32 bytes, then the second and so on; scale.
    pub(super) fn tq2_0(isa: Isa, data: &[u8], out: &mut [f32]) {
        for (block, out) in data.as_chunks::<66>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = half_at(block, 64);
            for (run, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let q = bytes_at::<32>(block, 32 * (run / 4));
                for i in 0..32 {
                    out[i] = d * ((q[i] >> (2 * (run % 4)) & 3) as i32 - 1) as f32;
                }
            }
        }
    }
}
