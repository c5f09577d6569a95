//! The vector-Jacobian product of a piece of the model.

use candle_core::{Result, Tensor, Var};

/// `upstreamᵀ ∂f/∂x` at `x`: rebuilds the graph of `f` alone, pulls `upstream` through it and drops it.
///
/// # Errors
/// `f` fails, or its result does not depend on `x`.
pub fn vjp(
    x: &Tensor,
    upstream: &Tensor,
    f: impl FnOnce(&Tensor) -> crate::Result<Tensor>,
) -> crate::Result<Tensor> {
    Ok(vjp_with(x, &[], upstream, f)?.0)
}

/// The same, and `upstreamᵀ ∂f/∂p` for each of the `parameters` that `f` uses.
///
/// # Errors
/// `f` fails, or its result does not depend on `x` or on a parameter.
pub fn vjp_with(
    x: &Tensor,
    parameters: &[Var],
    upstream: &Tensor,
    f: impl FnOnce(&Tensor) -> crate::Result<Tensor>,
) -> crate::Result<(Tensor, Vec<Tensor>)> {
    let var = Var::from_tensor(x)?;
    let y = f(var.as_tensor())?;
    Ok(pull(&var, parameters, &y, upstream)?)
}

fn pull(var: &Var, parameters: &[Var], y: &Tensor, upstream: &Tensor) -> Result<(Tensor, Vec<Tensor>)> {
    // The gradient of <y, upstream> with respect to y is `upstream`, which is where candle's backward must start.
    let mut gradients = (y * upstream)?.sum_all()?.backward()?;
    let mut of = |var: &Var| {
        gradients
            .remove(var.as_tensor())
            .ok_or_else(|| candle_core::Error::Msg("the result does not depend on the input".into()))
    };
    Ok((of(var)?, parameters.iter().map(of).collect::<Result<_>>()?))
}
