//! What a disentangled attention (DeBERTa) has beside an attention: rows for distances, which its queries and keys meet.
//!
//! The rows are the same for all blocks; each block projects them, with projections of their own or with those of its
//! content. They are frozen, so that only the projections' updates get gradients from them.

use super::LayerTensor;
use super::around::{Around, Gradients};
use super::attention::{Attention, Projections};
use super::linear::Linear;
use super::norm::Norm;
use crate::backend::{AttentionInputs, Backend, Distances, Saved, Sequences};
use crate::spec::DisentangledSpec;
use std::sync::Arc;
use toktune_weights::FrozenMatrix;

/// The rows for distances of a stack, `[2 * span, d]`.
#[derive(Debug)]
pub struct DistanceRows<B: Backend> {
    pub(super) spec: DisentangledSpec,
    /// The table's full name.
    pub(super) name: String,
    /// As they are stored.
    pub(super) table: FrozenMatrix,
    pub(super) norm: Option<Norm<B>>,
    /// After the norm.
    pub(super) rows: B::Buffer,
}

/// What an attention does with them.
#[derive(Debug)]
pub(super) struct Disentangled<B: Backend> {
    pub(super) distances: Arc<DistanceRows<B>>,
    /// To keys, which queries meet.
    pub(super) to_key: Through<B>,
    /// To queries, which keys meet.
    pub(super) to_query: Through<B>,
}

/// How rows for distances become keys or queries.
#[derive(Debug)]
pub(super) enum Through<B: Backend> {
    /// Not at all.
    Nothing,
    /// By the projection of the content.
    Content,
    /// By one of their own.
    Own(Linear<B>),
}

/// The rows that a batch needs, projected.
pub(super) struct Projected<'a, B: Backend> {
    /// As they are before.
    needed: B::Buffer,
    /// The layers that make keys and queries of them, with what they make.
    keys: Option<(&'a Linear<B>, B::Buffer)>,
    queries: Option<(&'a Linear<B>, B::Buffer)>,
    places: Vec<u32>,
}

impl<B: Backend> DistanceRows<B> {
    /// Its stored tensors by their names.
    pub(crate) fn tensors(&self, backend: &B) -> Vec<(String, LayerTensor<'_>)> {
        let table = (format!("{}.weight", self.name), LayerTensor::Matrix(&self.table));
        [table].into_iter().chain(self.norm.iter().flat_map(|norm| norm.tensors(backend))).collect()
    }
}

impl<B: Backend> Through<B> {
    /// The layer, `content` being that of the content.
    fn linear<'a>(&'a self, content: &'a Linear<B>) -> Option<&'a Linear<B>> {
        match self {
            Through::Nothing => None,
            Through::Content => Some(content),
            Through::Own(linear) => Some(linear),
        }
    }
}

impl<B: Backend> Disentangled<B> {
    /// The projections that are not those of the content.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear<B>> {
        [&self.to_key, &self.to_query].into_iter().filter_map(|through| match through {
            Through::Own(linear) => Some(linear),
            _ => None,
        })
    }

    pub(super) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear<B>> {
        [&mut self.to_key, &mut self.to_query].into_iter().filter_map(|through| match through {
            Through::Own(linear) => Some(linear),
            _ => None,
        })
    }

    /// The layers that make keys and queries of the rows.
    fn layers<'a>(&'a self, attention: &'a Attention<B>) -> [Option<&'a Linear<B>>; 2] {
        match &attention.projections {
            Projections::Split(split) => [self.to_key.linear(&split[1]), self.to_query.linear(&split[0])],
            // no family with such an attention fuses its projections
            Projections::Fused(..) => [None, None],
        }
    }

    /// The rows that the sequences need, as keys and queries of this block.
    pub(super) fn project<'a>(
        &'a self,
        attention: &'a Attention<B>,
        around: &Around<'_, B>,
        sequences: &Sequences,
    ) -> Projected<'a, B> {
        let longest = sequences.spans.iter().map(|span| span.rows.len()).max().unwrap_or(0);
        let mut places = self.distances.spec.places(longest);
        let first = places.iter().copied().min().unwrap_or(0);
        let end = places.iter().copied().max().map_or(0, |place| place + 1);
        places.iter_mut().for_each(|place| *place -= first);
        let [to_key, to_query] = self.layers(attention);
        let d = to_key.or(to_query).map_or(0, Linear::inputs);
        let needed = around.backend.part(&self.distances.rows, first as usize * d..end as usize * d);
        let rows = |linear: Option<&'a Linear<B>>| linear.map(|l| (l, l.apply(around, (&needed, 0))));
        Projected { keys: rows(to_key), queries: rows(to_query), places, needed }
    }
}

impl<B: Backend> Projected<'_, B> {
    pub(super) fn distances(&self) -> Distances<'_, B::Buffer> {
        Distances {
            keys: self.keys.as_ref().map(|(_, keys)| keys),
            queries: self.queries.as_ref().map(|(_, queries)| queries),
            places: &self.places,
        }
    }

    /// The gradients of queries, keys and values, and those of the updates of the layers that project the rows.
    pub(super) fn pull(
        &self,
        inputs: &AttentionInputs<'_, B::Buffer>,
        saved: Saved<'_, B::Buffer>,
        qkv: [&mut B::Buffer; 3],
        around: &Around<'_, B>,
        gradients: &mut Gradients<'_, B>,
    ) {
        let backend = around.backend;
        let room = |of: &Option<(&Linear<B>, B::Buffer)>| {
            let (_, rows) = of.as_ref().filter(|(linear, _)| linear.is_updated(around))?;
            Some(backend.take(backend.len(rows)))
        };
        let (mut dkeys, mut dqueries) = (room(&self.keys), room(&self.queries));
        let of_distances = [dkeys.as_mut(), dqueries.as_mut()];
        backend.pull_disentangled(inputs, &self.distances(), saved, qkv, of_distances);
        for (of, gradient) in [(&self.keys, dkeys), (&self.queries, dqueries)] {
            if let (Some((linear, _)), Some(gradient)) = (of, gradient) {
                linear.pull_updates(around, &self.needed, &gradient, gradients);
            }
        }
    }
}
