//! The gated activation of an MLP: `act(gate) * up`, with its vector-Jacobian product.

use crate::isa::multiversion;
use crate::math::exp;
use rayon::prelude::*;

/// Entries handled by one task.
const TASK: usize = 16 * 1024;

/// The activation of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)` (`silu`, `swish`).
    Silu,
    /// `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2` (`gelu_pytorch_tanh`, `gelu_new`).
    GeluTanh,
}

/// `y = act(gate) * up`, entry by entry; overwrites `y`.
///
/// Panics when the lengths differ.
pub fn gated_forward(activation: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == y.len(), "{} {} {}", gate.len(), up.len(), y.len());
    y.par_chunks_mut(TASK)
        .zip(gate.par_chunks(TASK).zip(up.par_chunks(TASK)))
        .for_each(|(y, (gate, up))| forward_tile(activation, gate, up, y));
}

/// The gradients of both inputs from that of the output, which comes in `dgate` and is replaced there; overwrites `dup`.
///
/// Panics when the lengths differ.
pub fn gated_backward(activation: Activation, gate: &[f32], up: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let n = gate.len();
    assert!([up.len(), dgate.len(), dup.len()] == [n; 3], "{n} entries in each");
    dgate
        .par_chunks_mut(TASK)
        .zip(dup.par_chunks_mut(TASK))
        .zip(gate.par_chunks(TASK).zip(up.par_chunks(TASK)))
        .for_each(|((dgate, dup), (gate, up))| backward_tile(activation, gate, up, dgate, dup));
}

/// [`gated_forward`] on one thread.
pub(crate) fn forward_tile(activation: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
    match activation {
        Activation::Silu => forward_silu(gate, up, y),
        Activation::GeluTanh => forward_gelu(gate, up, y),
    }
}

/// [`gated_backward`] on one thread.
pub(crate) fn backward_tile(
    activation: Activation,
    gate: &[f32],
    up: &[f32],
    dgate: &mut [f32],
    dup: &mut [f32],
) {
    match activation {
        Activation::Silu => backward_silu(gate, up, dgate, dup),
        Activation::GeluTanh => backward_gelu(gate, up, dgate, dup),
    }
}

/// The value and the derivative at `x`.
#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let s = 1.0 / (1.0 + exp(-x));
    (x * s, s * (1.0 + x * (1.0 - s)))
}

/// The value and the derivative at `x`.
#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    const A: f32 = 0.797_884_6; // sqrt(2 / pi)
    const B: f32 = 0.044_715;
    let u = A * (x + B * x * x * x);
    let tanh = 1.0 - 2.0 / (exp(2.0 * u) + 1.0);
    let du = A * (1.0 + 3.0 * B * x * x);
    (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * du)
}

/// One compiled loop for each activation and direction: a choice inside the loop would keep it from vectorising.
macro_rules! gated_loops {
    ($forward:ident, $backward:ident, $activation:ident) => {
        multiversion! {
            fn $forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
                for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                    *y = $activation(*gate).0 * up;
                }
            }
        }
        multiversion! {
            fn $backward(gate: &[f32], up: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
                for (((dgate, dup), gate), up) in dgate.iter_mut().zip(dup).zip(gate).zip(up) {
                    let (value, slope) = $activation(*gate);
                    let dy = *dgate;
                    *dgate = dy * up * slope;
                    *dup = dy * value;
                }
            }
        }
    };
}
gated_loops!(forward_silu, backward_silu, silu);
gated_loops!(forward_gelu, backward_gelu, gelu_tanh);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, central_differences, each_isa, random};

    fn reference(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + u.tanh())
            }
        }
    }

    #[test]
    fn forward_and_backward_match_the_reference() {
        each_isa(|isa| {
            for activation in [Activation::Silu, Activation::GeluTanh] {
                for n in [0, 1, 7, 8, 9, TASK + 3] {
                    let gate: Vec<f32> = random(n, 1).iter().map(|x| 6.0 * x).collect();
                    let (up, dy) = (random(n, 2), random(n, 3));
                    let value = |gate: &[f32], up: &[f32]| -> Vec<f64> {
                        gate.iter()
                            .zip(up)
                            .map(|(g, u)| reference(activation, *g as f64) * *u as f64)
                            .collect()
                    };
                    let what = format!("{isa} {activation:?} {n}");
                    let mut y = vec![f32::NAN; n];
                    gated_forward(activation, &gate, &up, &mut y);
                    assert_close(&y, &value(&gate, &up), 1e-6, &what);
                    let (mut dgate, mut dup) = (dy.clone(), vec![f32::NAN; n]);
                    gated_backward(activation, &gate, &up, &mut dgate, &mut dup);
                    if n > 0 && n < 100 {
                        let loss = |y: Vec<f64>| y.iter().zip(&dy).map(|(y, l)| y * *l as f64).sum::<f64>();
                        let expected = central_differences(&gate, |g| loss(value(g, &up)));
                        assert_close(&dgate, &expected, 1e-4, &format!("{what} gate"));
                        let expected = central_differences(&up, |u| loss(value(&gate, u)));
                        assert_close(&dup, &expected, 1e-4, &format!("{what} up"));
                    }
                }
            }
        });
    }

    #[test]
    fn extreme_gates_stay_finite() {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let gate = [-1e4f32, -100.0, 0.0, 100.0, 1e4];
            let (up, dy) = ([1.0f32; 5], [1.0f32; 5]);
            let (mut y, mut dgate, mut dup) = ([0f32; 5], dy, [0f32; 5]);
            gated_forward(activation, &gate, &up, &mut y);
            gated_backward(activation, &gate, &up, &mut dgate, &mut dup);
            assert!(
                y.iter().chain(&dgate).chain(&dup).all(|x| x.is_finite()),
                "{activation:?} {y:?} {dgate:?}"
            );
            assert!(y[0].abs() < 1e-6 && (y[4] - 1e4).abs() < 1e-2, "{activation:?} {y:?}");
        }
    }
}
