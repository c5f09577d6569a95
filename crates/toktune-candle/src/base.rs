//! A candle module as a base for adapters.

use candle_core::{DType, Tensor};
use toktune::models::TrainedRows;
use toktune::peft::{BaseModel, LayerKind, LoraLayer, NamedLayer, PeftError, TiedLayer, no_such_layer};
use toktune::weights::FrozenMatrix;

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

/// A [`CandleModel`] as a base for adapters.
#[derive(Clone, Copy, Debug, Default)]
pub struct OnCandle<M>(pub M);

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

fn weight_of<M: CandleModel>(model: &OnCandle<M>, layer: &str) -> Result<Tensor, PeftError> {
    let found = model.0.layers().into_iter().find(|known| known.name == layer);
    found.map(|known| known.weight).ok_or_else(|| no_such_layer(&model.named_layers(), layer))
}

fn of_model(error: candle_core::Error) -> PeftError {
    PeftError::Model(Box::new(error))
}

pub(super) fn floats(tensor: &Tensor) -> Result<Vec<f32>, PeftError> {
    tensor.to_dtype(DType::F32).and_then(|x| x.flatten_all()?.to_vec1()).map_err(of_model)
}

/// Puts `values` into a tensor of the shape, type and device of `like`.
fn like(values: Vec<f32>, shape: (usize, usize), like: &Tensor) -> Result<Tensor, PeftError> {
    Tensor::from_vec(values, shape, like.device()).and_then(|x| x.to_dtype(like.dtype())).map_err(of_model)
}

impl<M: CandleModel> BaseModel for OnCandle<M> {
    type Kept = Tensor;

    fn named_layers(&self) -> Vec<NamedLayer> {
        // a weight that is no matrix has no rows to train
        let of = |layer: CandleLayer| {
            let (rows, cols) = layer.weight.dims2().ok()?;
            Some(NamedLayer { name: layer.name, kind: layer.kind, rows, cols })
        };
        self.0.layers().into_iter().filter_map(of).collect()
    }

    fn input_embedding(&self) -> Option<String> {
        self.0.input_embedding()
    }

    fn tied_layers(&self) -> Vec<TiedLayer> {
        self.0.tied_layers()
    }

    fn weight_rows(&self, layer: &str, tokens: &[u32]) -> Result<Vec<f32>, PeftError> {
        let weight = weight_of(self, layer)?;
        let rows = Tensor::from_slice(tokens, tokens.len(), weight.device());
        floats(&rows.and_then(|rows| weight.index_select(&rows, 0)).map_err(of_model)?)
    }

    fn weight(&self, layer: &str) -> Result<FrozenMatrix, PeftError> {
        let weight = weight_of(self, layer)?;
        let (rows, cols) = weight.dims2().map_err(of_model)?;
        Ok(FrozenMatrix::from_f32(layer, rows, cols, floats(&weight)?)?)
    }

    fn set_weight(&mut self, layer: &str, weight: FrozenMatrix) -> Result<(), PeftError> {
        let old = weight_of(self, layer)?;
        let new = like(weight.decode_rows(0..weight.rows()), (weight.rows(), weight.cols()), &old)?;
        self.0.set_weight(layer, new);
        Ok(())
    }

    fn num_parameters(&self) -> u64 {
        let tied = self.0.tied_layers();
        let own = self.0.layers().into_iter().filter(|layer| !tied.iter().any(|t| t.layer == layer.name));
        own.map(|layer| layer.weight.elem_count() as u64).sum()
    }

    fn keep(&self, layer: &str) -> Result<Tensor, PeftError> {
        weight_of(self, layer)
    }

    fn restore(&mut self, layer: &str, kept: Tensor) -> Result<Tensor, PeftError> {
        let old = weight_of(self, layer)?;
        self.0.set_weight(layer, kept);
        Ok(old)
    }

    fn merge_rows(&mut self, layer: &str, rows: &TrainedRows) -> Result<(), PeftError> {
        let old = weight_of(self, layer)?;
        let (n, width) = old.dims2().map_err(of_model)?;
        let mut values = floats(&old)?;
        for (at, &id) in rows.indices().iter().enumerate() {
            values[id as usize * width..][..width].copy_from_slice(rows.row(at));
        }
        self.0.set_weight(layer, like(values, (n, width), &old)?);
        Ok(())
    }

    fn merge_update(&mut self, layer: &str, update: &LoraLayer) -> Result<(), PeftError> {
        let old = weight_of(self, layer)?;
        let (n, width) = old.dims2().map_err(of_model)?;
        let mut values = floats(&old)?;
        for (row, values) in values.chunks_exact_mut(width.max(1)).enumerate() {
            update.add_row(row, values);
        }
        self.0.set_weight(layer, like(values, (n, width), &old)?);
        Ok(())
    }
}
