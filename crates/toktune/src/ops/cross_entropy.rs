//! The loss of labelled rows against a token table, with the gradients of the rows and of the trained tokens.
//!
//! It is the end of every graph, so it is no graph node: it returns the gradients with the loss.

use super::host::floats;
use crate::profile::{Part, time};
use candle_core::{Result, Tensor};
use toktune_kernels::cross_entropy as kernel;
use toktune_kernels::{Precision, TokenTable};

/// What is wanted beside the losses.
#[derive(Debug, Default)]
pub struct HeadGradients<'a> {
    /// Whether the gradient of the hidden rows is wanted.
    pub hidden: bool,
    /// `[k, d]`, added to: the gradient of the table's trained rows.
    pub trained: Option<&'a mut [f32]>,
}

/// The loss of each row of `hidden [rows, d]` for its target, in nats, and the gradient of their sum with respect to
/// `hidden` if asked for.
///
/// # Errors
/// `hidden` is not `f32`, its width is not the table's, or a target is past the table.
pub fn cross_entropy(
    hidden: &Tensor,
    table: &TokenTable<'_>,
    targets: &[u32],
    gradients: HeadGradients<'_>,
    precision: Precision,
) -> Result<(Vec<f32>, Option<Tensor>)> {
    use toktune_kernels::Matrix;
    if hidden.dims() != [targets.len(), table.cols()] {
        candle_core::bail!(
            "cross_entropy: {:?} for {} targets of {}",
            hidden.dims(),
            targets.len(),
            table.cols()
        );
    }
    if let Some(target) = targets.iter().find(|&&t| t as usize >= table.rows()) {
        candle_core::bail!("cross_entropy: target {target} of {} tokens", table.rows());
    }
    let on_host = hidden.to_device(&candle_core::Device::Cpu)?.contiguous()?;
    let mut losses = vec![0f32; targets.len()];
    let mut dh = gradients.hidden.then(|| vec![0f32; hidden.elem_count()]);
    let wanted = kernel::Gradients { hidden: dh.as_deref_mut(), trained: gradients.trained };
    let products = if gradients.hidden { 2 } else { 1 };
    time(Part::Head, 2 * products * hidden.elem_count() * table.rows(), || {
        floats(&on_host).map(|h| kernel::cross_entropy(&h, table, targets, &mut losses, wanted, precision))
    })?;
    let dh = dh.map(|dh| Tensor::from_vec(dh, hidden.shape(), hidden.device())).transpose()?;
    Ok((losses, dh))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::host::to_vec;
    use crate::ops::testing::random;
    use crate::weights::FrozenMatrix;
    use candle_core::{D, Var};

    /// The losses from a whole matrix of logits, differentiable in both arguments.
    fn composite(hidden: &Tensor, table: &Tensor, targets: &[u32]) -> Result<Tensor> {
        let logits = hidden.matmul(&table.t()?)?;
        let top = logits.max_keepdim(D::Minus1)?.detach();
        let lse = (logits.broadcast_sub(&top)?.exp()?.sum_keepdim(D::Minus1)?.log()? + top)?;
        let targets = Tensor::from_slice(targets, (targets.len(), 1), hidden.device())?;
        lse.sub(&logits.gather(&targets, D::Minus1)?)?.squeeze(D::Minus1)
    }

    #[test]
    fn losses_and_gradients_agree_with_whole_logits() -> Result<()> {
        let (hidden, w, targets) =
            (Var::from_tensor(&random((5, 6), 1)?)?, random((9, 6), 2)?, [3u32, 8, 0, 3, 1]);
        let base = FrozenMatrix::from_f32("w", 9, 6, to_vec(&w)?).map_err(candle_core::Error::wrap)?;
        let values = to_vec(&random((2, 6), 3)?)?;
        let table = TokenTable::new(base.view(), &[], &[(3, 1), (7, 0)], &values);
        let shown = Tensor::cat(
            &[
                &w.narrow(0, 0, 3)?,
                &Tensor::from_slice(&values[6..], (1, 6), w.device())?,
                &w.narrow(0, 4, 3)?,
                &Tensor::from_slice(&values[..6], (1, 6), w.device())?,
                &w.narrow(0, 8, 1)?,
            ],
            0,
        )?;
        let shown = Var::from_tensor(&shown)?;
        let expected = composite(&hidden, &shown, &targets)?;
        let gradients = expected.sum_all()?.backward()?;
        let mut dw = vec![0.0; 12];
        let wanted = HeadGradients { hidden: true, trained: Some(&mut dw) };
        let (losses, dh) = cross_entropy(&hidden, &table, &targets, wanted, Precision::F32)?;
        let close =
            |a: &[f32], b: &[f32]| assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
        let gradient = |var: &Var| gradients.get(var).map(to_vec).transpose();
        close(&losses, &to_vec(&expected)?);
        close(&to_vec(&dh.expect("asked for"))?, &gradient(&hidden)?.expect("a gradient"));
        let full = gradient(&shown)?.expect("a gradient");
        close(&dw, &[&full[42..48], &full[18..24]].concat());
        Ok(())
    }

    #[test]
    fn a_target_past_the_table_is_refused() -> Result<()> {
        let base = FrozenMatrix::from_f32("w", 2, 3, vec![0.0; 6]).map_err(candle_core::Error::wrap)?;
        let table = TokenTable::new(base.view(), &[], &[], &[]);
        let (x, none) = (random((1, 3), 1)?, HeadGradients::default());
        let refused = cross_entropy(&x, &table, &[2], none, Precision::F32);
        assert!(refused.expect_err("only two tokens").to_string().contains("target 2 of 2"));
        Ok(())
    }
}
