//! Helpers for the tests of the operations.

use super::host::to_vec;
use candle_core::{Device, Result, Shape, Tensor, Var};

/// A seeded tensor of numbers in `[-1, 1)`.
pub(crate) fn random(shape: impl Into<Shape>, seed: u64) -> Result<Tensor> {
    let shape = shape.into();
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let data: Vec<f32> = (0..shape.elem_count())
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec(data, shape, &Device::Cpu)
}

/// Fails unless both functions give the same result and the same gradient of a random linear loss for every input.
pub(crate) fn assert_same_gradients(
    inputs: &[Tensor],
    one: impl Fn(&[Tensor]) -> Result<Tensor>,
    other: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let run = |f: &dyn Fn(&[Tensor]) -> Result<Tensor>| -> Result<Vec<Vec<f32>>> {
        let vars: Vec<Var> = inputs.iter().map(Var::from_tensor).collect::<Result<_>>()?;
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let y = f(&tensors)?;
        let gradients = (&y * random(y.shape(), 99)?)?.sum_all()?.backward()?;
        let mut all = vec![to_vec(&y)?];
        for var in &vars {
            all.push(to_vec(gradients.get(var).ok_or(candle_core::Error::Msg("no gradient".into()))?)?);
        }
        Ok(all)
    };
    for (part, (a, b)) in run(&one)?.iter().zip(&run(&other)?).enumerate() {
        assert_eq!(a.len(), b.len(), "part {part}");
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            assert!((a - b).abs() <= 2e-5 * b.abs().max(1.0), "part {part}, entry {i}: {a} and {b}");
        }
    }
    Ok(())
}
