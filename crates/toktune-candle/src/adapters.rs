//! The trained values as candle variables, and what layers compute with them.

use super::base::{CandleModel, OnCandle, floats};
use super::error::{Error, Result};
use candle_core::{D, DType, Device, Tensor, Var};
use toktune::models::TrainedRows;
use toktune::peft::{LoraLayer, PeftError, PeftModel, TrainableTokensLayer};

/// The trained values of the active adapters as candle variables, and what layers compute with them.
///
/// Gradients flow into [`CandleAdapters::vars`] and nowhere else. No copy or gradient of a whole matrix is made.
#[derive(Debug)]
pub struct CandleAdapters {
    rows: Vec<(TrainableTokensLayer, Var)>,
    lora: Vec<(LoraLayer, Var, Var)>,
    training: bool,
}

/// Takes the values of adapters to candle and back.
pub trait Bind {
    /// The values of the active adapters as variables on `device`; none when they are disabled or merged.
    ///
    /// # Errors
    /// The device refuses.
    fn bind(&self, device: &Device) -> Result<CandleAdapters>;

    /// Takes the values of variables that [`Bind::bind`] made over into the active adapter.
    ///
    /// # Errors
    /// One adapter must be active, the one that was bound; a value is not finite.
    fn read_back(&mut self, adapters: &CandleAdapters) -> Result<()>;
}

impl<M: CandleModel> Bind for PeftModel<OnCandle<M>> {
    fn bind(&self, device: &Device) -> Result<CandleAdapters> {
        let acts = self.is_adapter_enabled() && self.merged_adapters().is_empty();
        let (layers, lora) = if acts { (self.layers(), self.lora_layers()) } else { (&[][..], &[][..]) };
        let var = |values: &[f32], rows: usize, cols: usize| -> Result<Var> {
            Ok(Var::from_tensor(&Tensor::from_slice(values, (rows, cols), device)?)?)
        };
        let rows = layers.iter().map(|layer| {
            let of = layer.rows();
            Ok((layer.clone(), var(&of.values, of.indices().len(), of.width())?))
        });
        let lora = lora.iter().map(|layer| {
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

    fn read_back(&mut self, adapters: &CandleAdapters) -> Result<()> {
        let name = self.trained_adapter()?.name().to_string();
        let finite = |tensor: &Tensor, layer: &str| -> Result<Vec<f32>> {
            let values = floats(tensor)?;
            match values.iter().all(|x| x.is_finite()) {
                true => Ok(values),
                false => {
                    let what = format!("a trained value of {layer}");
                    Err(PeftError::from(toktune::EngineError::NotFinite { what }).into())
                }
            }
        };
        for (bound, var) in &adapters.rows {
            let values = finite(var, bound.name())?;
            let same = |layer: &&mut TrainableTokensLayer| {
                layer.name() == bound.name() && layer.rows().indices() == bound.rows().indices()
            };
            let layer = self.layers_mut().iter_mut().find(same);
            layer.ok_or_else(|| not_bound(bound.name(), &name))?.rows_mut().values = values;
        }
        for (bound, a, b) in &adapters.lora {
            let mut layers = self.lora_layers_mut().iter_mut();
            let layer = layers.find(|l| l.name() == bound.name() && l.r() == bound.r());
            let layer = layer.ok_or_else(|| not_bound(bound.name(), &name))?;
            (layer.a, layer.b) = (finite(a, bound.name())?, finite(b, bound.name())?);
        }
        Ok(())
    }
}

fn not_bound(layer: &str, adapter: &str) -> Error {
    PeftError::NotBound { layer: layer.into(), adapter: adapter.into() }.into()
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
