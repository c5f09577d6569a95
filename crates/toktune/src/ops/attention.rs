//! Causal attention over ragged sequences, with constant past keys and values.

use super::host::{contiguous, floats};
use crate::profile::{Part, time};
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use std::sync::{Arc, Mutex, PoisonError};
use toktune_kernels::attention::{Inputs, Saved, Shape as AttentionShape, Span, backward, forward};

/// The sequences of a batch.
pub type Spans = Arc<Vec<Span>>;

/// Keys and values `[rows, kv_heads * head_dim]` of one block, after norms and rotation.
#[derive(Clone, Debug)]
pub struct KeyValues {
    /// Keys.
    pub k: Tensor,
    /// Values.
    pub v: Tensor,
}

/// `softmax(scale q kᵀ + mask) v` for every sequence and head.
///
/// `q` is `[rows, heads * head_dim]`, `k` and `v` are `[rows, kv_heads * head_dim]`; `past` holds the constant rows
/// that come before them, as `spans` says, and gets no gradient.
///
/// # Errors
/// A tensor is not contiguous `f32`, or the shapes do not fit.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    past: Option<&KeyValues>,
    spans: &Spans,
    shape: &AttentionShape,
) -> Result<Tensor> {
    check(q, k, v, past, spans, shape)?;
    if q.device().is_cpu() {
        let op =
            Attention { shape: *shape, spans: spans.clone(), past: past.cloned(), lse: Mutex::default() };
        q.apply_op3(k, v, op)
    } else {
        composite(q, k, v, past, spans, shape)
    }
}

/// Operations of the two products of an attention's forward pass.
pub(crate) fn attention_flops(shape: &AttentionShape, spans: &[Span]) -> usize {
    let pairs = |span: &Span| {
        let seen = |at: usize| shape.window.map_or(at + 1, |w| w.min(at + 1));
        (span.past.len()..span.past.len() + span.rows.len()).map(seen).sum::<usize>()
    };
    4 * shape.heads * shape.head_dim * spans.iter().map(pairs).sum::<usize>()
}

fn check(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    past: Option<&KeyValues>,
    spans: &Spans,
    shape: &AttentionShape,
) -> Result<()> {
    let kv_width = shape.kv_heads * shape.head_dim;
    let rows = spans.last().map_or(0, |s| s.rows.end);
    let past_rows = spans.iter().map(|s| s.past.end).max().unwrap_or(0);
    for (tensor, rows, width) in
        [(q, rows, shape.heads * shape.head_dim), (k, rows, kv_width), (v, rows, kv_width)]
    {
        if tensor.dims() != [rows, width] {
            candle_core::bail!("attention: expected [{rows}, {width}], found {:?}", tensor.dims());
        }
    }
    let Some(past) = past else {
        if past_rows > 0 {
            candle_core::bail!("attention: {past_rows} past rows, but no past keys and values");
        }
        return Ok(());
    };
    for tensor in [&past.k, &past.v] {
        // rows that no sequence names may follow: constant rows of sequences without depending ones
        if !matches!(tensor.dims(), [rows, width] if *rows >= past_rows && *width == kv_width) {
            candle_core::bail!(
                "attention: expected {past_rows} past rows of {kv_width}, found {:?}",
                tensor.dims()
            );
        }
    }
    Ok(())
}

/// One sequence at a time, with the whole matrix of scores.
pub(crate) fn composite(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    past: Option<&KeyValues>,
    spans: &Spans,
    shape: &AttentionShape,
) -> Result<Tensor> {
    let (hd, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let split = |x: &Tensor, heads: usize| x.reshape((x.dim(0)?, heads, hd))?.transpose(0, 1)?.contiguous();
    let mut outputs = Vec::new();
    for span in spans.iter().filter(|s| !s.rows.is_empty()) {
        let (m, gone) = (span.rows.len(), span.past.len());
        let of = |own: &Tensor, past: Option<&Tensor>| -> Result<Tensor> {
            let own = own.narrow(0, span.rows.start, m)?;
            let all = match past {
                Some(past) if gone > 0 => Tensor::cat(&[&past.narrow(0, span.past.start, gone)?, &own], 0)?,
                _ => own,
            };
            // [kv_heads, keys, hd] -> one copy for each query head of the group
            let heads = split(&all, shape.kv_heads)?;
            let n = heads.dim(1)?;
            heads.unsqueeze(1)?.expand((shape.kv_heads, group, n, hd))?.reshape((shape.heads, n, hd))
        };
        let (keys, values) = (of(k, past.map(|p| &p.k))?, of(v, past.map(|p| &p.v))?);
        let queries = split(&q.narrow(0, span.rows.start, m)?, shape.heads)?;
        let mask: Vec<f32> = (gone..gone + m)
            .flat_map(|at| {
                let first = shape.window.map_or(0, |w| (at + 1).saturating_sub(w));
                (0..gone + m).map(move |j| if j >= first && j <= at { 0.0 } else { f32::NEG_INFINITY })
            })
            .collect();
        let mask = Tensor::from_vec(mask, (1, m, gone + m), q.device())?;
        let scores = (queries.matmul(&keys.t()?)? * shape.scale as f64)?.broadcast_add(&mask)?;
        let top = scores.max_keepdim(D::Minus1)?.detach();
        let weights = scores.broadcast_sub(&top)?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        outputs.push(weights.matmul(&values)?.transpose(0, 1)?.reshape((m, shape.heads * hd))?);
    }
    if outputs.is_empty() { Ok(q.clone()) } else { Tensor::cat(&outputs, 0) }
}

struct Attention {
    shape: AttentionShape,
    spans: Spans,
    past: Option<KeyValues>,
    /// The logarithms of the softmax denominators, left by the forward pass for the backward one.
    lse: Mutex<Vec<f32>>,
}

impl Attention {
    /// Runs `work` with the past keys and values as slices, empty ones when there are none.
    fn with_past<R>(&self, work: impl FnOnce(&[f32], &[f32]) -> R) -> Result<R> {
        match &self.past {
            Some(past) => Ok(work(&floats(&past.k)?, &floats(&past.v)?)),
            None => Ok(work(&[], &[])),
        }
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let name = self.name();
        let (q, k, v) = (contiguous(s1, l1, name)?, contiguous(s2, l2, name)?, contiguous(s3, l3, name)?);
        let mut out = vec![0f32; q.len()];
        let mut lse = vec![0f32; q.len() / self.shape.head_dim];
        time(Part::Attention, attention_flops(&self.shape, &self.spans), || {
            self.with_past(|past_k, past_v| {
                forward(&self.shape, &self.spans, &Inputs { q, k, v, past_k, past_v }, &mut out, &mut lse);
            })
        })?;
        *self.lse.lock().unwrap_or_else(PoisonError::into_inner) = lse;
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dout = dout.contiguous()?;
        let lse = self.lse.lock().unwrap_or_else(PoisonError::into_inner);
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|x| vec![0f32; x.elem_count()]);
        let (q_data, k_data, v_data) = (floats(q)?, floats(k)?, floats(v)?);
        let (out, dout) = (floats(out)?, floats(&dout)?);
        // the forward pass's two products, and three that give the gradients
        time(Part::Attention, attention_flops(&self.shape, &self.spans) / 2 * 5, || {
            self.with_past(|past_k, past_v| {
                let inputs = Inputs { q: &q_data, k: &k_data, v: &v_data, past_k, past_v };
                let saved = Saved { out: &out, lse: &lse, dout: &dout };
                backward(&self.shape, &self.spans, &inputs, &saved, &mut dq, &mut dk, &mut dv);
            })
        })?;
        let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), like.device());
        Ok((Some(tensor(dq, q)?), Some(tensor(dk, k)?), Some(tensor(dv, v)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_same_gradients, random};

    #[test]
    fn the_kernel_and_the_composite_agree() -> Result<()> {
        let spans: Spans = Arc::new(vec![
            Span { rows: 0..5, past: 0..0 },
            Span { rows: 5..5, past: 0..3 },
            Span { rows: 5..9, past: 3..9 },
        ]);
        let past = KeyValues { k: random((9, 6), 1)?, v: random((9, 6), 2)? };
        for window in [None, Some(3)] {
            let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 3, scale: 0.6, window };
            let inputs = [random((9, 12), 3)?, random((9, 6), 4)?, random((9, 6), 5)?];
            assert_same_gradients(
                &inputs,
                |x| attention(&x[0], &x[1], &x[2], Some(&past), &spans, &shape),
                |x| composite(&x[0], &x[1], &x[2], Some(&past), &spans, &shape),
            )?;
        }
        Ok(())
    }

    #[test]
    fn past_rows_without_a_past_are_refused() -> Result<()> {
        let spans: Spans = Arc::new(vec![Span { rows: 0..1, past: 0..2 }]);
        let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 2, scale: 1.0, window: None };
        let x = random((1, 2), 1)?;
        let message = attention(&x, &x, &x, None, &spans, &shape).expect_err("no past given").to_string();
        assert!(message.contains("2 past rows"), "{message}");
        Ok(())
    }
}
