//! What of a model's adapters acts in a forward pass.

use super::layer::TrainableTokensLayer;
use super::lora::LoraLayer;
use super::model::{Gradient, rows_name, update_names};
use crate::engine::trained::{LowRank, Trained};
use crate::models::{PretrainedModel, TrainedRows};

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

    /// The same as the engine takes it.
    pub fn trained(&self) -> Trained<'a> {
        let update = |layer: &'a LoraLayer| LowRank {
            module: layer.name(),
            r: layer.r(),
            a: &layer.a,
            b: &layer.b,
            scaling: layer.scaling(),
            dropout: layer.dropout(),
        };
        Trained {
            rows: self.layers.iter().map(TrainableTokensLayer::rows).collect(),
            input: self.input,
            encoder: self.encoder,
            output: self.output,
            updates: self.lora.iter().map(update).collect(),
            dropout: self.dropout,
        }
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

    /// A copy of the values, which stays as it is while they are trained.
    pub fn held(&self) -> HeldRows {
        HeldRows {
            layers: self.layers.to_vec(),
            lora: self.lora.to_vec(),
            at: [self.input, self.encoder, self.output],
        }
    }

    /// For a training step: with LoRA's dropout, chosen by `seed`.
    pub fn with_dropout(self, seed: u64) -> Self {
        Self { dropout: Some(seed), ..self }
    }

    /// Gradients by the names of what they are of, from those of a step.
    ///
    /// Panics when they are not those of a step with these values.
    pub fn named(&self, gradients: Vec<Vec<f32>>) -> Vec<Gradient> {
        let rows = self.layers.iter().map(rows_name);
        let names: Vec<String> = rows.chain(self.lora.iter().flat_map(update_names)).collect();
        assert_eq!(names.len(), gradients.len(), "a gradient for each of {names:?}");
        names.into_iter().zip(gradients).map(|(name, values)| Gradient { name, values }).collect()
    }
}

/// Trained values as they were at one time.
#[derive(Clone, Debug, Default)]
pub struct HeldRows {
    layers: Vec<TrainableTokensLayer>,
    lora: Vec<LoraLayer>,
    /// Which layers replace rows of the input embedding, the encoder's and the head.
    at: [Option<usize>; 3],
}

impl HeldRows {
    /// The values as a forward pass uses them.
    pub fn active(&self) -> ActiveRows<'_> {
        let [input, encoder, output] = self.at;
        ActiveRows { layers: &self.layers, input, encoder, output, lora: &self.lora, dropout: None }
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
