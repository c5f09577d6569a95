//! Helpers for this crate's tests: seeded data, every instruction set in turn, and one comparison of slices.

use crate::Isa;
use crate::weight_type::WeightType;
use half::f16;

/// Runs `check` with each instruction set this machine has, and says on stderr which it lacks.
pub(crate) fn each_isa(check: impl Fn(Isa)) {
    for name in Isa::NAMES {
        match Isa::named(name) {
            Ok(isa) => check(isa),
            Err(_) => eprintln!("skipped: this machine has no {name}"),
        }
    }
}

/// `n` numbers in `[-1, 1)`, the same for the same seed (xorshift64*).
pub(crate) fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let bits = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40;
            bits as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}

/// Where a block of this type has half-precision numbers.
pub(crate) fn halves(dtype: WeightType) -> &'static [usize] {
    match dtype {
        WeightType::Q4_1 | WeightType::Q5_1 | WeightType::Q4K | WeightType::Q5K => &[0, 2],
        WeightType::Q2K => &[80, 82],
        WeightType::Q3K => &[108],
        WeightType::Q6K => &[208],
        WeightType::Tq1_0 => &[52],
        WeightType::Tq2_0 => &[64],
        WeightType::Iq1M | WeightType::Mxfp4 => &[],
        _ => &[0],
    }
}

/// `count` blocks of random bytes, with factors of a sane size.
pub(crate) fn random_blocks(dtype: WeightType, count: usize, seed: u64) -> Vec<u8> {
    let size = dtype.block_bytes();
    let mut data: Vec<u8> =
        random(count * size, seed).iter().map(|x| (x * 128.0).floor() as i8 as u8).collect();
    let factors = random(2 * count, seed + 1);
    for (block, factors) in data.chunks_exact_mut(size).zip(factors.chunks_exact(2)) {
        for (at, factor) in halves(dtype).iter().zip(factors) {
            block[*at..at + 2].copy_from_slice(&f16::from_f32(factor / 16.0).to_le_bytes());
        }
        match dtype {
            // the top half of the last number is that of the factor: below one
            WeightType::Iq1M => block[55] = block[55] & 0x8F | 0x20,
            WeightType::Mxfp4 => block[0] = 100 + block[0] % 28,
            _ => {}
        }
    }
    data
}

/// Fails where `got` is further from `expected` than `tolerance`, relative to the largest expected entry (at least 1).
pub(crate) fn assert_close(got: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    let scale = expected.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((*g as f64 - e).abs() <= tolerance * scale, "{what}: entry {i} is {g}, expected {e}");
    }
}

/// The gradient of `loss` at `x` by central differences, each entry on its own.
pub(crate) fn central_differences(x: &[f32], loss: impl Fn(&[f32]) -> f64) -> Vec<f64> {
    let step = 1e-2f32;
    let mut point = x.to_vec();
    (0..x.len())
        .map(|i| {
            point[i] = x[i] + step;
            let above = loss(&point);
            point[i] = x[i] - step;
            let below = loss(&point);
            point[i] = x[i];
            (above - below) / (2.0 * step as f64)
        })
        .collect()
}

/// The loss that gradient checks use: a random linear form, so that no part of a gradient can hide.
pub(crate) fn linear_loss(y: &[f32], weights: &[f32]) -> f64 {
    y.iter().zip(weights).map(|(y, w)| *y as f64 * *w as f64).sum()
}
