//! Functions of single entries: the activation of an MLP, gated (`act(gate) * up`) or plain (`act(x)`), with its vector-Jacobian
//! product.

use crate::Isa;
use crate::isa::multiversion;
use crate::math::{erf, exp, tanh};
use rayon::prelude::*;

/// Entries handled by one task.
const TASK: usize = 16 * 1024;

/// The activation, by the names of transformers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x / (1 + e^-x)` (`silu`, `swish`).
    Silu,
    /// `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2` (`gelu_pytorch_tanh`, `gelu_new`).
    GeluTanh,
    /// `x (1 + erf(x / √2)) / 2` (`gelu`).
    Gelu,
    /// `max(x, 0)` (`relu`).
    Relu,
    /// `max(x, 0)²` (`relu2`).
    SquaredRelu,
    /// `xielu`, with the parameters of one layer.
    Xielu(Xielu),
    /// `x` between `-limit` and `limit`: no activation of an MLP, but what some attentions do to queries, keys and values.
    Clamp {
        /// The limit.
        limit: f32,
    },
    /// The gate of GPT-OSS: `x / (1 + e^(-slope x))` of an `x` of at most `limit`. What it gates is kept between `-limit` and
    /// `limit`, and has 1 added.
    ClampedSwish {
        /// The factor in the exponent.
        slope: f32,
        /// The limit.
        limit: f32,
    },
}

/// The numbers of `xielu` (Huang et al. 2024): `positive x² + beta x` above 0, and `negative (e^min(x, eps) - 1 - x) + beta x` else.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xielu {
    /// Factor of the square.
    pub positive: f32,
    /// Factor of the exponential.
    pub negative: f32,
    /// The slope at 0.
    pub beta: f32,
    /// The largest exponent, just below 0.
    pub eps: f32,
}

impl Activation {
    /// Every activation, with parameters as models have them.
    pub const ALL: [Self; 8] = [
        Self::Silu,
        Self::GeluTanh,
        Self::Gelu,
        Self::Relu,
        Self::SquaredRelu,
        Self::Xielu(Xielu { positive: 0.8, negative: 0.7, beta: 0.5, eps: -1e-6 }),
        Self::Clamp { limit: 1.7 },
        Self::ClampedSwish { slope: 1.702, limit: 2.3 },
    ];
}

/// `x = act(x)`, entry by entry.
pub fn activate(isa: Isa, activation: Activation, x: &mut [f32]) {
    x.par_chunks_mut(TASK).for_each(|x| match activation {
        Activation::Silu => activate_silu(isa, x),
        Activation::GeluTanh => activate_gelu_tanh(isa, x),
        Activation::Gelu => activate_gelu(isa, x),
        Activation::Relu => activate_relu(isa, x),
        Activation::SquaredRelu => activate_squared_relu(isa, x),
        Activation::Xielu(of) => activate_xielu(isa, x, of),
        Activation::Clamp { limit } => activate_clamp(isa, x, limit),
        Activation::ClampedSwish { slope, limit } => activate_clamped_swish(isa, x, [slope, limit]),
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
        Activation::SquaredRelu => pull_squared_relu(isa, x, dx),
        Activation::Xielu(of) => pull_xielu(isa, x, dx, of),
        Activation::Clamp { limit } => pull_clamp(isa, x, dx, limit),
        Activation::ClampedSwish { slope, limit } => pull_clamped_swish(isa, x, dx, [slope, limit]),
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
        Activation::SquaredRelu => forward_squared_relu(isa, gate, up, y),
        Activation::Xielu(of) => forward_xielu(isa, gate, up, y, of),
        Activation::Clamp { limit } => forward_clamp(isa, gate, up, y, limit),
        Activation::ClampedSwish { slope, limit } => forward_clamped_swish(isa, gate, up, y, [slope, limit]),
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
        Activation::SquaredRelu => backward_squared_relu(isa, gate, up, dgate, dup),
        Activation::Xielu(of) => backward_xielu(isa, gate, up, dgate, dup, of),
        Activation::Clamp { limit } => backward_clamp(isa, gate, up, dgate, dup, limit),
        Activation::ClampedSwish { slope, limit } => {
            backward_clamped_swish(isa, gate, up, dgate, dup, [slope, limit])
        }
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

/// The value and the derivative at `x`.
#[inline(always)]
fn squared_relu(x: f32) -> (f32, f32) {
    let x = relu(x).0;
    (x * x, 2.0 * x)
}

/// The value and the derivative at `x`.
#[inline(always)]
fn xielu(x: f32, of: Xielu) -> (f32, f32) {
    let below = exp(x.min(of.eps));
    let slope = if x < of.eps { below } else { 0.0 };
    if x > 0.0 {
        (of.positive * x * x + of.beta * x, 2.0 * of.positive * x + of.beta)
    } else {
        (of.negative * (below - 1.0 - x) + of.beta * x, of.negative * (slope - 1.0) + of.beta)
    }
}

/// The value and the derivative at `x`.
#[inline(always)]
fn clamp(x: f32, limit: f32) -> (f32, f32) {
    // compared so that a NaN stays one
    let within = x.abs() < limit;
    let clamped = if x > limit { limit } else { x };
    (if clamped < -limit { -limit } else { clamped }, if within { 1.0 } else { 0.0 })
}

/// The value and the derivative at `x`.
#[inline(always)]
fn clamped_swish(x: f32, [slope, limit]: [f32; 2]) -> (f32, f32) {
    let within = if x > limit { limit } else { x };
    let s = 1.0 / (1.0 + exp(-slope * within));
    let derivative = s * (1.0 + slope * within * (1.0 - s));
    (within * s, if x > limit { 0.0 } else { derivative })
}

/// What is gated, and its derivative: as it is.
#[inline(always)]
fn as_it_is<P>(x: f32, _: P) -> (f32, f32) {
    (x, 1.0)
}

/// What the gate of GPT-OSS gates, and its derivative.
#[inline(always)]
fn clamped_and_one(x: f32, [_, limit]: [f32; 2]) -> (f32, f32) {
    let (value, slope) = clamp(x, limit);
    (value + 1.0, slope)
}

/// One compiled loop for each activation and direction: a choice inside the loop would keep it from vectorising. `$up` is what
/// becomes of what is gated.
macro_rules! loops {
    ($forward:ident, $backward:ident, $activate:ident, $pull:ident, $activation:ident) => {
        loops!(@with $forward, $backward, $activate, $pull, $activation, as_it_is, (),);
    };
    ($forward:ident, $backward:ident, $activate:ident, $pull:ident, $activation:ident, $up:ident, $type:ty) => {
        loops!(@with $forward, $backward, $activate, $pull, $activation, $up, (of), of: $type);
    };
    (@with $forward:ident, $backward:ident, $activate:ident, $pull:ident, $activation:ident, $up:ident, $of:tt,
     $($parameters:ident: $type:ty)?) => {
        multiversion! {
            fn $activate(isa: Isa, x: &mut [f32] $(, $parameters: $type)?) {
                for x in x {
                    *x = $activation(*x $(, $parameters)?).0;
                }
            }
        }
        multiversion! {
            fn $pull(isa: Isa, x: &[f32], dx: &mut [f32] $(, $parameters: $type)?) {
                for (dx, x) in dx.iter_mut().zip(x) {
                    *dx *= $activation(*x $(, $parameters)?).1;
                }
            }
        }
        multiversion! {
            fn $forward(isa: Isa, gate: &[f32], up: &[f32], y: &mut [f32] $(, $parameters: $type)?) {
                for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                    *y = $activation(*gate $(, $parameters)?).0 * $up(*up, $of).0;
                }
            }
        }
        multiversion! {
            fn $backward(
                isa: Isa,
                gate: &[f32],
                up: &[f32],
                dgate: &mut [f32],
                dup: &mut [f32]
                $(, $parameters: $type)?
            ) {
                for (((dgate, dup), gate), up) in dgate.iter_mut().zip(dup).zip(gate).zip(up) {
                    let (value, slope) = $activation(*gate $(, $parameters)?);
                    let (up, up_slope) = $up(*up, $of);
                    let dy = *dgate;
                    *dgate = dy * up * slope;
                    *dup = dy * value * up_slope;
                }
            }
        }
    };
}
loops!(forward_silu, backward_silu, activate_silu, pull_silu, silu);
loops!(forward_gelu_tanh, backward_gelu_tanh, activate_gelu_tanh, pull_gelu_tanh, gelu_tanh);
loops!(forward_gelu, backward_gelu, activate_gelu, pull_gelu, gelu);
loops!(forward_relu, backward_relu, activate_relu, pull_relu, relu);
loops!(forward_squared_relu, backward_squared_relu, activate_squared_relu, pull_squared_relu, squared_relu);
loops!(forward_xielu, backward_xielu, activate_xielu, pull_xielu, xielu, as_it_is, Xielu);
loops!(forward_clamp, backward_clamp, activate_clamp, pull_clamp, clamp, as_it_is, f32);
loops!(
    forward_clamped_swish,
    backward_clamped_swish,
    activate_clamped_swish,
    pull_clamped_swish,
    clamped_swish,
    clamped_and_one,
    [f32; 2]
);

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
            // far out the integral is 0 or 1 to the last bit, and the steps of the rule are too wide
            Activation::Gelu if x.abs() > 20.0 => x.max(0.0),
            // the integral of the density by Simpson's rule
            Activation::Gelu => {
                let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let (steps, h) = (400, x / 400.0);
                let inner: f64 =
                    (1..steps).map(|i| density(i as f64 * h) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
                x * (0.5 + (density(0.0) + inner + density(x)) * h / 3.0)
            }
            Activation::Relu => x.max(0.0),
            Activation::SquaredRelu => x.max(0.0).powi(2),
            Activation::Xielu(of) => {
                let [positive, negative, beta, eps] =
                    [of.positive, of.negative, of.beta, of.eps].map(f64::from);
                let bent = if x > 0.0 { positive * x * x } else { negative * (x.min(eps).exp_m1() - x) };
                bent + beta * x
            }
            Activation::Clamp { limit } => x.clamp(-f64::from(limit), f64::from(limit)),
            Activation::ClampedSwish { slope, limit } => {
                let x = x.min(f64::from(limit));
                x / (1.0 + (-f64::from(slope) * x).exp())
            }
        }
    }

    /// What becomes of what is gated.
    fn gated(activation: Activation, up: f64) -> f64 {
        match activation {
            Activation::ClampedSwish { limit, .. } => up.clamp(-f64::from(limit), f64::from(limit)) + 1.0,
            _ => up,
        }
    }

    #[test]
    fn forward_and_backward_match_the_reference() {
        each_isa(|isa| {
            for activation in Activation::ALL {
                for n in [0, 1, 7, 8, 9, TASK + 3] {
                    let gate: Vec<f32> = random(n, 1).iter().map(|x| 6.0 * x).collect();
                    let up: Vec<f32> = random(n, 2).iter().map(|x| 4.0 * x).collect();
                    let dy = random(n, 3);
                    let value = |gate: &[f32], up: &[f32]| -> Vec<f64> {
                        gate.iter()
                            .zip(up)
                            .map(|(g, u)| reference(activation, *g as f64) * gated(activation, *u as f64))
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
            for at in [0, 4] {
                let expected =
                    reference(activation, f64::from(gate[at])) * gated(activation, f64::from(up[at]));
                let error = (f64::from(y[at]) - expected).abs();
                assert!(error < 1e-6 * expected.abs().max(1.0), "{activation:?} {y:?}");
            }
        }
    }
}
