//! What an adapter is put over: any model with named layers.

use super::PeftError;
use super::lora::LoraLayer;
use crate::config::CAUSAL_LM;
use crate::engine::backend::StoredAs;
use crate::models::{ModelKind, PretrainedModel, ReplaceError, TokenMatrix, TrainedRows};
use crate::peft::error::Result;
use crate::weights::FrozenMatrix;
use crate::weights::nearest;
use std::fmt::Debug;

/// What a layer is to an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// A matrix whose rows are looked up by token.
    Embedding,
    /// A linear layer whose outputs are the vocabulary: its rows belong to tokens, and `all-linear` leaves it out.
    Head,
    /// Any other linear layer.
    Linear,
}

/// A layer with a weight `[rows, cols]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedLayer {
    /// Its full name, as transformers (or the model's author) names the module.
    pub name: String,
    /// What it is.
    pub kind: LayerKind,
    /// Outputs of a linear layer, tokens of an embedding.
    pub rows: usize,
    /// Inputs of a linear layer, width of an embedding.
    pub cols: usize,
}

impl NamedLayer {
    /// Whether its rows belong to tokens.
    pub fn has_token_rows(&self) -> bool {
        self.kind != LayerKind::Linear
    }
}

/// A layer that shares the weight of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TiedLayer {
    /// The layer without a weight of its own.
    pub layer: String,
    /// The layer whose weight it is.
    pub source: String,
}

/// A frozen model as adapters see it.
///
/// [`PretrainedModel`] is one. A candle module of your own becomes one in the crate `toktune-candle`.
pub trait BaseModel {
    /// A layer's weight as it was before a merge.
    type Kept: Clone + Debug;

    /// All embeddings and linear layers, in the model's order; tied ones too.
    fn named_layers(&self) -> Vec<NamedLayer>;

    /// PEFT's `task_type` of such a model; `None` where PEFT has no name for it.
    fn task_type(&self) -> Option<&'static str> {
        Some(CAUSAL_LM)
    }

    /// The embedding that is meant when a configuration names none.
    fn input_embedding(&self) -> Option<String>;

    /// The layers that share another's weight.
    fn tied_layers(&self) -> Vec<TiedLayer>;

    /// A layer that the configuration ties to another, though the stored model has a weight of its own for it. PEFT goes by the
    /// configuration, and stores rows for such a layer.
    fn tied_by_configuration(&self) -> Option<TiedLayer> {
        None
    }

    /// Rows of a layer's weight, `[tokens, cols]`; tokens are in range.
    ///
    /// # Errors
    /// There is no such layer, or its weight cannot be read.
    fn weight_rows(&self, layer: &str, tokens: &[u32]) -> Result<Vec<f32>>;

    /// The whole weight of a layer; rows that a resize appended are at its end.
    ///
    /// # Errors
    /// There is no such layer, or its weight cannot be read.
    fn weight(&self, layer: &str) -> Result<FrozenMatrix>;

    /// Replaces the whole weight of an embedding or head, which may get other rows.
    ///
    /// # Errors
    /// There is no such layer, or the weight does not fit.
    fn set_weight(&mut self, layer: &str, weight: FrozenMatrix) -> Result<()>;

    /// Whether the embedding was given more rows than the stored model has.
    fn is_resized(&self) -> bool {
        false
    }

    /// Gives embeddings and heads at least `rows` rows. A model that cannot grow leaves it.
    ///
    /// # Errors
    /// The model cannot be changed.
    fn grow(&mut self, rows: usize) -> Result<()> {
        let _ = rows;
        Ok(())
    }

    /// The `model_type` of transformers' configuration, where there is one: what an adapter targets when nothing is said
    /// depends on it.
    fn model_type(&self) -> Option<&str> {
        None
    }

    /// Whether transformers' own linear layers have weights `[in, out]` (`Conv1D`): PEFT's `fan_in_fan_out`.
    fn has_fan_in_fan_out(&self) -> bool {
        false
    }

    /// Linear layers that the model has but that cannot be adapted.
    fn fixed_linears(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether transformers' model has linear layers beside those that are named here, whose names may end alike: the vision
    /// tower of a model that reads images too.
    fn has_other_linears(&self) -> bool {
        false
    }

    /// Puts other values in the place of weights that are neither embeddings nor heads, by their full names, for good: what an
    /// adapter with trained biases or whole modules (`bias`, `modules_to_save`) brings.
    ///
    /// # Errors
    /// A tensor is not there, or of another size; the base does not take any.
    fn replace_tensors(&mut self, field: &'static str, tensors: &[(String, Vec<f32>)]) -> Result<()> {
        match tensors.first() {
            None => Ok(()),
            Some((name, _)) => {
                let problem = "which this kind of base does not take";
                Err(PeftError::WholeModule { field, tensor: name.clone(), problem })
            }
        }
    }

    /// Numbers in all weights.
    fn num_parameters(&self) -> u64;

    /// A layer's weight, to be restored later.
    ///
    /// # Errors
    /// There is no such layer.
    fn keep(&self, layer: &str) -> Result<Self::Kept>;

    /// Puts a weight back and returns the one that was there.
    ///
    /// # Errors
    /// There is no such layer.
    fn restore(&mut self, layer: &str, kept: Self::Kept) -> Result<Self::Kept>;

    /// Writes rows into a layer's weight, in the weight's type.
    ///
    /// # Errors
    /// There is no such layer, or it cannot be changed.
    fn merge_rows(&mut self, layer: &str, rows: &TrainedRows) -> Result<()>;

    /// Adds an update to a layer's weight, in the weight's type.
    ///
    /// # Errors
    /// There is no such layer, or it cannot be changed.
    fn merge_update(&mut self, layer: &str, update: &LoraLayer) -> Result<()>;
}

/// The layer of this name.
pub(super) fn find<'a>(layers: &'a [NamedLayer], name: &str) -> Result<&'a NamedLayer> {
    layers.iter().find(|layer| layer.name == name).ok_or_else(|| no_such_layer(layers, name))
}

/// The error of a layer that a base does not have, with the nearest name it has.
pub fn no_such_layer(layers: &[NamedLayer], name: &str) -> crate::peft::error::PeftError {
    let nearest = nearest(name, layers.iter().map(|layer| layer.name.as_str())).map(str::to_owned);
    PeftError::NoSuchLayer { layer: name.into(), nearest }
}

/// A weight of a [`PretrainedModel`] as it was before a merge. Unmerged weights are shared, not copied.
#[derive(Clone, Debug)]
pub enum KeptWeight {
    /// Of the embedding or the head.
    Tokens(TokenMatrix),
    /// Of a linear layer.
    Linear(FrozenMatrix),
}

fn token_matrix<'a>(model: &'a PretrainedModel, layer: &str) -> Option<&'a TokenMatrix> {
    if model.embedding_modules().any(|name| name == layer) {
        return Some(model.embedding());
    }
    (model.has_head() && layer == model.head_name()).then(|| model.head())
}

/// The name under which a layer's weight is held: the embedding's for a tied head, and for modules that use it too.
fn holder(model: &PretrainedModel, layer: &str) -> String {
    let is_head = model.is_tied() && layer == model.head_name();
    let is_embedding = is_head || model.embedding_modules().any(|name| name == layer);
    if is_embedding { model.embedding_name().into() } else { layer.into() }
}

impl BaseModel for PretrainedModel {
    type Kept = KeptWeight;

    fn named_layers(&self) -> Vec<NamedLayer> {
        let of = |name: &str, kind, rows, cols| NamedLayer { name: name.into(), kind, rows, cols };
        let tokens = |name, kind, matrix: &TokenMatrix| of(name, kind, matrix.rows(), matrix.width());
        let embedding = |name| tokens(name, LayerKind::Embedding, self.embedding());
        let mut layers: Vec<NamedLayer> = self.embedding_modules().map(embedding).collect();
        let linears = self.runner().linears();
        layers.extend(linears.iter().map(|l| of(l.module, LayerKind::Linear, l.outputs, l.inputs)));
        if self.has_head() {
            layers.push(tokens(self.head_name(), LayerKind::Head, self.head()));
        }
        layers
    }

    fn task_type(&self) -> Option<&'static str> {
        match self.kind() {
            // no class of PEFT's opens them by such a name
            _ if self.family().is_multimodal() => None,
            ModelKind::Causal => Some(CAUSAL_LM),
            ModelKind::Seq2Seq => Some("SEQ_2_SEQ_LM"),
            ModelKind::SentencePairs => Some("FEATURE_EXTRACTION"),
            ModelKind::MaskedLm => None,
        }
    }

    fn input_embedding(&self) -> Option<String> {
        Some(self.embedding_name().into())
    }

    fn tied_layers(&self) -> Vec<TiedLayer> {
        let aliases = self.embedding_modules().skip(1);
        let head = self.is_tied().then(|| self.head_name());
        let tied = |layer: &str| TiedLayer { layer: layer.into(), source: self.embedding_name().into() };
        aliases.chain(head).map(tied).collect()
    }

    fn tied_by_configuration(&self) -> Option<TiedLayer> {
        let tied = || TiedLayer { layer: self.head_name().into(), source: self.embedding_name().into() };
        self.is_untied_by_its_file().then(tied)
    }

    fn weight_rows(&self, layer: &str, tokens: &[u32]) -> Result<Vec<f32>> {
        match token_matrix(self, layer) {
            Some(matrix) => Ok(matrix.gather(tokens)),
            None => Err(no_such_layer(&self.named_layers(), layer)),
        }
    }

    fn weight(&self, layer: &str) -> Result<FrozenMatrix> {
        match token_matrix(self, layer) {
            Some(matrix) => Ok(matrix.frozen().followed_by(matrix.extra())?),
            None => {
                let linear = self.linear(layer).map(|linear| linear.weight.clone());
                linear.ok_or_else(|| no_such_layer(&self.named_layers(), layer))
            }
        }
    }

    fn set_weight(&mut self, layer: &str, weight: FrozenMatrix) -> Result<()> {
        let layers = self.named_layers();
        let width = find(&layers, layer)?.cols;
        if weight.cols() != width {
            let (found, expected) = (vec![weight.rows(), weight.cols()], vec![weight.rows(), width]);
            return Err(PeftError::Shape { key: weight.name().into(), found, expected });
        }
        let holder = holder(self, layer);
        let matrix = self.token_matrix_named(&holder).map(|matrix| matrix.with_frozen(weight));
        let matrix = matrix.ok_or_else(|| no_such_layer(&layers, layer))?;
        self.replace_token_matrix(&holder, matrix).map(drop).ok_or_else(|| no_such_layer(&layers, layer))
    }

    fn is_resized(&self) -> bool {
        !self.embedding().extra().is_empty()
    }

    fn grow(&mut self, rows: usize) -> Result<()> {
        self.resize_token_embeddings(rows);
        Ok(())
    }

    fn model_type(&self) -> Option<&str> {
        Some(self.config().model_type())
    }

    fn has_fan_in_fan_out(&self) -> bool {
        self.family().columns
    }

    fn fixed_linears(&self) -> Vec<String> {
        self.runner().linears_around_blocks().into_iter().map(String::from).collect()
    }

    fn has_other_linears(&self) -> bool {
        self.family().is_multimodal()
    }

    fn replace_tensors(&mut self, field: &'static str, tensors: &[(String, Vec<f32>)]) -> Result<()> {
        PretrainedModel::replace_tensors(self, tensors).map_err(|error| match error {
            ReplaceError::Name(tensor, problem) => PeftError::WholeModule { field, tensor, problem },
            ReplaceError::Other(error) => error.into(),
        })
    }

    fn num_parameters(&self) -> u64 {
        PretrainedModel::num_parameters(self)
    }

    fn keep(&self, layer: &str) -> Result<KeptWeight> {
        match token_matrix(self, layer) {
            Some(matrix) => Ok(KeptWeight::Tokens(matrix.clone())),
            None => self.weight(layer).map(KeptWeight::Linear),
        }
    }

    fn restore(&mut self, layer: &str, kept: KeptWeight) -> Result<KeptWeight> {
        let holder = holder(self, layer);
        let layers = self.named_layers();
        match kept {
            KeptWeight::Tokens(kept) => self.replace_token_matrix(&holder, kept).map(KeptWeight::Tokens),
            KeptWeight::Linear(kept) => {
                let former = self.linear(layer).map(|linear| linear.weight.clone());
                self.set_linear(layer, &kept);
                former.map(KeptWeight::Linear)
            }
        }
        .ok_or_else(|| no_such_layer(&layers, layer))
    }

    fn merge_rows(&mut self, layer: &str, rows: &TrainedRows) -> Result<()> {
        let layers = self.named_layers();
        let holder = holder(self, layer);
        let matrix = self.token_matrix_named(&holder).ok_or_else(|| no_such_layer(&layers, layer))?;
        let merged = matrix.with_rows(rows)?;
        self.replace_token_matrix(&holder, merged).map(drop).ok_or_else(|| no_such_layer(&layers, layer))
    }

    fn merge_update(&mut self, layer: &str, update: &LoraLayer) -> Result<()> {
        let layers = self.named_layers();
        let linear = self.linear(layer).ok_or_else(|| no_such_layer(&layers, layer))?;
        let merged = match linear.stored {
            StoredAs::Rows => linear.weight.map_rows(|row, values| update.add_row(row, values))?,
            StoredAs::Columns => linear.weight.map_rows(|row, values| update.add_column(row, values))?,
        };
        self.set_linear(layer, &merged);
        Ok(())
    }
}
