//! Helpers for this crate's tests: seeded data, every instruction set in turn, and one comparison of slices.

use crate::Isa;

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
