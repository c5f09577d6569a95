//! What of a model's adapters acts in a forward pass.

use super::base::{BaseModel, no_such_layer};
use super::layer::TrainableTokensLayer;
use super::lora::LoraLayer;
use crate::error::Result;
use crate::models::{BlockUpdates, Dropout, LinearUpdate, PretrainedModel, TrainedRows};
use candle_core::Tensor;

/// The trained values that a forward pass uses, by where they act.
#[derive(Clone, Copy, Debug, Default)]
pub struct ActiveRows<'a> {
    pub(super) layers: &'a [TrainableTokensLayer],
    /// Which layer replaces rows of the input embedding; the decoder's in an encoder-decoder.
    pub input: Option<usize>,
    /// Which layer replaces rows of the encoder's embedding in an encoder-decoder.
    pub encoder: Option<usize>,
    /// Which layer replaces rows of the head; the same one when they are tied.
    pub output: Option<usize>,
    pub(super) lora: &'a [LoraLayer],
    /// Of the inputs that a training step leaves out; `None` leaves none out.
    pub(super) dropout: Option<u64>,
}

impl<'a> ActiveRows<'a> {
    /// What `layers` and `lora` do to `model`.
    pub(super) fn new(
        layers: &'a [TrainableTokensLayer],
        lora: &'a [LoraLayer],
        model: &PretrainedModel,
    ) -> Self {
        let acting_on = |module: &str| layers.iter().position(|layer| layer.modules().any(|m| m == module));
        let [encoder, input] = match model.encoder_and_decoder_embedding() {
            Some(modules) => modules.map(acting_on),
            None => [None, acting_on(model.embedding_name())],
        };
        Self { layers, input, encoder, output: acting_on(model.head_name()), lora, dropout: None }
    }

    /// Whether an embedding has trained rows.
    pub(crate) fn acts_on_inputs(&self) -> bool {
        self.input.is_some() || self.encoder.is_some()
    }

    /// The rows over the encoder's embedding.
    pub fn encoder_rows(&self) -> Option<&'a TrainedRows> {
        self.encoder.map(|at| self.layers[at].rows())
    }

    /// The rows over the input embedding.
    pub fn input_rows(&self) -> Option<&'a TrainedRows> {
        self.input.map(|at| self.layers[at].rows())
    }

    /// The rows over the head.
    pub fn output_rows(&self) -> Option<&'a TrainedRows> {
        self.output.map(|at| self.layers[at].rows())
    }

    /// The updates of linear layers.
    pub fn lora(&self) -> &'a [LoraLayer] {
        self.lora
    }

    /// For a training step: with LoRA's dropout, chosen by `seed`.
    pub fn with_dropout(self, seed: u64) -> Self {
        Self { dropout: Some(seed), ..self }
    }

    /// Whether a linear layer is updated: then every row of a batch depends on what is trained.
    pub fn has_updates(&self) -> bool {
        !self.lora.is_empty()
    }

    /// The updates of linear layers as [`PretrainedModel::all_blocks`] take them; nothing without LoRA.
    ///
    /// # Errors
    /// The model has no such layer, or its device refuses.
    pub fn updates(&self, model: &PretrainedModel) -> Result<Option<Vec<BlockUpdates>>> {
        if self.lora.is_empty() {
            return Ok(None);
        }
        let places = model.linear_places();
        let mut blocks = vec![BlockUpdates::default(); model.all_blocks().count()];
        for (index, layer) in self.lora.iter().enumerate() {
            let place = places.iter().find(|(name, ..)| name == layer.name());
            let Some(&(_, block, slot)) = place else {
                return Err(no_such_layer(&model.named_layers(), layer.name()));
            };
            let matrix = |values: &[f32], rows: usize, cols: usize| {
                Tensor::from_slice(values, (rows, cols), model.device())
            };
            // far apart, so that the numbers of two layers' entries do not meet
            let seed = |seed: u64| seed.wrapping_add((index as u64 + 1) << 40);
            let dropout = self.dropout.filter(|_| layer.dropout() > 0.0);
            blocks[block].0.push(LinearUpdate {
                slot,
                index,
                a: matrix(&layer.a, layer.r(), layer.inputs())?,
                b: matrix(&layer.b, layer.outputs(), layer.r())?,
                scaling: layer.scaling(),
                dropout: dropout.map(|s| Dropout { share: layer.dropout(), seed: seed(s) }),
            });
        }
        Ok(Some(blocks))
    }

    /// Zeros in the shape of everything that is trained: every layer's rows, then `A` and `B` of each update.
    pub fn zero_gradients(&self) -> Vec<Vec<f32>> {
        let rows = self.layers.iter().map(|layer| layer.rows().values.len());
        let lora = self.lora.iter().flat_map(|layer| [layer.a.len(), layer.b.len()]);
        rows.chain(lora).map(|n| vec![0f32; n]).collect()
    }

    /// Where the gradient of `A` of update `index` is among [`ActiveRows::zero_gradients`]; that of `B` follows it.
    pub(crate) fn place_of_update(&self, index: usize) -> usize {
        self.layers.len() + 2 * index
    }
}

/// The values of several adapters that act together: rows of one layer joined, updates one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Joined {
    pub(super) layers: Vec<TrainableTokensLayer>,
    pub(super) lora: Vec<LoraLayer>,
}

impl Joined {
    /// Joins the layers of adapters whose tokens differ.
    ///
    /// Layers are joined by the modules that they act on: rows that a tied head shares and rows that are its own do not
    /// act on the same, so that each module gets its own list when they differ.
    pub(super) fn of<'a>(adapters: impl Iterator<Item = &'a super::Adapter> + Clone) -> Self {
        let mut modules: Vec<&str> = Vec::new();
        for module in adapters.clone().flat_map(|a| &a.tokens).flat_map(|layer| layer.modules()) {
            if !modules.contains(&module) {
                modules.push(module);
            }
        }
        let parts = |module: &str| -> Vec<&'a TrainableTokensLayer> {
            adapters.clone().filter_map(|adapter| adapter.rows_on(module)).collect()
        };
        let mut layers: Vec<(Vec<String>, Vec<&'a TrainableTokensLayer>)> = Vec::new();
        for module in modules {
            let of = parts(module);
            let same = |other: &[&TrainableTokensLayer]| {
                other.len() == of.len() && other.iter().zip(&of).all(|(a, b)| std::ptr::eq(*a, *b))
            };
            match layers.iter_mut().find(|(_, other)| same(other)) {
                Some((modules, _)) => modules.push(module.to_string()),
                None => layers.push((vec![module.to_string()], of)),
            }
        }
        let join = |(mut modules, parts): (Vec<String>, Vec<&TrainableTokensLayer>)| {
            let indices = parts.iter().flat_map(|part| part.rows().indices()).copied().collect();
            let values = parts.iter().flat_map(|part| &part.rows().values).copied().collect();
            let width = parts.first().map_or(0, |part| part.rows().width());
            let name = modules.remove(0);
            TrainableTokensLayer::new(name, modules, TrainedRows::new(indices, width, values))
        };
        let lora = adapters.clone().flat_map(|adapter| adapter.lora.iter().cloned()).collect();
        Self { layers: layers.into_iter().map(join).collect(), lora }
    }
}
