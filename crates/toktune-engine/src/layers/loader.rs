//! Reading the weights of a stack's parts from a checkpoint.

mod experts;

use super::attention::{Attention, Projections};
use super::block::Block;
use super::convolution::Convolution;
use super::disentangled::{Disentangled, DistanceRows, Through};
use super::feed_forward::FeedForward;
use super::linear::{Linear, Slot};
use super::mlp::{Mlp, Up};
use super::norm::Norm;
use super::sublayer::{Sublayer, Work};
use crate::backend::{Activation, AttentionShape, Backend, Heads, Norming, Stored, StoredAs};
use crate::error::Result;
use crate::spec::{
    AttentionNames, ConvolutionNames, ConvolutionSpec, DisentangledSpec, HalfNorms, LayerSpec, Mixer,
    MlpNames, ModelNames, NormKind, NormSpec, QkNorm, QkvLayout, StackNames, StackSpec,
};
use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;
use toktune_kernels::gated::Xielu;
use toktune_weights::{Checkpoint, FrozenMatrix, RowOrder};

/// What tensors are called in a checkpoint, and in which form they are stored.
#[derive(Debug)]
pub struct Naming {
    /// The names in a GGUF file; `None` for HuggingFace's own.
    pub(crate) gguf: Option<StackNames>,
    /// The names of the model, with those that checkpoints may have instead.
    pub(crate) model: ModelNames,
    /// How the rows of the query and key projections lie.
    pub(crate) qk_order: RowOrder,
    /// How the rows of a fused query, key and value projection lie.
    pub(crate) qkv_order: RowOrder,
    /// Weights of linear layers are stored as `[in, out]`.
    pub(crate) columns: bool,
}

/// Reads the weights of a stack.
#[derive(Debug)]
pub struct Loader<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) naming: &'a Naming,
    pub(crate) spec: &'a StackSpec,
    /// What a disentangled attention has for distances.
    pub(crate) distances: Option<Arc<DistanceRows<B>>>,
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
        for candidate in self.model.forms(name) {
            if checkpoint.contains(&candidate) {
                return candidate;
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

impl<B: Backend> Loader<'_, B> {
    fn find<'n>(&self, name: &'n str) -> Cow<'n, str> {
        self.naming.find(self.checkpoint, name)
    }

    /// A norm outside the blocks, by its name in transformers and in GGUF.
    pub(crate) fn norm(&self, own: &str, gguf: Option<&str>, width: usize) -> Result<Norm<B>> {
        let stored = if self.naming.gguf.is_some() { gguf.unwrap_or(own) } else { own };
        self.read_norm(&Module { own: own.into(), stored: stored.into() }, width, self.spec.norm)
    }

    fn read_norm(&self, module: &Module, width: usize, spec: NormSpec) -> Result<Norm<B>> {
        let vector = |ending: &str| {
            let name = format!("{}{ending}", module.stored);
            self.checkpoint.vector(&self.find(&name), width)
        };
        if spec.bare {
            return Ok(self.bare_norm(module.own.clone(), width));
        }
        let mut weight = vector(".weight")?;
        // a GGUF file holds the sum
        let offset = if spec.plus_one && self.naming.gguf.is_none() { 1.0 } else { 0.0 };
        weight.iter_mut().for_each(|w| *w += offset);
        let bias = match spec.kind {
            NormKind::Layer { bias: true } => Some(self.backend.place(vector(".bias")?)),
            _ => None,
        };
        Ok(Norm {
            module: module.own.clone(),
            norming: norming(spec.kind),
            weight: self.backend.place(weight),
            bias,
            eps: spec.eps,
            bare: false,
            of_heads: None,
        })
    }

    /// A norm without weights.
    fn bare_norm(&self, module: String, width: usize) -> Norm<B> {
        let (norming, weight) = (norming(self.spec.norm.kind), self.backend.place(vec![1.0; width]));
        Norm { module, norming, weight, bias: None, eps: self.spec.norm.eps, bare: true, of_heads: None }
    }

    /// A norm of heads that have weights of their own.
    fn read_head_norms(&self, module: &Module, heads: usize, width: usize) -> Result<Norm<B>> {
        let tensor = |stored: &str| format!("{stored}.weight");
        let mut weights = Vec::with_capacity(heads * width);
        if module.stored.contains("{}") {
            for head in 0..heads {
                let name = tensor(&module.stored.replace("{}", &head.to_string()));
                weights.extend(self.checkpoint.vector(&self.find(&name), width)?);
            }
        } else {
            let name = tensor(&module.stored);
            let matrix = self.checkpoint.matrix(&self.find(&name), heads, width, RowOrder::Plain)?;
            weights = matrix.decode_rows(0..heads);
        }
        Ok(Norm {
            module: module.own.clone(),
            norming: norming(self.spec.norm.kind),
            weight: self.backend.place(vec![1.0; width]),
            // neither family has a bias here, even where its other norms do
            bias: None,
            eps: self.spec.norm.eps,
            bare: false,
            of_heads: Some(self.backend.place(weights)),
        })
    }

    /// A linear layer outside the blocks, which is stored by rows.
    pub(crate) fn linear(&self, name: &str, sizes: (usize, usize), bias: bool) -> Result<Linear<B>> {
        let module = Module { own: name.into(), stored: name.into() };
        self.read_linear(&module, Slot::NONE, sizes, RowOrder::Plain, bias, StoredAs::Rows)
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
        Ok(self.checkpoint.matrix(&self.find(&name), rows, cols, RowOrder::Plain)?)
    }

    /// The rows for distances, normed if there is a norm.
    pub(crate) fn distances(
        &self,
        spec: DisentangledSpec,
        name: &str,
        norm: Option<&str>,
    ) -> Result<DistanceRows<B>> {
        let (count, d) = (2 * spec.span, self.spec.hidden_size);
        let table = self.table(name, None, count, d)?;
        let norm = norm.map(|norm| self.norm(norm, None, d)).transpose()?;
        let raw = self.backend.place(table.decode_rows(0..count));
        let rows = match &norm {
            Some(norm) => norm.apply(self.backend, &raw),
            None => raw,
        };
        Ok(DistanceRows { spec, name: name.into(), table, norm, rows })
    }

    fn read_linear(
        &self,
        module: &Module,
        slot: Slot,
        (outputs, inputs): (usize, usize),
        order: RowOrder,
        bias: bool,
        stored: StoredAs,
    ) -> Result<Linear<B>> {
        let (rows, cols) = match stored {
            StoredAs::Rows => (outputs, inputs),
            StoredAs::Columns => (inputs, outputs),
        };
        let name = format!("{}.weight", module.stored);
        let weight = self.checkpoint.matrix(&self.find(&name), rows, cols, order)?;
        let bias = match bias {
            true => {
                let name = format!("{}.bias", module.stored);
                let values = self.checkpoint.vector(&self.find(&name), outputs)?;
                let ordered: Vec<f32> = (0..outputs).map(|r| values[order.stored(r)]).collect();
                Some(self.backend.place(ordered))
            }
            false => None,
        };
        let matrix = self.backend.matrix(&weight);
        let stored = Stored { matrix, stored };
        Ok(Linear { module: module.own.clone(), slot, frozen: weight, weight: stored, bias })
    }

    /// Block `layer`.
    pub(crate) fn block(&self, layer: usize, of: &LayerSpec) -> Result<Block<B>> {
        let own = &self.spec.names;
        let stored = self.naming.gguf.as_ref().unwrap_or(own);
        let reader = BlockReader { loader: self, layer, slots: Cell::new(0) };
        let mut sublayers = Vec::new();
        let mixer = match (of.mixer, &own.convolution) {
            (Mixer::Convolution(of), Some(names)) => Work::Convolution(reader.convolution(names, of)?),
            _ => {
                let causal = self.spec.attention.causal;
                Work::Own(reader.attention(&own.attention, &stored.attention, of, causal)?)
            }
        };
        let norms = |norms: &HalfNorms| HalfNorms {
            before: norms.before.filter(|_| !of.no_attention_norm),
            ..*norms
        };
        let (own_norms, stored_norms) = (norms(&own.attention.norms), norms(&stored.attention.norms));
        sublayers.push(reader.sublayer(&own_norms, &stored_norms, mixer)?);
        if let (Some(cross), Some(stored)) = (&own.cross, &stored.cross) {
            let all = LayerSpec::default();
            let attention = reader.attention(cross, stored, &all, false)?;
            sublayers.push(reader.sublayer(&cross.norms, &stored.norms, Work::Cross(attention))?);
        }
        let mlp = match (&of.experts, &own.experts) {
            (Some(of), Some(names)) => FeedForward::Experts(Box::new(reader.experts(names, of)?)),
            _ => FeedForward::One(Box::new(reader.mlp(&own.mlp, &stored.mlp, self.spec.mlp.inner)?)),
        };
        sublayers.push(reader.sublayer(&own.mlp.norms, &stored.mlp.norms, Work::Mlp(mlp))?);
        Ok(Block { sublayers, parallel: self.spec.parallel })
    }
}

/// Reads the weights of one block and numbers its linear layers.
struct BlockReader<'a, B: Backend> {
    loader: &'a Loader<'a, B>,
    layer: usize,
    slots: Cell<usize>,
}

impl<B: Backend> BlockReader<'_, B> {
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
    ) -> Result<Linear<B>> {
        let slot = Slot(self.slots.replace(self.slots.get() + 1));
        let naming = self.loader.naming;
        let form = if naming.columns { StoredAs::Columns } else { StoredAs::Rows };
        self.loader.read_linear(&self.module(own, stored), slot, sizes, order, bias, form)
    }

    fn norm(&self, own: Option<&str>, stored: Option<&str>, width: usize) -> Result<Option<Norm<B>>> {
        let (Some(own), Some(stored)) = (own, stored) else { return Ok(None) };
        self.loader.read_norm(&self.module(own, stored), width, self.loader.spec.norm).map(Some)
    }

    fn head_norms(&self, own: Option<&str>, stored: Option<&str>, heads: usize) -> Result<Option<Norm<B>>> {
        let (Some(own), Some(stored)) = (own, stored) else { return Ok(None) };
        let width = self.loader.spec.attention.head_dim;
        self.loader.read_head_norms(&self.module(own, stored), heads, width).map(Some)
    }

    fn sublayer(&self, own: &HalfNorms, stored: &HalfNorms, work: Work<B>) -> Result<Sublayer<B>> {
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
    ) -> Result<Attention<B>> {
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
        let disentangled = self.loader.distances.as_ref().map(|distances| {
            let through = |is_met: bool, name: Option<&str>, width| match name {
                _ if !is_met => Ok(Through::Nothing),
                None => Ok(Through::Content),
                Some(name) => {
                    self.linear((name, name), (width, d), RowOrder::Plain, spec.qkv_bias).map(Through::Own)
                }
            };
            Ok::<_, crate::EngineError>(Disentangled {
                to_key: through(distances.spec.as_keys, own.distance_k, kv)?,
                to_query: through(distances.spec.as_queries, own.distance_q, q)?,
                distances: distances.clone(),
            })
        });
        let qk_norm = |own, stored, heads| match spec.qk_norm {
            QkNorm::Head => self.norm(own, stored, spec.head_dim),
            QkNorm::Width => self.norm(own, stored, heads * spec.head_dim),
            QkNorm::Bare => {
                let named = own.filter(|_| of.rope.is_some()).map(|own: &str| self.module(own, own).own);
                Ok(named.map(|module| self.loader.bare_norm(module, spec.head_dim)))
            }
            QkNorm::EachHead => self.head_norms(own, stored, heads),
        };
        Ok(Attention {
            projections,
            output: self.linear((own.o, stored.o), (d, q), RowOrder::Plain, spec.output_bias)?,
            q_norm: qk_norm(own.q_norm, stored.q_norm, spec.heads)?,
            k_norm: qk_norm(own.k_norm, stored.k_norm, spec.kv_heads)?,
            norm_rotated: spec.norm_rotated,
            shape: AttentionShape {
                heads: spec.heads,
                kv_heads: spec.kv_heads,
                head_dim: spec.head_dim,
                scale: spec.scale,
                window: of.window,
                chunk: of.chunk,
                causal,
                soft_cap: spec.soft_cap,
            },
            limit: spec.limit,
            rope: of.rope,
            tempered: of.tempered,
            heads: Heads { head_dim: spec.head_dim, pairing: spec.pairing },
            sinks: self.sinks(spec.heads)?,
            disentangled: disentangled.transpose()?,
        })
    }

    /// The sinks of the attention, a tensor without an ending.
    fn sinks(&self, heads: usize) -> Result<Option<B::Buffer>> {
        let (loader, names) = (self.loader, &self.loader.spec.names);
        let Some(name) = names.sinks else { return Ok(None) };
        let tensor = names.in_block(self.layer, name);
        let values = loader.checkpoint.vector(&loader.find(&tensor), heads)?;
        Ok(Some(loader.backend.place(values)))
    }

    /// A short convolution; no GGUF file of one is read, so it has one set of names.
    fn convolution(&self, names: &ConvolutionNames, of: ConvolutionSpec) -> Result<Convolution<B>> {
        let (loader, d) = (self.loader, self.loader.spec.hidden_size);
        let linear = |name, sizes| self.linear((name, name), sizes, RowOrder::Plain, of.bias);
        let input = linear(names.input, (3 * d, d))?;
        let module = self.module(names.taps, names.taps);
        let name = format!("{}.weight", module.stored);
        let stored = loader.checkpoint.taps(&loader.find(&name), d, of.taps)?;
        // the row itself comes last in a checkpoint
        let tap = |tap: usize| stored.iter().skip(tap).step_by(of.taps.max(1)).copied();
        let weight = (0..of.taps).rev().flat_map(tap).collect();
        let bias = match of.bias {
            true => {
                let name = format!("{}.bias", module.stored);
                Some(loader.backend.place(loader.checkpoint.vector(&loader.find(&name), d)?))
            }
            false => None,
        };
        Ok(Convolution {
            input,
            output: linear(names.output, (d, d))?,
            module: module.own,
            weight: loader.backend.place(weight),
            bias,
        })
    }

    fn mlp(&self, own: &MlpNames, stored: &MlpNames, inner: usize) -> Result<Mlp<B>> {
        let (spec, d) = (&self.loader.spec.mlp, self.loader.spec.hidden_size);
        let of = |names, sizes| self.linear(names, sizes, RowOrder::Plain, spec.bias);
        let up = match (own.gate, stored.gate) {
            (Some(own_gate), Some(stored_gate)) => {
                Up::Gated(of((own_gate, stored_gate), (inner, d))?, of((own.up, stored.up), (inner, d))?)
            }
            _ if spec.fused => Up::Fused(of((own.up, stored.up), (2 * inner, d))?),
            _ => Up::Plain(of((own.up, stored.up), (inner, d))?),
        };
        let down = of((own.down, stored.down), (d, inner))?;
        Ok(Mlp::new(self.loader.backend, up, down, self.activation()?))
    }

    /// The activation of the MLP, with its parameters where the block has some: the logarithms of `e^a - 1` of those of xIELU, as
    /// transformers' `XIELUActivation` keeps them.
    fn activation(&self) -> Result<Activation> {
        let (loader, names) = (self.loader, &self.loader.spec.names);
        let (Some(module), Activation::Xielu(default)) = (names.activation, loader.spec.mlp.activation)
        else {
            return Ok(loader.spec.mlp.activation);
        };
        let tensor = |name: &str| names.in_block(self.layer, &format!("{module}.{name}"));
        let read = |name: &str| loader.checkpoint.number(&loader.find(&tensor(name)));
        let or = |name: &str, default: f32| match loader.checkpoint.contains(&loader.find(&tensor(name))) {
            true => read(name),
            false => Ok(default),
        };
        let softplus = |x: f32| x.max(0.0) + (-x.abs()).exp().ln_1p();
        let beta = or("beta", default.beta)?;
        Ok(Activation::Xielu(Xielu {
            positive: softplus(read("alpha_p")?),
            negative: beta + softplus(read("alpha_n")?),
            beta,
            eps: or("eps", default.eps)?,
        }))
    }
}

fn norming(kind: NormKind) -> Norming {
    match kind {
        NormKind::Rms => Norming::Rms,
        NormKind::Layer { .. } => Norming::Layer,
    }
}
