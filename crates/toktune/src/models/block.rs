//! One decoder block: attention and a gated MLP, each behind a norm, each added to the residual stream.

pub(crate) mod pass;

use super::decoder::RowsOfBatch;
use super::spec::{DecoderSpec, LayerSpec, TensorNames};
use super::update::{BlockUpdates, Slot};
use crate::error::Result;
use crate::ops::{self, Activation, AttentionShape, KeyValues};
use crate::weights::{Checkpoint, FrozenMatrix, RowOrder};
use candle_core::{Device, Tensor};
use std::sync::Arc;
use toktune_kernels::Precision;

/// A frozen linear layer `[out, in]`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    weight: FrozenMatrix,
    bias: Option<Tensor>,
    /// The bias on the host.
    host_bias: Option<Arc<Vec<f32>>>,
}

/// A frozen norm: its weight `[width]`.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    weight: Tensor,
    /// The weight on the host.
    host_weight: Arc<Vec<f32>>,
    eps: f32,
}

/// Frozen weights of one decoder block.
#[derive(Clone, Debug)]
pub struct Block {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    attention_norm: Norm,
    post_attention_norm: Option<Norm>,
    mlp_norm: Norm,
    post_mlp_norm: Option<Norm>,
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: Activation,
    attention: AttentionShape,
    rope: usize,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(ops::frozen_linear(x, &self.weight, self.bias.as_ref())?)
    }

    /// The same with what `updates` have for the place where it stands.
    fn forward_with(&self, x: &Tensor, slot: Slot, updates: Option<&BlockUpdates>) -> Result<Tensor> {
        let y = self.forward(x)?;
        match updates {
            Some(updates) => updates.add(slot, x, y),
            None => Ok(y),
        }
    }
}

impl Norm {
    /// What it multiplies with, `[width]`: the family's offset is in it.
    pub(super) fn weight(&self) -> &Tensor {
        &self.weight
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(ops::rms_norm(x, &self.weight, self.eps)?)
    }

    /// Norms each head of `x [rows, heads * width]` on its own.
    fn forward_heads(&self, x: &Tensor) -> Result<Tensor> {
        let width = self.weight.elem_count();
        let heads = x.reshape((x.elem_count() / width, width))?;
        Ok(self.forward(&heads)?.reshape(x.shape())?)
    }
}

/// Reads the weights of a model under the names of its family or of GGUF.
pub(super) struct Loader<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) names: &'a TensorNames,
    pub(super) spec: &'a DecoderSpec,
    /// How the rows of the query and key projections lie.
    pub(super) qk_order: RowOrder,
    /// Added to norm weights: 1 where the family stores `w` and uses `1 + w`.
    pub(super) norm_offset: f32,
    pub(super) device: &'a Device,
}

impl Loader<'_> {
    pub(super) fn norm(&self, name: &str, width: usize) -> Result<Norm> {
        let mut weight = self.checkpoint.vector(&format!("{name}.weight"), width)?;
        weight.iter_mut().for_each(|w| *w += self.norm_offset);
        let on_device = Tensor::from_slice(&weight, width, self.device)?;
        Ok(Norm { weight: on_device, host_weight: Arc::new(weight), eps: self.spec.norm_eps })
    }

    fn linear(
        &self,
        name: &str,
        (rows, cols): (usize, usize),
        order: RowOrder,
        bias: bool,
    ) -> Result<Linear> {
        let weight = self.checkpoint.matrix(&format!("{name}.weight"), rows, cols, order)?;
        let host_bias = if bias {
            let stored = self.checkpoint.vector(&format!("{name}.bias"), rows)?;
            Some(Arc::new((0..rows).map(|r| stored[order.stored(r)]).collect::<Vec<f32>>()))
        } else {
            None
        };
        let bias = match &host_bias {
            Some(values) => Some(Tensor::from_slice(values, rows, self.device)?),
            None => None,
        };
        Ok(Linear { weight, bias, host_bias })
    }

    pub(super) fn block(&self, layer: usize, of: &LayerSpec) -> Result<Block> {
        let (spec, names) = (self.spec, self.names);
        let name = |name: &str| names.in_block(layer, name);
        let (d, inner, hd) = (spec.hidden_size, spec.intermediate_size, spec.head_dim);
        let (q_width, kv_width) = (spec.heads * hd, spec.kv_heads * hd);
        let plain = RowOrder::Plain;
        // GGUF's one table of names holds the norms of every family: a norm is there if the family has it.
        let norm = |of: Option<&str>, width| of.map(|n| self.norm(&name(n), width)).transpose();
        Ok(Block {
            q: self.linear(&name(names.q), (q_width, d), self.qk_order, spec.qkv_bias)?,
            k: self.linear(&name(names.k), (kv_width, d), self.qk_order, spec.qkv_bias)?,
            v: self.linear(&name(names.v), (kv_width, d), plain, spec.qkv_bias)?,
            o: self.linear(&name(names.o), (d, q_width), plain, spec.output_bias)?,
            q_norm: norm(names.q_norm, hd)?,
            k_norm: norm(names.k_norm, hd)?,
            attention_norm: self.norm(&name(names.attention_norm), d)?,
            post_attention_norm: norm(names.post_attention_norm, d)?,
            mlp_norm: self.norm(&name(names.mlp_norm), d)?,
            post_mlp_norm: norm(names.post_mlp_norm, d)?,
            gate: self.linear(&name(names.gate), (inner, d), plain, spec.mlp_bias)?,
            up: self.linear(&name(names.up), (inner, d), plain, spec.mlp_bias)?,
            down: self.linear(&name(names.down), (d, inner), plain, spec.mlp_bias)?,
            activation: spec.activation,
            attention: AttentionShape {
                heads: spec.heads,
                kv_heads: spec.kv_heads,
                head_dim: hd,
                scale: spec.attention_scale,
                window: of.window,
            },
            rope: of.rope,
        })
    }
}

impl Block {
    /// Runs the block on `x [rows, d]`; also returns the rows' keys and values, for rows that come later.
    ///
    /// `past` holds the keys and values of the rows that come before, as `rows` says. Every operation is differentiable;
    /// `pass` does the same without a graph.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward(
        &self,
        x: &Tensor,
        rows: &RowsOfBatch,
        past: Option<&KeyValues>,
    ) -> Result<(Tensor, KeyValues)> {
        self.forward_with(x, rows, past, None)
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
        updates: Option<&BlockUpdates>,
    ) -> Result<(Tensor, KeyValues)> {
        let normed = self.attention_norm.forward(x)?;
        let project = |linear: &Linear, slot: Slot| linear.forward_with(&normed, slot, updates);
        let (mut q, mut k) = (project(&self.q, Slot::Query)?, project(&self.k, Slot::Key)?);
        let v = project(&self.v, Slot::Value)?;
        if let Some(norm) = &self.q_norm {
            q = norm.forward_heads(&q)?;
        }
        if let Some(norm) = &self.k_norm {
            k = norm.forward_heads(&k)?;
        }
        let (lines, hd) = (&rows.rotary[self.rope], self.attention.head_dim);
        let (q, k) = (ops::rotary(&q, lines, hd)?, ops::rotary(&k, lines, hd)?);
        let attended = ops::attention(&q, &k, &v, past, &rows.spans, &self.attention)?;
        let mut update = self.o.forward_with(&attended, Slot::Output, updates)?;
        if let Some(norm) = &self.post_attention_norm {
            update = norm.forward(&update)?;
        }
        let x = (x + update)?;
        let mut update = self.mlp(&self.mlp_norm.forward(&x)?, updates)?;
        if let Some(norm) = &self.post_mlp_norm {
            update = norm.forward(&update)?;
        }
        Ok(((x + update)?, KeyValues { k, v }))
    }

    fn mlp(&self, x: &Tensor, updates: Option<&BlockUpdates>) -> Result<Tensor> {
        let updated = updates.is_some_and(BlockUpdates::reach_mlp);
        if let Some(weights) = self.plain_mlp().filter(|_| !updated) {
            return Ok(ops::gated_mlp(x, &weights)?);
        }
        let gate = self.gate.forward_with(x, Slot::Gate, updates)?;
        let up = self.up.forward_with(x, Slot::Up, updates)?;
        self.down.forward_with(&ops::gated(&gate, &up, self.activation)?, Slot::Down, updates)
    }

    /// The weights of the MLP, if they are all there is to it.
    fn plain_mlp(&self) -> Option<ops::GatedMlpWeights<'_>> {
        let plain = [&self.gate, &self.up, &self.down].iter().all(|linear| linear.bias.is_none());
        let (gate, up, down) = (&self.gate.weight, &self.up.weight, &self.down.weight);
        plain.then_some(ops::GatedMlpWeights { gate, up, down, activation: self.activation })
    }

    /// Takes the products of the block in `precision`, by the type of each weight.
    pub(super) fn set_precision(&mut self, precision: impl Fn(&FrozenMatrix) -> Precision) {
        for linear in
            [&mut self.q, &mut self.k, &mut self.v, &mut self.o, &mut self.gate, &mut self.up, &mut self.down]
        {
            linear.weight.set_precision(precision(&linear.weight));
        }
    }

    /// The keys and values of `x` alone: all that is left to do for rows whose hidden state nobody needs.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn key_values(&self, x: &Tensor, rows: &RowsOfBatch) -> Result<KeyValues> {
        let normed = self.attention_norm.forward(x)?;
        let (mut k, v) = (self.k.forward(&normed)?, self.v.forward(&normed)?);
        if let Some(norm) = &self.k_norm {
            k = norm.forward_heads(&k)?;
        }
        Ok(KeyValues { k: ops::rotary(&k, &rows.rotary[self.rope], self.attention.head_dim)?, v })
    }

    /// The names and weights of the linear layers, by the names of `names`.
    pub(super) fn linears<'a>(&'a self, names: &TensorNames) -> [(&'static str, &'a FrozenMatrix); 7] {
        self.named_linears(names).map(|(name, linear)| (name, &linear.weight))
    }

    /// The same weights, to be replaced.
    pub(super) fn linears_mut(&mut self, names: &TensorNames) -> [(&'static str, &mut FrozenMatrix); 7] {
        [
            (names.q, &mut self.q.weight),
            (names.k, &mut self.k.weight),
            (names.v, &mut self.v.weight),
            (names.o, &mut self.o.weight),
            (names.gate, &mut self.gate.weight),
            (names.up, &mut self.up.weight),
            (names.down, &mut self.down.weight),
        ]
    }

    /// Every weight of the block by its name in `names`, `.weight` or `.bias` included.
    pub(super) fn tensors<'a>(&'a self, names: &TensorNames) -> Vec<(String, BlockTensor<'a>)> {
        let mut tensors = Vec::new();
        for (name, linear) in self.named_linears(names) {
            tensors.push((format!("{name}.weight"), BlockTensor::Matrix(&linear.weight)));
            tensors.extend(linear.bias.iter().map(|b| (format!("{name}.bias"), BlockTensor::Bias(b))));
        }
        for (name, norm) in [
            (Some(names.attention_norm), Some(&self.attention_norm)),
            (names.post_attention_norm, self.post_attention_norm.as_ref()),
            (Some(names.mlp_norm), Some(&self.mlp_norm)),
            (names.post_mlp_norm, self.post_mlp_norm.as_ref()),
            (names.q_norm, self.q_norm.as_ref()),
            (names.k_norm, self.k_norm.as_ref()),
        ] {
            if let (Some(name), Some(norm)) = (name, norm) {
                tensors.push((format!("{name}.weight"), BlockTensor::Norm(norm)));
            }
        }
        tensors
    }

    fn named_linears<'a>(&'a self, names: &TensorNames) -> [(&'static str, &'a Linear); 7] {
        [
            (names.q, &self.q),
            (names.k, &self.k),
            (names.v, &self.v),
            (names.o, &self.o),
            (names.gate, &self.gate),
            (names.up, &self.up),
            (names.down, &self.down),
        ]
    }
}

/// A weight of a block as the block holds it.
pub(super) enum BlockTensor<'a> {
    Matrix(&'a FrozenMatrix),
    Bias(&'a Tensor),
    Norm(&'a Norm),
}
