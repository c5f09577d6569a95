//! The activation of an MLP, gated (`act(gate) * up`) or plain (`act(x)`), with its vector-Jacobian product.

use crate::Isa;
use crate::isa::multiversion;
use crate::math::{erf, exp, tanh};
use rayon::prelude::*;

/// Entries handled by one task.
const TASK: usize = 16 * 1024;

/// The activation, by the names of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)` (`silu`, `swish`).
    Silu,
    /// `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2` (`gelu_pytorch_tanh`, `gelu_new`).
    GeluTanh,
    /// `x (1 + erf(x / √2)) / 2` (`gelu`).
    Gelu,
    /// `max(x, 0)` (`relu`).
    Relu,
}

impl Activation {
    /// Every activation.
    pub const ALL: [Self; 4] = [Self::Silu, Self::GeluTanh, Self::Gelu, Self::Relu];
}

/// `x = act(x)`, entry by entry.
pub fn activate(isa: Isa, activation: Activation, x: &mut [f32]) {
    x.par_chunks_mut(TASK).for_each(|x| match activation {
        Activation::Silu => activate_silu(isa, x),
        Activation::GeluTanh => activate_gelu_tanh(isa, x),
        Activation::Gelu => activate_gelu(isa, x),
        Activation::Relu => activate_relu(isa, x),
    });
}

/// The gradient of the input `x` from that of `act(x)`, which comes in `dx` and is replaced there.
///
/// Panics when the lengths differ.
pub fn activate_backward(isa: Isa, activation: Activation, x: &[f32], dx: &mut [f32]) {
    assert_eq!(x.len(), dx.len(), "an input and its gradient");
    dx.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(dx, x)| match activation {
        Activation::Silu => pull_silu(isa, x, dx),
        Activation::GeluTanh => pull_gelu_tanh(isa, x, dx),
        Activation::Gelu => pull_gelu(isa, x, dx),
        Activation::Relu => pull_relu(isa, x, dx),
    });
}

/// `y = act(gate) * up`, entry by entry; overwrites `y`.
///
/// Panics when the lengths differ.
pub fn gated_forward(isa: Isa, activation: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == y.len(), "{} {} {}", gate.len(), up.len(), y.len());
    y.par_chunks_mut(TASK)
        .zip(gate.par_chunks(TASK).zip(up.par_chunks(TASK)))
        .for_each(|(y, (gate, up))| forward_tile(isa, activation, gate, up, y));
}

/// The gradients of both inputs from that of the output, which comes in `dgate` and is replaced there; overwrites `dup`.
///
/// Panics when the lengths differ.
pub fn gated_backward(
    isa: Isa,
    activation: Activation,
    gate: &[f32],
    up: &[f32],
    dgate: &mut [f32],
    dup: &mut [f32],
) {
    let n = gate.len();
    assert!([up.len(), dgate.len(), dup.len()] == [n; 3], "{n} entries in each");
    dgate
        .par_chunks_mut(TASK)
        .zip(dup.par_chunks_mut(TASK))
        .zip(gate.par_chunks(TASK).zip(up.par_chunks(TASK)))
        .for_each(|((dgate, dup), (gate, up))| backward_tile(isa, activation, gate, up, dgate, dup));
}

/// [`gated_forward`] on one thread.
pub(crate) fn forward_tile(isa: Isa, activation: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
    match activation {
        Activation::Silu => forward_silu(isa, gate, up, y),
        Activation::GeluTanh => forward_gelu_tanh(isa, gate, up, y),
        Activation::Gelu => forward_gelu(isa, gate, up, y),
        Activation::Relu => forward_relu(isa, gate, up, y),
    }
}

/// [`gated_backward`] on one thread.
pub(crate) fn backward_tile(
    isa: Isa,
    activation: Activation,
    gate: &[f32],
    up: &[f32],
    dgate: &mut [f32],
    dup: &mut [f32],
) {
    match activation {
        Activation::Silu => backward_silu(isa, gate, up, dgate, dup),
        Activation::GeluTanh => backward_gelu_tanh(isa, gate, up, dgate, dup),
        Activation::Gelu => backward_gelu(isa, gate, up, dgate, dup),
        Activation::Relu => backward_relu(isa, gate, up, dgate, dup),
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
    let tanh = tanh(u);
    let du = A * (1.0 + 3.0 * B * x * x);
    (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * du)
}

/// The value and the derivative at `x`.
#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    const DENSITY: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
    let below = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    (x * below, below + x * DENSITY * exp(-0.5 * x * x))
}

/// The value and the derivative at `x`; torch's derivative at 0 is 0.
#[inline(always)]
fn relu(x: f32) -> (f32, f32) {
    if x > 0.0 { (x, 1.0) } else { (0.0 * x, 0.0) }
}

/// One compiled loop for each activation and direction: a choice inside the loop would keep it from vectorising.
macro_rules! loops {
    ($forward:ident, $backward:ident, $activate:ident, $pull:ident, $activation:ident) => {
        multiversion! {
            fn $activate(isa: Isa, x: &mut [f32]) {
                for x in x {
                    *x = $activation(*x).0;
                }
            }
        }
        multiversion! {
            fn $pull(isa: Isa, x: &[f32], dx: &mut [f32]) {
                for (dx, x) in dx.iter_mut().zip(x) {
                    *dx *= $activation(*x).1;
                }
            }
        }
        multiversion! {
            fn $forward(isa: Isa, gate: &[f32], up: &[f32], y: &mut [f32]) {
                for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                    *y = $activation(*gate).0 * up;
                }
            }
        }
        multiversion! {
            fn $backward(isa: Isa, gate: &[f32], up: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
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
loops!(forward_silu, backward_silu, activate_silu, pull_silu, silu);
loops!(forward_gelu_tanh, backward_gelu_tanh, activate_gelu_tanh, pull_gelu_tanh, gelu_tanh);
loops!(forward_gelu, backward_gelu, activate_gelu, pull_gelu, gelu);
loops!(forward_relu, backward_relu, activate_relu, pull_relu, relu);

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
            // the integral of the density by Simpson's rule
            Activation::Gelu => {
                let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let (steps, h) = (400, x / 400.0);
                let inner: f64 =
                    (1..steps).map(|i| density(i as f64 * h) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
                x * (0.5 + (density(0.0) + inner + density(x)) * h / 3.0)
            }
            Activation::Relu => x.max(0.0),
        }
    }

    #[test]
    fn forward_and_backward_match_the_reference() {
        each_isa(|isa| {
            for activation in Activation::ALL {
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
                    gated_forward(isa, activation, &gate, &up, &mut y);
                    assert_close(&y, &value(&gate, &up), 1e-6, &what);
                    let (mut dgate, mut dup) = (dy.clone(), vec![f32::NAN; n]);
                    gated_backward(isa, activation, &gate, &up, &mut dgate, &mut dup);
                    if n > 0 && n < 100 {
                        let loss = |y: Vec<f64>| y.iter().zip(&dy).map(|(y, l)| y * *l as f64).sum::<f64>();
                        let expected = central_differences(&gate, |g| loss(value(g, &up)));
                        assert_close(&dgate, &expected, 1e-4, &format!("{what} gate"));
                        let expected = central_differences(&up, |u| loss(value(&gate, u)));
                        assert_close(&dup, &expected, 1e-4, &format!("{what} up"));
                        let plain = |x: &[f32]| -> Vec<f64> {
                            x.iter().map(|x| reference(activation, *x as f64)).collect()
                        };
                        let (mut y, mut dx) = (gate.clone(), dy.clone());
                        activate(isa, activation, &mut y);
                        assert_close(&y, &plain(&gate), 1e-6, &format!("{what} plain"));
                        activate_backward(isa, activation, &gate, &mut dx);
                        let expected = central_differences(&gate, |g| loss(plain(g)));
                        assert_close(&dx, &expected, 1e-4, &format!("{what} plain gradient"));
                    }
                }
            }
        });
    }

    #[test]
    fn extreme_gates_stay_finite() {
        for activation in Activation::ALL {
            let gate = [-1e4f32, -100.0, 0.0, 100.0, 1e4];
            let (up, dy) = ([1.0f32; 5], [1.0f32; 5]);
            let (mut y, mut dgate, mut dup) = ([0f32; 5], dy, [0f32; 5]);
            gated_forward(Isa::best(), activation, &gate, &up, &mut y);
            gated_backward(Isa::best(), activation, &gate, &up, &mut dgate, &mut dup);
            assert!(
                y.iter().chain(&dgate).chain(&dup).all(|x| x.is_finite()),
                "{activation:?} {y:?} {dgate:?}"
            );
            assert!(y[0].abs() < 1e-6 && (y[4] - 1e4).abs() < 1e-2, "{activation:?} {y:?}");
        }
    }
}
