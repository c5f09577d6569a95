//! Adapters for a candle module of your own, trained by candle's autograd.
//!
//! The module tells its embeddings and linear layers by [`CandleModel`]; its forward pass asks [`CandleAdapters`] for
//! the result of a layer in place of computing it. `examples/two_embeddings.rs` is a whole program.

use super::active::ActiveRows;
use super::base::{BaseModel, LayerKind, NamedLayer, TiedLayer, no_such_layer};
use super::layer::TrainableTokensLayer;
use super::lora::LoraLayer;
use super::model::PeftModel;
use crate::error::{Error, Result};
use crate::models::TrainedRows;
use crate::weights::FrozenMatrix;
use candle_core::{D, DType, Device, Tensor, Var};

/// A layer of a [`CandleModel`].
#[derive(Clone, Debug)]
pub struct CandleLayer {
    /// Its full name.
    pub name: String,
    /// What it is.
    pub kind: LayerKind,
    /// Its weight `[rows, cols]`: `[tokens, width]` or `[out, in]`. It is frozen, so no `Var`.
    pub weight: Tensor,
}

/// A model of your own that adapters can be put over: it names its embeddings and linear layers.
pub trait CandleModel {
    /// All embeddings and linear layers, in the model's order; tied ones too, with the weight they share.
    fn layers(&self) -> Vec<CandleLayer>;

    /// Replaces the weight of a layer, and of those that are tied to it: when an adapter is merged.
    fn set_weight(&mut self, layer: &str, weight: Tensor);

    /// The embedding that is meant when a configuration names none; else PEFT's `embed_tokens` is looked for.
    fn input_embedding(&self) -> Option<String> {
        None
    }

    /// The layers that share another's weight.
    fn tied_layers(&self) -> Vec<TiedLayer> {
        Vec::new()
    }
}

fn weight_of<M: CandleModel>(model: &M, layer: &str) -> Result<Tensor> {
    let found = model.layers().into_iter().find(|known| known.name == layer);
    found.map(|known| known.weight).ok_or_else(|| no_such_layer(&BaseModel::named_layers(model), layer))
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// Puts `values` into a tensor of the shape, type and device of `like`.
fn like(values: Vec<f32>, shape: (usize, usize), like: &Tensor) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, shape, like.device())?.to_dtype(like.dtype())?)
}

impl<M: CandleModel> BaseModel for M {
    type Kept = Tensor;

    fn named_layers(&self) -> Vec<NamedLayer> {
        // a weight that is no matrix has no rows to train
        let of = |layer: CandleLayer| {
            let (rows, cols) = layer.weight.dims2().ok()?;
            Some(NamedLayer { name: layer.name, kind: layer.kind, rows, cols })
        };
        self.layers().into_iter().filter_map(of).collect()
    }

    fn input_embedding(&self) -> Option<String> {
        CandleModel::input_embedding(self)
    }

    fn tied_layers(&self) -> Vec<TiedLayer> {
        CandleModel::tied_layers(self)
    }

    fn weight_rows(&self, layer: &str, tokens: &[u32]) -> Result<Vec<f32>> {
        let weight = weight_of(self, layer)?;
        let tokens = Tensor::from_slice(tokens, tokens.len(), weight.device())?;
        floats(&weight.index_select(&tokens, 0)?)
    }

    fn weight(&self, layer: &str) -> Result<FrozenMatrix> {
        let weight = weight_of(self, layer)?;
        let (rows, cols) = weight.dims2()?;
        Ok(FrozenMatrix::from_f32(layer, rows, cols, floats(&weight)?)?)
    }

    fn set_weight(&mut self, layer: &str, weight: FrozenMatrix) -> Result<()> {
        let old = weight_of(self, layer)?;
        let new = like(weight.decode_rows(0..weight.rows()), (weight.rows(), weight.cols()), &old)?;
        CandleModel::set_weight(self, layer, new);
        Ok(())
    }

    fn num_parameters(&self) -> u64 {
        let tied = CandleModel::tied_layers(self);
        let own = self.layers().into_iter().filter(|layer| !tied.iter().any(|t| t.layer == layer.name));
        own.map(|layer| layer.weight.elem_count() as u64).sum()
    }

    fn keep(&self, layer: &str) -> Result<Tensor> {
        weight_of(self, layer)
    }

    fn restore(&mut self, layer: &str, kept: Tensor) -> Result<Tensor> {
        let old = weight_of(self, layer)?;
        CandleModel::set_weight(self, layer, kept);
        Ok(old)
    }

    fn merge_rows(&mut self, layer: &str, rows: &TrainedRows) -> Result<()> {
        let old = weight_of(self, layer)?;
        let (n, width) = old.dims2()?;
        let mut values = floats(&old)?;
        for (at, &id) in rows.indices().iter().enumerate() {
            values[id as usize * width..][..width].copy_from_slice(rows.row(at));
        }
        CandleModel::set_weight(self, layer, like(values, (n, width), &old)?);
        Ok(())
    }

    fn merge_update(&mut self, layer: &str, update: &LoraLayer) -> Result<()> {
        let old = weight_of(self, layer)?;
        let (n, width) = old.dims2()?;
        let mut values = floats(&old)?;
        for (row, values) in values.chunks_exact_mut(width.max(1)).enumerate() {
            update.add_row(row, values);
        }
        CandleModel::set_weight(self, layer, like(values, (n, width), &old)?);
        Ok(())
    }
}

/// The trained values of the active adapters as candle variables, and what layers compute with them.
///
/// Gradients flow into [`CandleAdapters::vars`] and nowhere else. No copy or gradient of a whole matrix is made.
#[derive(Debug)]
pub struct CandleAdapters {
    rows: Vec<(TrainableTokensLayer, Var)>,
    lora: Vec<(LoraLayer, Var, Var)>,
    training: bool,
}

impl<M: CandleModel> PeftModel<M> {
    /// The values of the active adapters as variables on `device`; none when they are disabled or merged.
    ///
    /// # Errors
    /// The device refuses.
    pub fn bind(&self, device: &Device) -> Result<CandleAdapters> {
        let active = match self.enabled && self.merged.is_empty() {
            true => ActiveRows { layers: self.layers(), lora: self.lora_layers(), ..ActiveRows::default() },
            false => ActiveRows::default(),
        };
        let var = |values: &[f32], rows: usize, cols: usize| -> Result<Var> {
            Ok(Var::from_tensor(&Tensor::from_slice(values, (rows, cols), device)?)?)
        };
        let rows = active.layers.iter().map(|layer| {
            let of = layer.rows();
            Ok((layer.clone(), var(&of.values, of.indices().len(), of.width())?))
        });
        let lora = active.lora.iter().map(|layer| {
            let (a, b) =
                (var(&layer.a, layer.r(), layer.inputs())?, var(&layer.b, layer.outputs(), layer.r())?);
            Ok((layer.clone(), a, b))
        });
        Ok(CandleAdapters {
            rows: rows.collect::<Result<_>>()?,
            lora: lora.collect::<Result<_>>()?,
            training: false,
        })
    }

    /// Takes the values of variables that [`PeftModel::bind`] made over into the active adapter.
    ///
    /// # Errors
    /// One adapter must be active, the one that was bound; a value is not finite.
    pub fn read_back(&mut self, adapters: &CandleAdapters) -> Result<()> {
        let name = self.trained_adapter()?.name().to_string();
        let adapter = self.adapter_mut(&name)?;
        let finite = |tensor: &Tensor, layer: &str| -> Result<Vec<f32>> {
            let values = floats(tensor)?;
            match values.iter().all(|x| x.is_finite()) {
                true => Ok(values),
                false => Err(Error::NotFinite { what: format!("a trained value of {layer}") }),
            }
        };
        for (bound, var) in &adapters.rows {
            let values = finite(var, bound.name())?;
            let same = |layer: &&mut TrainableTokensLayer| {
                layer.name() == bound.name() && layer.rows().indices() == bound.rows().indices()
            };
            let layer = adapter.tokens.iter_mut().find(same);
            layer.ok_or_else(|| not_bound(bound.name(), &name))?.rows_mut().values = values;
        }
        for (bound, a, b) in &adapters.lora {
            let layer = adapter.lora.iter_mut().find(|l| l.name() == bound.name() && l.r() == bound.r());
            let layer = layer.ok_or_else(|| not_bound(bound.name(), &name))?;
            (layer.a, layer.b) = (finite(a, bound.name())?, finite(b, bound.name())?);
        }
        Ok(())
    }
}

fn not_bound(layer: &str, adapter: &str) -> Error {
    super::TunerError::NotBound { layer: layer.into(), adapter: adapter.into() }.into()
}

impl CandleAdapters {
    /// Every variable: rows `[k, width]`, then `A [r, in]` and `B [out, r]` of each updated layer.
    pub fn vars(&self) -> Vec<Var> {
        let rows = self.rows.iter().map(|(_, var)| var.clone());
        rows.chain(self.lora.iter().flat_map(|(_, a, b)| [a.clone(), b.clone()])).collect()
    }

    /// Turns dropout on for training, or off.
    pub fn train(&mut self, training: bool) {
        self.training = training;
    }

    fn rows_on(&self, layer: &str) -> Option<(&TrainedRows, &Var)> {
        let found = self.rows.iter().find(|(of, _)| of.modules().any(|module| module == layer));
        found.map(|(of, var)| (of.rows(), var))
    }

    /// What embedding `layer` with the frozen `weight` gives for `ids` (any shape): `[.., width]`. A scale of the
    /// embedding's output is the caller's to apply to the result, so that trained rows are scaled too.
    ///
    /// # Errors
    /// An id is past the weight.
    pub fn embedding(&self, layer: &str, weight: &Tensor, ids: &Tensor) -> Result<Tensor> {
        let mut shape = ids.dims().to_vec();
        shape.push(weight.dim(1)?);
        let flat = ids.flatten_all()?;
        let frozen = weight.index_select(&flat, 0)?;
        let Some((rows, var)) = self.rows_on(layer) else { return Ok(frozen.reshape(shape)?) };
        let ids: Vec<u32> = flat.to_dtype(DType::U32)?.to_vec1()?;
        let trained = rows.indices().len();
        let places = ids.iter().enumerate().map(|(at, id)| rows.position(*id).unwrap_or(trained + at) as u32);
        let places = Tensor::from_iter(places, weight.device())?;
        let all = Tensor::cat(&[&var.as_tensor().to_dtype(weight.dtype())?, &frozen], 0)?;
        Ok(all.index_select(&places, 0)?.reshape(shape)?)
    }

    /// What linear layer (or head) `layer` with the frozen `weight [out, in]` and `bias [out]` gives for `x [.., in]`:
    /// `[.., out]`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn linear(&self, layer: &str, weight: &Tensor, bias: Option<&Tensor>, x: &Tensor) -> Result<Tensor> {
        let inputs = x.dim(D::Minus1)?;
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = weight.dim(0)?;
        }
        let x = x.reshape(((), inputs))?;
        let mut y = x.matmul(&weight.t()?)?;
        if let Some((rows, var)) = self.rows_on(layer) {
            let outputs = weight.dim(0)?;
            let trained = x.matmul(&var.as_tensor().to_dtype(x.dtype())?.t()?)?;
            let places = (0..outputs).map(|at| rows.position(at as u32).map_or(at, |k| outputs + k) as u32);
            let places = Tensor::from_iter(places, weight.device())?;
            y = Tensor::cat(&[&y, &trained], 1)?.index_select(&places, 1)?;
        }
        for (lora, a, b) in self.lora.iter().filter(|(lora, ..)| lora.name() == layer) {
            let x = if self.training { dropped(&x, lora.dropout())? } else { x.clone() };
            let (a, b) = (a.as_tensor().to_dtype(x.dtype())?, b.as_tensor().to_dtype(x.dtype())?);
            y = (y + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * f64::from(lora.scaling()))?)?;
        }
        if let Some(bias) = bias {
            y = y.broadcast_add(bias)?;
        }
        Ok(y.reshape(shape)?)
    }
}

/// `x` with a share `p` of its entries left out and the others made larger for it.
fn dropped(x: &Tensor, p: f32) -> Result<Tensor> {
    if p == 0.0 {
        return Ok(x.clone());
    }
    let keep = Tensor::rand(0f32, 1f32, x.shape(), x.device())?.ge(p)?.to_dtype(x.dtype())?;
    Ok((x * (keep * (1.0 / f64::from(1.0 - p)))?)?)
}
