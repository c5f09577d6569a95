//! One block: an attention and an MLP, and in a decoder with an encoder an attention to it between them, each with its
//! norms, each added to the residual stream.

mod attention;
mod disentangled;
mod experts;
mod feed_forward;
mod linear;
mod loader;
mod mlp;
mod norm;
pub(crate) mod pass;

pub(crate) use attention::Past;
pub(crate) use disentangled::DistanceRows;
pub(super) use linear::Linear;
pub(super) use loader::{Loader, Naming};
pub(crate) use norm::Norm;

use super::stack::RowsOfBatch;
use super::update::{BlockUpdates, Slot};
use crate::error::Result;
use crate::ops::KeyValues;
use crate::weights::FrozenMatrix;
use attention::{Attention, Place};
use candle_core::Tensor;
use feed_forward::FeedForward;
use toktune_kernels::Precision;

/// Frozen weights of one block.
#[derive(Clone, Debug)]
pub struct Block {
    sublayers: Vec<Sublayer>,
    /// Every sublayer reads the block's input.
    parallel: bool,
}

/// A part of a block that adds to the residual stream: `y = sum_norm(x + scale * after(work(before(x))))`.
#[derive(Clone, Debug)]
struct Sublayer {
    before: Option<Norm>,
    after: Option<Norm>,
    sum: Option<Norm>,
    scale: f32,
    work: Work,
}

#[derive(Clone, Debug)]
enum Work {
    /// Attention of a sequence to itself.
    Own(Attention),
    /// Attention to the encoder's rows.
    Cross(Attention),
    Mlp(FeedForward),
}

impl Work {
    /// The linear layers that can have updates.
    fn linears(&self) -> Vec<&Linear> {
        match self {
            Work::Own(attention) | Work::Cross(attention) => attention.linears(),
            Work::Mlp(mlp) => mlp.linears(),
        }
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Work::Own(attention) | Work::Cross(attention) => attention.linears_mut(),
            Work::Mlp(mlp) => mlp.linears_mut(),
        }
    }

    /// Every linear layer.
    fn all_linears(&self) -> Vec<&Linear> {
        match self {
            Work::Own(_) | Work::Cross(_) => self.linears(),
            Work::Mlp(mlp) => mlp.all_linears(),
        }
    }
}

impl Block {
    /// Runs the block on `x [rows, d]`; also returns the rows' keys and values, for rows that come later.
    ///
    /// `past` holds the keys and values of the rows that come before, as `rows` says; `memory` the last hidden rows of the
    /// encoder, where there is one. Every operation is differentiable; `pass` does the same without a graph.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward(
        &self,
        x: &Tensor,
        rows: &RowsOfBatch,
        past: Option<&KeyValues>,
        memory: Option<&Memory>,
    ) -> Result<(Tensor, KeyValues)> {
        self.forward_with(x, rows, past, memory, None)
    }

    /// The same with `updates` of its linear layers, which are differentiable in them too.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward_with(
        &self,
        x: &Tensor,
        rows: &RowsOfBatch,
        past: Option<&KeyValues>,
        memory: Option<&Memory>,
        updates: Option<&BlockUpdates>,
    ) -> Result<(Tensor, KeyValues)> {
        let (input, mut x, mut key_values) = (x.clone(), x.clone(), None);
        for sublayer in &self.sublayers {
            let read = if self.parallel { &input } else { &x };
            let normed = sublayer.before.as_ref().map(|norm| norm.forward(read)).transpose()?;
            let normed = normed.as_ref().unwrap_or(read);
            let mut update = match &sublayer.work {
                Work::Own(attention) => {
                    let (update, of_rows) =
                        attention.forward(normed, None, own_place(attention, rows), past, updates)?;
                    key_values = Some(of_rows);
                    update
                }
                Work::Cross(attention) => cross(attention, normed, rows, memory, updates)?,
                Work::Mlp(mlp) => mlp.forward(normed, updates)?,
            };
            if let Some(norm) = &sublayer.after {
                update = norm.forward(&update)?;
            }
            if sublayer.scale != 1.0 {
                update = (update * f64::from(sublayer.scale))?;
            }
            x = (x + update)?;
            if let Some(norm) = &sublayer.sum {
                x = norm.forward(&x)?;
            }
        }
        match key_values {
            Some(key_values) => Ok((x, key_values)),
            None => unreachable!("the loader gives every block an attention to its own sequence"),
        }
    }

    /// The keys and values of `x` alone: all that is left to do for rows whose hidden state nobody needs.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn key_values(&self, x: &Tensor, rows: &RowsOfBatch) -> Result<KeyValues> {
        let (attention, before) = self.own_attention();
        let normed = before.map(|norm| norm.forward(x)).transpose()?;
        attention.key_values(normed.as_ref().unwrap_or(x), own_place(attention, rows).rotary)
    }

    /// The attention of a sequence to itself, with the norm before it.
    fn own_attention(&self) -> (&Attention, Option<&Norm>) {
        let of = |sublayer: &'_ Sublayer| matches!(sublayer.work, Work::Own(_));
        match self.sublayers.iter().find(|s| of(s)) {
            Some(Sublayer { work: Work::Own(attention), before, .. }) => (attention, before.as_ref()),
            _ => unreachable!("the loader gives every block an attention to its own sequence"),
        }
    }

    /// Takes the products of the block in `precision`, by the type of each weight.
    pub(super) fn set_precision(&mut self, precision: impl Fn(&FrozenMatrix) -> Precision) {
        let linears = self.sublayers.iter_mut().flat_map(|sublayer| match &mut sublayer.work {
            Work::Own(attention) | Work::Cross(attention) => attention.linears_mut(),
            Work::Mlp(mlp) => mlp.imprecise_linears_mut(),
        });
        for linear in linears {
            linear.weight.set_precision(precision(&linear.weight));
        }
    }

    /// Every linear layer, those of experts and their routers too.
    pub(super) fn all_linears(&self) -> impl Iterator<Item = &Linear> {
        self.sublayers.iter().flat_map(|sublayer| sublayer.work.all_linears())
    }

    /// The linear layers that can have updates: full names, places, weights.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.sublayers.iter().flat_map(|sublayer| sublayer.work.linears())
    }

    fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.sublayers.iter_mut().flat_map(|sublayer| sublayer.work.linears_mut())
    }

    /// The weight of the linear layer of this full name, to be replaced.
    pub(super) fn linear_mut(&mut self, module: &str) -> Option<&mut FrozenMatrix> {
        self.linears_mut().find(|linear| linear.module == module).map(|linear| &mut linear.weight)
    }

    /// Every weight of the block by its full name, `.weight` or `.bias` included.
    pub(super) fn tensors(&self) -> Vec<(String, BlockTensor<'_>)> {
        let mut tensors = Vec::new();
        for linear in self.all_linears() {
            tensors.extend(linear.tensors());
        }
        for sublayer in &self.sublayers {
            let of_heads = match &sublayer.work {
                Work::Own(attention) | Work::Cross(attention) => {
                    [attention.q_norm.as_ref(), attention.k_norm.as_ref()]
                }
                Work::Mlp(_) => [None, None],
            };
            let around = [sublayer.before.as_ref(), sublayer.after.as_ref(), sublayer.sum.as_ref()];
            for norm in around.into_iter().chain(of_heads).flatten() {
                // a norm that two sublayers read is one tensor
                let named = norm.tensors();
                if !tensors.iter().any(|(name, _)| *name == named[0].0) {
                    tensors.extend(named);
                }
            }
        }
        tensors
    }
}

/// The last hidden rows of an encoder, as a decoder's blocks attend to them.
#[derive(Clone, Debug)]
pub struct Memory {
    /// The rows that depend on what is trained, `[rows, d]`.
    pub depending: Tensor,
    /// The rows that do not.
    pub constant: Tensor,
}

fn own_place<'a>(attention: &Attention, rows: &'a RowsOfBatch) -> Place<'a> {
    Place { sequences: &rows.sequences, rotary: attention.rope.map(|rope| &rows.rotary[rope]) }
}

fn cross(
    attention: &Attention,
    x: &Tensor,
    rows: &RowsOfBatch,
    memory: Option<&Memory>,
    updates: Option<&BlockUpdates>,
) -> Result<Tensor> {
    let (Some(memory), Some(sequences)) = (memory, rows.cross.as_ref()) else {
        return Err(candle_core::Error::Msg("a decoder without its encoder's rows".into()).into());
    };
    let past =
        (memory.constant.dim(0)? > 0).then(|| attention.key_values(&memory.constant, None)).transpose()?;
    let place = Place { sequences, rotary: None };
    Ok(attention.forward(x, Some(&memory.depending), place, past.as_ref(), updates)?.0)
}

/// A weight of a block as the block holds it.
pub(super) enum BlockTensor<'a> {
    Matrix(&'a FrozenMatrix),
    /// A bias.
    Bias(&'a [f32]),
    /// What a norm multiplies with, the family's offset in it.
    Norm(&'a [f32]),
}

impl Linear {
    pub(super) fn slot(&self) -> Slot {
        self.slot
    }

    pub(super) fn module(&self) -> &str {
        &self.module
    }

    pub(super) fn weight(&self) -> &FrozenMatrix {
        &self.weight
    }

    pub(super) fn tensors(&self) -> Vec<(String, BlockTensor<'_>)> {
        let weight = (format!("{}.weight", self.module), BlockTensor::Matrix(&self.weight));
        let bias = self.host_bias.as_ref();
        let bias = bias.map(|bias| (format!("{}.bias", self.module), BlockTensor::Bias(bias)));
        [weight].into_iter().chain(bias).collect()
    }
}
