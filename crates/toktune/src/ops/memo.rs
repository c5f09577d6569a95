//! What of a block's forward pass is kept for its backward pass, and what is computed again.
//!
//! The forward pass runs without a graph and *records* the results that the [`Keep`] level says; the backward pass
//! rebuilds the graph of one block and *replays* them, so that an operation whose result is known, or whose result
//! nothing needs, is not computed. The gradients are the same either way.

use super::attention::{Spans, attention_with};
use super::gated_mlp::{GatedMlpWeights, gated_mlp_with};
use super::linear::frozen_linear_with;
use super::{AttentionShape, KeyValues};
use crate::weights::FrozenMatrix;
use candle_core::{Result, Tensor};
use std::collections::VecDeque;

/// How much of a block is kept, least first; each level keeps what those before it do. The order is that of the arithmetic
/// saved for a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// The block's input alone.
    #[default]
    Input,
    /// The output of the attention and of the projections back to the hidden width, where the backward pass needs them.
    Outputs,
    /// Queries, keys and values.
    Projections,
    /// The gate and the up projection of the MLP: nothing is computed twice.
    Everything,
}

impl Keep {
    /// Every level, least first.
    pub const ALL: [Keep; 4] = [Keep::Input, Keep::Outputs, Keep::Projections, Keep::Everything];
}

/// A result that was kept.
#[derive(Debug)]
pub(super) enum Kept {
    Floats(Vec<f32>),
    Attention { out: Vec<f32>, lse: Vec<f32> },
    Mlp(toktune_kernels::gated_mlp::Kept),
}

/// What an operation does about its result.
#[derive(Debug, Default)]
pub(super) enum Value<K> {
    /// Computes it.
    #[default]
    Compute,
    /// Has it.
    Known(K),
    /// Nothing reads it: zeros serve as well.
    Unused,
}

#[derive(Debug)]
enum State {
    Off,
    Record(VecDeque<Kept>),
    Replay(VecDeque<Kept>),
}

/// The memory of one pass over one block.
#[derive(Debug)]
pub struct Memo {
    keep: Keep,
    state: State,
}

impl Memo {
    /// Keeps nothing and knows nothing.
    pub fn off() -> Self {
        Self { keep: Keep::Input, state: State::Off }
    }

    /// Keeps what `keep` says.
    pub fn record(keep: Keep) -> Self {
        Self { keep, state: State::Record(VecDeque::new()) }
    }

    /// What was recorded, to be used by the next pass.
    pub fn into_replay(self) -> Self {
        match self.state {
            State::Record(kept) => Self { keep: self.keep, state: State::Replay(kept) },
            state => Self { keep: self.keep, state },
        }
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> usize {
        let (State::Record(kept) | State::Replay(kept)) = &self.state else { return 0 };
        let floats = |kept: &Kept| match kept {
            Kept::Floats(x) => x.len(),
            Kept::Attention { out, lse } => out.len() + lse.len(),
            Kept::Mlp(kept) => kept.gate.len() + kept.up.len(),
        };
        kept.iter().map(floats).sum::<usize>() * size_of::<f32>()
    }

    /// Whether results of `level` are recorded now.
    fn records(&self, level: Keep) -> bool {
        matches!(self.state, State::Record(_)) && level <= self.keep
    }

    /// The next recorded result, if results of `level` were.
    fn recall(&mut self, level: Keep) -> Option<Kept> {
        match &mut self.state {
            State::Replay(kept) if level <= self.keep => kept.pop_front(),
            _ => None,
        }
    }

    fn push(&mut self, kept: Kept) {
        if let State::Record(all) = &mut self.state {
            all.push_back(kept);
        }
    }

    /// [`super::frozen_linear`], whose result is kept from `level` on.
    ///
    /// # Errors
    /// As there.
    pub fn linear(
        &mut self,
        x: &Tensor,
        weight: &FrozenMatrix,
        bias: Option<&Tensor>,
        level: Keep,
    ) -> Result<Tensor> {
        let value = match self.recall(level) {
            Some(Kept::Floats(known)) => Value::Known(known),
            _ => Value::Compute,
        };
        let y = frozen_linear_with(x, weight, value)?;
        if self.records(level) {
            self.push(Kept::Floats(super::host::floats(&y)?.to_vec()));
        }
        match bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    /// [`super::frozen_linear`] at the end of a branch, whose result is kept from [`Keep::Outputs`] on if something after it
    /// needs its value to go backward (`is_read`).
    ///
    /// # Errors
    /// As there.
    pub fn output(
        &mut self,
        x: &Tensor,
        weight: &FrozenMatrix,
        bias: Option<&Tensor>,
        is_read: bool,
    ) -> Result<Tensor> {
        match self.state {
            _ if is_read => self.linear(x, weight, bias, Keep::Outputs),
            State::Replay(_) => frozen_linear_with(x, weight, Value::Unused),
            _ => super::frozen_linear(x, weight, bias),
        }
    }

    /// [`super::attention`], whose result is kept from [`Keep::Outputs`] on.
    ///
    /// # Errors
    /// As there.
    pub fn attention(
        &mut self,
        [q, k, v]: [&Tensor; 3],
        past: Option<&KeyValues>,
        spans: &Spans,
        shape: &AttentionShape,
    ) -> Result<Tensor> {
        let value = match self.recall(Keep::Outputs) {
            Some(Kept::Attention { out, lse }) => Value::Known((out, lse)),
            _ => Value::Compute,
        };
        let (out, lse) = attention_with([q, k, v], past, spans, shape, value)?;
        if self.records(Keep::Outputs)
            && let Some(lse) = lse
        {
            self.push(Kept::Attention { out: super::host::floats(&out)?.to_vec(), lse });
        }
        Ok(out)
    }

    /// [`super::gated_mlp`], whose projections are kept at [`Keep::Everything`] and whose result is kept from
    /// [`Keep::Outputs`] on if something after it needs its value to go backward (`is_read`).
    ///
    /// # Errors
    /// As there.
    pub fn gated_mlp(&mut self, x: &Tensor, weights: &GatedMlpWeights<'_>, is_read: bool) -> Result<Tensor> {
        let projections = match self.recall(Keep::Everything) {
            Some(Kept::Mlp(kept)) => Some(kept),
            _ => None,
        };
        let value = if is_read {
            match self.recall(Keep::Outputs) {
                Some(Kept::Floats(known)) => Value::Known(known),
                _ => Value::Compute,
            }
        } else if matches!(self.state, State::Replay(_)) {
            Value::Unused
        } else {
            Value::Compute
        };
        let (y, projections) =
            gated_mlp_with(x, weights, value, projections, self.records(Keep::Everything))?;
        if let Some(projections) = projections {
            self.push(Kept::Mlp(projections));
        }
        if is_read && self.records(Keep::Outputs) {
            self.push(Kept::Floats(super::host::floats(&y)?.to_vec()));
        }
        Ok(y)
    }
}
