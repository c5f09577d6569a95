//! Where the rows of a batch stand in their sequences.

use super::Stack;
use crate::backend::{Backend, Rotation, Sequences, Span};
use crate::layers::Rows;
use std::sync::Arc;

/// Some rows that pass through a stack together.
#[derive(Clone, Debug, Default)]
pub struct RowPlaces {
    /// Their tokens.
    pub ids: Vec<u32>,
    /// Runs of rows, each with the rows that come before it.
    pub spans: Vec<Span>,
    /// How long the sequence of each span is as a whole; rotations may depend on it.
    pub lengths: Vec<usize>,
    /// Tokens of padding before the rows of each span, where positions do not count them.
    pub uncounted: Vec<usize>,
}

impl RowPlaces {
    /// Whole sequences, `starts` being where each begins and the number of tokens at the end; with no token of padding.
    pub fn whole(ids: Vec<u32>, starts: &[usize]) -> Self {
        let spans: Vec<Span> = starts.windows(2).map(|w| Span::new(w[0]..w[1], 0..0)).collect();
        let lengths = spans.iter().map(|span| span.rows.len()).collect();
        let uncounted = vec![0; spans.len()];
        Self { ids, spans, lengths, uncounted }
    }
}

impl<B: Backend> Stack<B> {
    /// The rows of `places` on the device; `cross` is where they find the encoder's.
    pub fn rows(&self, places: &RowPlaces, cross: Option<Sequences>) -> Rows<B> {
        let mut positions = Vec::new();
        let mut lines: Vec<[Vec<f32>; 2]> = vec![Default::default(); self.spec.ropes.len()];
        let mut longest = 0;
        for (span, &length) in places.spans.iter().zip(&places.lengths) {
            let first = span.position();
            let own: Vec<u32> = (first..first + span.rows.len()).map(|p| p as u32).collect();
            for ([cos, sin], rope) in lines.iter_mut().zip(&self.spec.ropes) {
                let of = rope.frequencies(length);
                // the angle is taken in `f32`, as transformers takes it
                let angles = || own.iter().flat_map(|&p| of.values.iter().map(move |f| p as f32 * f));
                cos.extend(angles().map(|angle| angle.cos() * of.scale));
                sin.extend(angles().map(|angle| angle.sin() * of.scale));
            }
            longest = longest.max(first + span.rows.len());
            positions.extend(own);
        }
        let heads = self.spec.attention.heads;
        let bias = self.spec.relative.and_then(|relative| relative.bias(heads, longest, &self.relative));
        let rotations = lines.into_iter().map(|[cos, sin]| Rotation {
            rows: positions.len(),
            cos: self.backend.place(cos),
            sin: self.backend.place(sin),
        });
        let temperatures = self
            .spec
            .temperature
            .map(|of| self.backend.place(positions.iter().map(|&position| of.factor(position)).collect()));
        Rows {
            ids: places.ids.clone(),
            sequences: Sequences { spans: Arc::new(places.spans.clone()), bias: bias.map(Arc::new) },
            cross,
            rotations: rotations.collect(),
            temperatures,
            positions,
            uncounted: places.uncounted.clone(),
        }
    }
}
