//! Reading the weights of a stack's parts from a checkpoint.

use super::attention::{Attention, Projections};
use super::linear::Linear;
use super::mlp::{Mlp, Up};
use super::norm::Norm;
use super::{Block, Sublayer, Work};
use crate::error::Result;
use crate::models::names::{AttentionNames, HalfNorms, MlpNames, StackNames};
use crate::models::spec::{LayerSpec, NormKind, NormSpec, QkNorm, QkvLayout, StackSpec};
use crate::models::update::Slot;
use crate::ops::{AttentionShape, Heads, StoredAs};
use crate::weights::{Checkpoint, FrozenMatrix, RowOrder};
use candle_core::{Device, Tensor};
use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;

/// What tensors are called in a checkpoint, and in which form they are stored.
pub(crate) struct Naming {
    /// The names in a GGUF file; `None` for HuggingFace's own.
    pub(crate) gguf: Option<StackNames>,
    /// The prefix that checkpoints of the model without its head lack.
    pub(crate) prefix: &'static str,
    /// How the rows of the query and key projections lie.
    pub(crate) qk_order: RowOrder,
    /// How the rows of a fused query, key and value projection lie.
    pub(crate) qkv_order: RowOrder,
    /// Weights of linear layers are stored as `[in, out]`.
    pub(crate) columns: bool,
}

/// Reads the weights of a stack.
pub(crate) struct Loader<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) naming: &'a Naming,
    pub(crate) spec: &'a StackSpec,
    pub(crate) device: &'a Device,
}

/// Endings of the names of a norm's tensors in BERT's first checkpoints.
const FORMER: [(&str, &str); 2] = [(".weight", ".gamma"), (".bias", ".beta")];

/// A module: its name in transformers, and its name in the checkpoint.
struct Module {
    own: String,
    stored: String,
}

impl Naming {
    /// The name of a tensor in `checkpoint`: as it is, without the prefix or with it, or as it was once called.
    pub(crate) fn find<'n>(&self, checkpoint: &Checkpoint, name: &'n str) -> Cow<'n, str> {
        let bare = name.strip_prefix(self.prefix).map(String::from);
        let prefixed = Some(format!("{}{name}", self.prefix));
        for candidate in [Some(name.to_string()), bare, prefixed].into_iter().flatten() {
            if checkpoint.contains(&candidate) {
                return candidate.into();
            }
            for (ending, former) in FORMER {
                let former = candidate.strip_suffix(ending).map(|stem| format!("{stem}{former}"));
                if let Some(former) = former.filter(|name| checkpoint.contains(name)) {
                    return former.into();
                }
            }
        }
        name.into()
    }
}

impl Loader<'_> {
    fn find<'n>(&self, name: &'n str) -> Cow<'n, str> {
        self.naming.find(self.checkpoint, name)
    }

    /// A norm outside the blocks, by its name in transformers and in GGUF.
    pub(crate) fn norm(&self, own: &str, gguf: Option<&str>, width: usize) -> Result<Norm> {
        let stored = if self.naming.gguf.is_some() { gguf.unwrap_or(own) } else { own };
        self.read_norm(&Module { own: own.into(), stored: stored.into() }, width, self.spec.norm)
    }

    fn read_norm(&self, module: &Module, width: usize, spec: NormSpec) -> Result<Norm> {
        let vector = |ending: &str| {
            let name = format!("{}{ending}", module.stored);
            self.checkpoint.vector(&self.find(&name), width)
        };
        let mut weight = vector(".weight")?;
        // a GGUF file holds the sum
        let offset = if spec.plus_one && self.naming.gguf.is_none() { 1.0 } else { 0.0 };
        weight.iter_mut().for_each(|w| *w += offset);
        let bias = match spec.kind {
            NormKind::Layer { bias: true } => vector(".bias")?,
            _ => Vec::new(),
        };
        let tensor = |values: &[f32]| Tensor::from_slice(values, width, self.device);
        Ok(Norm {
            module: module.own.clone(),
            kind: spec.kind,
            weight: tensor(&weight)?,
            bias: (!bias.is_empty()).then(|| tensor(&bias)).transpose()?,
            host: Arc::new((weight, bias)),
            eps: spec.eps,
        })
    }

    /// A linear layer outside the blocks, which is stored by rows.
    pub(crate) fn linear(&self, name: &str, sizes: (usize, usize), bias: bool) -> Result<Linear> {
        let module = Module { own: name.into(), stored: name.into() };
        self.read_linear(&module, Slot(usize::MAX), sizes, RowOrder::Plain, bias, StoredAs::Rows)
    }

    /// A matrix whose rows are looked up.
    pub(crate) fn table(
        &self,
        own: &str,
        gguf: Option<&str>,
        rows: usize,
        cols: usize,
    ) -> Result<FrozenMatrix> {
        let stored = if self.naming.gguf.is_some() { gguf.unwrap_or(own) } else { own };
        let name = format!("{stored}.weight");
        self.checkpoint.matrix(&self.find(&name), rows, cols, RowOrder::Plain)
    }

    fn read_linear(
        &self,
        module: &Module,
        slot: Slot,
        (outputs, inputs): (usize, usize),
        order: RowOrder,
        bias: bool,
        stored: StoredAs,
    ) -> Result<Linear> {
        let (rows, cols) = match stored {
            StoredAs::Rows => (outputs, inputs),
            StoredAs::Columns => (inputs, outputs),
        };
        let name = format!("{}.weight", module.stored);
        let weight = self.checkpoint.matrix(&self.find(&name), rows, cols, order)?;
        let host_bias = if bias {
            let name = format!("{}.bias", module.stored);
            let values = self.checkpoint.vector(&self.find(&name), outputs)?;
            Some(Arc::new((0..outputs).map(|r| values[order.stored(r)]).collect::<Vec<f32>>()))
        } else {
            None
        };
        let bias = match &host_bias {
            Some(values) => Some(Tensor::from_slice(values, outputs, self.device)?),
            None => None,
        };
        Ok(Linear { module: module.own.clone(), slot, weight, stored, bias, host_bias })
    }

    /// Block `layer`.
    pub(crate) fn block(&self, layer: usize, of: &LayerSpec) -> Result<Block> {
        let own = &self.spec.names;
        let stored = self.naming.gguf.as_ref().unwrap_or(own);
        let reader = BlockReader { loader: self, layer, slots: Cell::new(0) };
        let mut sublayers = Vec::new();
        let attention =
            reader.attention(&own.attention, &stored.attention, of, self.spec.attention.causal)?;
        let norms = |norms: &HalfNorms| HalfNorms {
            before: norms.before.filter(|_| !of.no_attention_norm),
            ..*norms
        };
        let (own_norms, stored_norms) = (norms(&own.attention.norms), norms(&stored.attention.norms));
        sublayers.push(reader.sublayer(&own_norms, &stored_norms, Work::Own(attention))?);
        if let (Some(cross), Some(stored)) = (&own.cross, &stored.cross) {
            let all = LayerSpec::default();
            let attention = reader.attention(cross, stored, &all, false)?;
            sublayers.push(reader.sublayer(&cross.norms, &stored.norms, Work::Cross(attention))?);
        }
        let mlp = reader.mlp(&own.mlp, &stored.mlp)?;
        sublayers.push(reader.sublayer(&own.mlp.norms, &stored.mlp.norms, Work::Mlp(mlp))?);
        Ok(Block { sublayers, parallel: self.spec.parallel })
    }
}

/// Reads the weights of one block and numbers its linear layers.
struct BlockReader<'a> {
    loader: &'a Loader<'a>,
    layer: usize,
    slots: Cell<usize>,
}

impl BlockReader<'_> {
    fn module(&self, own: &str, stored: &str) -> Module {
        let names = &self.loader.spec.names;
        let stored_names = self.loader.naming.gguf.as_ref().unwrap_or(names);
        Module { own: names.in_block(self.layer, own), stored: stored_names.in_block(self.layer, stored) }
    }

    fn linear(
        &self,
        (own, stored): (&str, &str),
        sizes: (usize, usize),
        order: RowOrder,
        bias: bool,
    ) -> Result<Linear> {
        let slot = Slot(self.slots.replace(self.slots.get() + 1));
        let naming = self.loader.naming;
        let form = if naming.columns { StoredAs::Columns } else { StoredAs::Rows };
        self.loader.read_linear(&self.module(own, stored), slot, sizes, order, bias, form)
    }

    fn norm(&self, own: Option<&str>, stored: Option<&str>, width: usize) -> Result<Option<Norm>> {
        let (Some(own), Some(stored)) = (own, stored) else { return Ok(None) };
        self.loader.read_norm(&self.module(own, stored), width, self.loader.spec.norm).map(Some)
    }

    fn sublayer(&self, own: &HalfNorms, stored: &HalfNorms, work: Work) -> Result<Sublayer> {
        let d = self.loader.spec.hidden_size;
        Ok(Sublayer {
            before: self.norm(own.before, stored.before, d)?,
            after: self.norm(own.after, stored.after, d)?,
            sum: self.norm(own.sum, stored.sum, d)?,
            scale: self.loader.spec.residual_scale,
            work,
        })
    }

    fn attention(
        &self,
        own: &AttentionNames,
        stored: &AttentionNames,
        of: &LayerSpec,
        causal: bool,
    ) -> Result<Attention> {
        let (spec, d) = (&self.loader.spec.attention, self.loader.spec.hidden_size);
        let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let order = self.loader.naming.qk_order;
        let projections = match spec.layout {
            QkvLayout::Split => {
                let of = |names, width, order| self.linear(names, (width, d), order, spec.qkv_bias);
                Projections::Split(Box::new([
                    of((own.q, stored.q), q, order)?,
                    of((own.k, stored.k), kv, order)?,
                    of((own.v, stored.v), kv, RowOrder::Plain)?,
                ]))
            }
            layout => {
                let (sizes, order) = ((q + 2 * kv, d), self.loader.naming.qkv_order);
                let fused = self.linear((own.q, stored.q), sizes, order, spec.qkv_bias)?;
                Projections::Fused(fused, layout)
            }
        };
        let [q_width, k_width] = match spec.qk_norm {
            QkNorm::Head => [spec.head_dim; 2],
            QkNorm::Width => [q, kv],
        };
        Ok(Attention {
            projections,
            output: self.linear((own.o, stored.o), (d, q), RowOrder::Plain, spec.output_bias)?,
            q_norm: self.norm(own.q_norm, stored.q_norm, q_width)?,
            k_norm: self.norm(own.k_norm, stored.k_norm, k_width)?,
            shape: AttentionShape {
                heads: spec.heads,
                kv_heads: spec.kv_heads,
                head_dim: spec.head_dim,
                scale: spec.scale,
                window: of.window,
                causal,
                soft_cap: spec.soft_cap,
            },
            rope: of.rope,
            heads: Heads { head_dim: spec.head_dim, pairing: spec.pairing },
        })
    }

    fn mlp(&self, own: &MlpNames, stored: &MlpNames) -> Result<Mlp> {
        let (spec, d) = (&self.loader.spec.mlp, self.loader.spec.hidden_size);
        let of = |names, sizes| self.linear(names, sizes, RowOrder::Plain, spec.bias);
        let up = match (own.gate, stored.gate) {
            (Some(own_gate), Some(stored_gate)) => Up::Gated(
                of((own_gate, stored_gate), (spec.inner, d))?,
                of((own.up, stored.up), (spec.inner, d))?,
            ),
            _ if spec.fused => Up::Fused(of((own.up, stored.up), (2 * spec.inner, d))?),
            _ => Up::Plain(of((own.up, stored.up), (spec.inner, d))?),
        };
        let down = of((own.down, stored.down), (d, spec.inner))?;
        Ok(Mlp { up, down, activation: spec.activation })
    }
}
