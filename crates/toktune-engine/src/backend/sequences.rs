//! Where the rows of a batch stand.

use super::{AttentionShape, ScoreBias, Span};
use std::sync::Arc;

/// The sequences of a batch, with what their scores get by query and key.
#[derive(Clone, Debug, Default)]
pub struct Sequences {
    /// Where their rows lie.
    pub spans: Arc<Vec<Span>>,
    /// What is added to the scores.
    pub bias: Option<Arc<ScoreBias>>,
}

impl Sequences {
    /// Sequences whose scores get nothing.
    pub fn new(spans: Vec<Span>) -> Self {
        Self { spans: Arc::new(spans), bias: None }
    }

    /// Operations of the two products of an attention's forward pass.
    pub fn flops(&self, shape: &AttentionShape) -> usize {
        let pairs = |span: &Span| {
            let total = span.position() + span.keys.len();
            let seen = |at: usize| shape.visible(at, total).len();
            (span.position()..span.position() + span.rows.len()).map(seen).sum::<usize>()
        };
        4 * shape.heads * shape.head_dim * self.spans.iter().map(pairs).sum::<usize>()
    }
}
