//! Attention over ragged sequences, with constant past keys and values.

use super::host::{contiguous, floats};
use crate::profile::{Part, time};
use candle_core::{CpuStorage, CustomOp3, D, Device, Layout, Result, Shape, Tensor};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use toktune_kernels::attention::{
    Inputs, Saved, ScoreBias, Shape as AttentionShape, Span, backward, forward,
};

/// The sequences of a batch.
pub type Spans = Arc<Vec<Span>>;

/// The sequences of a batch, with what their scores get by query and key.
#[derive(Clone, Debug)]
pub struct Sequences {
    /// Where their rows lie.
    pub spans: Spans,
    /// What is added to the scores.
    pub bias: Option<Arc<ScoreBias>>,
}

impl Sequences {
    /// Sequences whose scores get nothing.
    pub fn new(spans: Vec<Span>) -> Self {
        Self { spans: Arc::new(spans), bias: None }
    }
}

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
/// `q` is `[rows, heads * head_dim]`, `k` and `v` are `[keys, kv_heads * head_dim]`; `past` holds the constant rows
/// that come before them, as `spans` says, and gets no gradient.
///
/// # Errors
/// A tensor is not contiguous `f32`, or the shapes do not fit.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    past: Option<&KeyValues>,
    sequences: &Sequences,
    shape: &AttentionShape,
) -> Result<Tensor> {
    check(q, k, v, past, &sequences.spans, shape)?;
    if q.device().is_cpu() {
        let (sequences, past) = (sequences.clone(), past.cloned());
        q.apply_op3(k, v, Attention { shape: *shape, sequences, past, lse: Mutex::default() })
    } else {
        composite(q, k, v, past, sequences, shape)
    }
}

/// Operations of the two products of an attention's forward pass.
pub(crate) fn attention_flops(shape: &AttentionShape, spans: &[Span]) -> usize {
    let pairs = |span: &Span| {
        let total = span.past.len() + span.keys.len();
        let seen = |at: usize| shape.visible(at, total).len();
        (span.past.len()..span.past.len() + span.rows.len()).map(seen).sum::<usize>()
    };
    4 * shape.heads * shape.head_dim * spans.iter().map(pairs).sum::<usize>()
}

fn check(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    past: Option<&KeyValues>,
    spans: &[Span],
    shape: &AttentionShape,
) -> Result<()> {
    let kv_width = shape.kv_heads * shape.head_dim;
    let rows = spans.last().map_or(0, |s| s.rows.end);
    // keys that no sequence names may follow: rows of an encoder whose decoder is not computed
    let keys = spans.iter().map(|s| s.keys.end).max().unwrap_or(0).max(k.dim(0)?);
    let past_rows = spans.iter().map(|s| s.past.end).max().unwrap_or(0);
    for (tensor, rows, width) in
        [(q, rows, shape.heads * shape.head_dim), (k, keys, kv_width), (v, keys, kv_width)]
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
    sequences: &Sequences,
    shape: &AttentionShape,
) -> Result<Tensor> {
    let (hd, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let split = |x: &Tensor, heads: usize| x.reshape((x.dim(0)?, heads, hd))?.transpose(0, 1)?.contiguous();
    let mut outputs = Vec::new();
    for span in sequences.spans.iter().filter(|s| !s.rows.is_empty()) {
        let (m, gone, total) = (span.rows.len(), span.past.len(), span.past.len() + span.keys.len());
        let of = |own: &Tensor, past: Option<&Tensor>| -> Result<Tensor> {
            let own = own.narrow(0, span.keys.start, span.keys.len())?;
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
        let mut scores = (queries.matmul(&keys.t()?)? * shape.scale as f64)?;
        if let Some(cap) = shape.soft_cap {
            scores = ((scores / cap as f64)?.tanh()? * cap as f64)?;
        }
        let scores = scores.broadcast_add(&added(shape, sequences, gone..gone + m, total, q.device())?)?;
        let top = scores.max_keepdim(D::Minus1)?.detach();
        let weights = scores.broadcast_sub(&top)?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        outputs.push(weights.matmul(&values)?.transpose(0, 1)?.reshape((m, shape.heads * hd))?);
    }
    if outputs.is_empty() { Ok(q.clone()) } else { Tensor::cat(&outputs, 0) }
}

/// What is added to the scores of queries at `positions` with `total` keys, `[heads or 1, queries, keys]`: the bias, and
/// negative infinity where a query does not see a key.
fn added(
    shape: &AttentionShape,
    sequences: &Sequences,
    positions: Range<usize>,
    total: usize,
    device: &Device,
) -> Result<Tensor> {
    let (heads, m) = (if sequences.bias.is_some() { shape.heads } else { 1 }, positions.len());
    let of = |head: usize, at: usize, key: usize| match &sequences.bias {
        _ if !shape.visible(at, total).contains(&key) => f32::NEG_INFINITY,
        Some(bias) => bias.get(head, at, key),
        None => 0.0,
    };
    let values: Vec<f32> = (0..heads)
        .flat_map(|head| positions.clone().map(move |at| (head, at)))
        .flat_map(|(head, at)| (0..total).map(move |key| of(head, at, key)))
        .collect();
    Tensor::from_vec(values, (heads, m, total), device)
}

struct Attention {
    shape: AttentionShape,
    sequences: Sequences,
    past: Option<KeyValues>,
    /// The logarithms of the softmax denominators, left by the forward pass for the backward one.
    lse: Mutex<Vec<f32>>,
}

impl Attention {
    /// Runs `work` with all inputs; past keys and values are empty when there are none.
    fn with_inputs<R>(
        &self,
        (q, k, v): (&[f32], &[f32], &[f32]),
        work: impl FnOnce(&[Span], &Inputs<'_>) -> R,
    ) -> Result<R> {
        let (spans, bias) = (&self.sequences.spans, self.sequences.bias.as_deref());
        match &self.past {
            Some(past) => {
                let (past_k, past_v) = (floats(&past.k)?, floats(&past.v)?);
                Ok(work(spans, &Inputs { q, k, v, past_k: &past_k, past_v: &past_v, bias }))
            }
            None => Ok(work(spans, &Inputs { q, k, v, past_k: &[], past_v: &[], bias })),
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
        time(Part::Attention, attention_flops(&self.shape, &self.sequences.spans), || {
            self.with_inputs((q, k, v), |spans, x| forward(&self.shape, spans, x, &mut out, &mut lse))
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
        time(Part::Attention, attention_flops(&self.shape, &self.sequences.spans) / 2 * 5, || {
            self.with_inputs((&q_data, &k_data, &v_data), |spans, x| {
                let saved = Saved { out: &out, lse: &lse, dout: &dout };
                backward(&self.shape, spans, x, &saved, &mut dq, &mut dk, &mut dv);
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

    const SHAPE: AttentionShape = AttentionShape {
        heads: 4,
        kv_heads: 2,
        head_dim: 3,
        scale: 0.6,
        window: None,
        causal: true,
        soft_cap: None,
    };

    #[test]
    fn the_kernel_and_the_composite_agree() -> Result<()> {
        let own = vec![Span::new(0..5, 0..0), Span::new(5..5, 0..3), Span::new(5..9, 3..9)];
        // rows that attend to other sequences: 7 keys, of which the last belongs to none
        let cross =
            vec![Span { rows: 0..5, past: 0..0, keys: 0..2 }, Span { rows: 5..9, past: 2..4, keys: 2..6 }];
        let past = KeyValues { k: random((9, 6), 1)?, v: random((9, 6), 2)? };
        let bias = Arc::new(ScoreBias::by_distance(4, 12, |head, d| 0.1 * head as f32 + 0.2 * d as f32));
        for (spans, keys, causal, soft_cap, window, bias) in [
            (&own, 9, true, None, None, None),
            (&own, 9, true, None, Some(3), None),
            (&own, 9, false, None, Some(3), Some(bias.clone())),
            (&own, 9, true, Some(0.7), None, None),
            (&own, 9, true, None, None, Some(bias)),
            (&cross, 7, false, None, None, None),
        ] {
            let shape = AttentionShape { window, causal, soft_cap, ..SHAPE };
            let sequences = Sequences { spans: Arc::new(spans.clone()), bias };
            let inputs = [random((9, 12), 3)?, random((keys, 6), 4)?, random((keys, 6), 5)?];
            assert_same_gradients(
                &inputs,
                |x| attention(&x[0], &x[1], &x[2], Some(&past), &sequences, &shape),
                |x| composite(&x[0], &x[1], &x[2], Some(&past), &sequences, &shape),
            )?;
        }
        Ok(())
    }

    #[test]
    fn past_rows_without_a_past_are_refused() -> Result<()> {
        let sequences = Sequences::new(vec![Span::new(0..1, 0..2)]);
        let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 2, ..SHAPE };
        let x = random((1, 2), 1)?;
        let error = attention(&x, &x, &x, None, &sequences, &shape).expect_err("no past given");
        assert!(error.to_string().contains("2 past rows"), "{error}");
        Ok(())
    }
}
