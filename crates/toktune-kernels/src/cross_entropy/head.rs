//! What makes logits of products with the vocabulary.

use crate::Isa;
use crate::math::{axpy, tanh};
use crate::weight::TokenTable;
use std::ops::Range;

/// How logits come from hidden rows: `l_v = h · w_v + b_v`, then `cap tanh(l_v / cap)` where there is a cap.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The instructions that everything with this head runs with.
    pub isa: Isa,
    /// The rows `w`, `[vocabulary, d]`.
    pub table: &'a TokenTable<'a>,
    /// The biases `b` of the first entries; the others have none.
    pub bias: &'a [f32],
    /// The cap (Gemma 2).
    pub soft_cap: Option<f32>,
}

impl<'a> Head<'a> {
    /// Logits that are products and nothing else.
    pub fn plain(isa: Isa, table: &'a TokenTable<'a>) -> Self {
        Self { isa, table, bias: &[], soft_cap: None }
    }

    /// Turns the products with `entries` into their logits, one row.
    pub fn finish(&self, entries: Range<usize>, logits: &mut [f32]) {
        let biased = entries.start.min(self.bias.len())..entries.end.min(self.bias.len());
        axpy(self.isa, &mut logits[..biased.len()], 1.0, &self.bias[biased]);
        if let Some(cap) = self.soft_cap {
            cap_logits(self.isa, logits, cap);
        }
    }

    /// The logit of `entry` from its product.
    pub(super) fn finish_one(&self, entry: usize, product: f32) -> f32 {
        let logit = product + self.bias.get(entry).copied().unwrap_or(0.0);
        self.soft_cap.map_or(logit, |cap| cap * tanh(logit / cap))
    }

    /// How a logit grows with its product.
    pub(super) fn slope(&self, logit: f32) -> f32 {
        self.soft_cap.map_or(1.0, |cap| 1.0 - (logit / cap) * (logit / cap))
    }
}

crate::isa::multiversion! {
    fn cap_logits(isa: Isa, logits: &mut [f32], cap: f32) {
        for logit in logits {
            *logit = cap * tanh(*logit / cap);
        }
    }
}

crate::isa::multiversion! {
    /// `weights[i] *= 1 - (logits[i] / cap)²`.
    pub(super) fn scale_by_slopes(isa: Isa, weights: &mut [f32], logits: &[f32], cap: f32) {
        for (weight, logit) in weights.iter_mut().zip(logits) {
            *weight *= 1.0 - (logit / cap) * (logit / cap);
        }
    }
}
