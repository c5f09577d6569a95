//! What a disentangled attention (DeBERTa) has beside an attention: rows for distances, which its queries and keys meet.
//!
//! The rows are the same for all blocks; each block projects them, with projections of their own or with those of its
//! content. They are frozen, so only the projections' updates get gradients from them, and those need a graph.

use super::BlockTensor;
use super::attention::{Attention, Projections};
use super::linear::Linear;
use super::norm::Norm;
use crate::error::Result;
use crate::models::buffers::{Buffer, Buffers};
use crate::models::relative::DisentangledSpec;
use crate::models::update::BlockUpdates;
use crate::ops::{AttentionShape, Sequences, Span};
use crate::weights::FrozenMatrix;
use candle_core::{D, Tensor};
use std::sync::Arc;
use toktune_kernels::attention::Saved;
use toktune_kernels::disentangled::{self, Distances, Inputs, Shape};
use toktune_kernels::matmul::Write;

/// The rows for distances of a stack, `[2 * span, d]`.
#[derive(Debug)]
pub(crate) struct DistanceRows {
    pub(super) spec: DisentangledSpec,
    /// The table's full name.
    pub(super) name: String,
    /// As they are stored.
    pub(super) table: FrozenMatrix,
    pub(super) norm: Option<Norm>,
    /// After the norm, on the host and on the device.
    pub(super) rows: Vec<f32>,
    pub(super) tensor: Tensor,
}

/// What an attention does with them.
#[derive(Clone, Debug)]
pub(super) struct Disentangled {
    pub(super) distances: Arc<DistanceRows>,
    /// To keys, which queries meet.
    pub(super) to_key: Through,
    /// To queries, which keys meet.
    pub(super) to_query: Through,
}

/// How rows for distances become keys or queries.
#[derive(Clone, Debug)]
pub(super) enum Through {
    /// Not at all.
    Nothing,
    /// By the projection of the content.
    Content,
    /// By one of their own.
    Own(Linear),
}

/// The rows that a batch needs, projected.
pub(super) struct Projected {
    keys: Option<Buffer>,
    queries: Option<Buffer>,
    places: Vec<u32>,
}

impl DistanceRows {
    /// Its stored tensors by their names.
    pub(in crate::models) fn tensors(&self) -> Vec<(String, BlockTensor<'_>)> {
        let table = (format!("{}.weight", self.name), BlockTensor::Matrix(&self.table));
        [table].into_iter().chain(self.norm.iter().flat_map(Norm::tensors)).collect()
    }
}

impl Through {
    /// The layer, `content` being that of the content.
    fn linear<'a>(&'a self, content: &'a Linear) -> Option<&'a Linear> {
        match self {
            Through::Nothing => None,
            Through::Content => Some(content),
            Through::Own(linear) => Some(linear),
        }
    }
}

/// Rows of the longest sequence.
fn longest(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.rows.len()).max().unwrap_or(0)
}

impl Disentangled {
    /// The projections that are not those of the content.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        [&self.to_key, &self.to_query].into_iter().filter_map(|through| match through {
            Through::Own(linear) => Some(linear),
            _ => None,
        })
    }

    pub(super) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        [&mut self.to_key, &mut self.to_query].into_iter().filter_map(|through| match through {
            Through::Own(linear) => Some(linear),
            _ => None,
        })
    }

    /// The layers that make keys and queries of the rows.
    fn layers<'a>(&'a self, attention: &'a Attention) -> [Option<&'a Linear>; 2] {
        match &attention.projections {
            Projections::Split(split) => [self.to_key.linear(&split[1]), self.to_query.linear(&split[0])],
            // no family with such an attention fuses its projections
            Projections::Fused(..) => [None, None],
        }
    }

    /// The attention's output before its projection, `[rows, heads * head_dim]`, one sequence at a time with all its scores.
    pub(super) fn forward(
        &self,
        attention: &Attention,
        [q, k, v]: [&Tensor; 3],
        sequences: &Sequences,
        updates: Option<&BlockUpdates>,
    ) -> Result<Tensor> {
        let AttentionShape { heads, head_dim, scale, .. } = attention.shape;
        // [heads, rows, head_dim]
        let split = |x: &Tensor| -> Result<Tensor> {
            Ok(x.reshape((x.dim(0)?, heads, head_dim))?.transpose(0, 1)?.contiguous()?)
        };
        let projected = |linear: Option<&Linear>| {
            linear.map(|linear| split(&linear.forward(&self.distances.tensor, updates)?)).transpose()
        };
        let [to_key, to_query] = self.layers(attention);
        let (keys, queries) = (projected(to_key)?, projected(to_query)?);
        let mut outputs = Vec::new();
        for span in sequences.spans.iter().filter(|span| !span.rows.is_empty()) {
            let n = span.rows.len();
            let own = |x: &Tensor| split(&x.narrow(0, span.rows.start, n)?);
            let (q, k, v) = (own(q)?, own(k)?, own(v)?);
            let places = self.distances.spec.places(n);
            let lines = (0..n).flat_map(|i| (0..n).map(move |j| i + n - 1 - j)).map(|at| places[at]);
            let index = Tensor::from_vec(lines.collect::<Vec<u32>>(), (1, n, n), q.device())?;
            let index = index.expand((heads, n, n))?.contiguous()?;
            let mut scores = q.matmul(&k.t()?)?;
            if let Some(keys) = &keys {
                scores = (scores + q.matmul(&keys.t()?)?.gather(&index, 2)?)?;
            }
            if let Some(queries) = &queries {
                scores = (scores + queries.matmul(&k.t()?)?.gather(&index, 1)?)?;
            }
            let scores = (scores * f64::from(scale))?;
            let top = scores.max_keepdim(D::Minus1)?.detach();
            let weights = scores.broadcast_sub(&top)?.exp()?;
            let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
            outputs.push(weights.matmul(&v)?.transpose(0, 1)?.reshape((n, heads * head_dim))?);
        }
        Ok(if outputs.is_empty() { q.clone() } else { Tensor::cat(&outputs, 0)? })
    }

    /// The rows that the sequences need, as keys and queries of this block, without a graph.
    pub(super) fn project(&self, attention: &Attention, spans: &[Span], buffers: &Buffers) -> Projected {
        let mut places = self.distances.spec.places(longest(spans));
        let first = places.iter().copied().min().unwrap_or(0);
        let end = places.iter().copied().max().map_or(0, |place| place + 1);
        places.iter_mut().for_each(|place| *place -= first);
        let rows = |linear: Option<&Linear>| {
            let linear = linear?;
            let d = linear.inputs();
            let mut projected = buffers.take((end - first) as usize * linear.outputs());
            let needed = &self.distances.rows[first as usize * d..end as usize * d];
            linear.run(needed, Write::Over, &mut projected);
            Some(projected)
        };
        let [to_key, to_query] = self.layers(attention);
        Projected { keys: rows(to_key), queries: rows(to_query), places }
    }
}

impl Projected {
    fn inputs<'a>(&'a self, [q, k, v]: [&'a [f32]; 3]) -> Inputs<'a> {
        let rows = |rows: &'a Option<Buffer>| rows.as_deref().unwrap_or(&[]);
        let distances =
            Distances { keys: rows(&self.keys), queries: rows(&self.queries), places: &self.places };
        Inputs { q, k, v, distances }
    }

    /// The attention's output and the logarithms of its denominators.
    pub(super) fn run(
        &self,
        shape: &AttentionShape,
        spans: &[Span],
        qkv: [&[f32]; 3],
        out: &mut [f32],
        lse: &mut [f32],
    ) {
        disentangled::forward(&plain(shape), spans, &self.inputs(qkv), out, lse);
    }

    /// The gradients of queries, keys and values.
    pub(super) fn pull(
        &self,
        shape: &AttentionShape,
        spans: &[Span],
        qkv: [&[f32]; 3],
        saved: &Saved<'_>,
        gradients: (&mut [f32], &mut [f32], &mut [f32]),
    ) {
        disentangled::backward(&plain(shape), spans, &self.inputs(qkv), saved, gradients);
    }
}

/// What there is of an attention's shape here.
fn plain(shape: &AttentionShape) -> Shape {
    Shape { heads: shape.heads, head_dim: shape.head_dim, scale: shape.scale }
}
