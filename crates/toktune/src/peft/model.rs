//! A frozen model with its adapters.

use super::PeftError;
use super::active::{ActiveRows, Joined};
use super::adapter::{Adapter, DEFAULT_ADAPTER};
use super::base::BaseModel;
use super::inject;
use super::layer::TrainableTokensLayer;
use super::lora::LoraLayer;
use crate::config::{CAUSAL_LM, PeftConfig};
use crate::models::PretrainedModel;
use crate::peft::error::Result;
use crate::weights::nearest;
use std::io::Write;
use std::sync::OnceLock;

/// A frozen model and its adapters, of which some are active.
#[derive(Debug)]
pub struct PeftModel<M: BaseModel = PretrainedModel> {
    pub(super) base: M,
    pub(super) adapters: Vec<Adapter>,
    pub(super) active: Vec<String>,
    /// Merged adapters, in the order in which they were merged.
    pub(super) merged: Vec<String>,
    /// The weights that merging changed, as they were.
    pub(super) kept: Vec<(String, M::Kept)>,
    /// False inside of a [`DisabledAdapter`](super::DisabledAdapter).
    pub(super) enabled: bool,
    /// What acts when several adapters are active; made when it is asked for, dropped when a value may change.
    pub(super) joined: OnceLock<Joined>,
}

/// Values that an optimizer changes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Parameter<'a> {
    /// Its name: that of its layer, then `trainable_tokens_delta`, `lora_A` or `lora_B`, as in PEFT's keys.
    pub name: String,
    /// The layer it belongs to.
    pub layer: &'a str,
    /// Whether they are of a LoRA update; else they are rows of tokens.
    pub is_lora: bool,
    /// The values.
    pub values: &'a [f32],
}

/// The gradient of a [`Parameter`].
#[derive(Clone, Debug, PartialEq)]
pub struct Gradient {
    /// The parameter's name.
    pub name: String,
    /// In the order of its values.
    pub values: Vec<f32>,
}

/// The name of a layer's trained rows.
pub(super) fn rows_name(layer: &TrainableTokensLayer) -> String {
    format!("{}.trainable_tokens_delta", layer.name())
}

/// The names of the two factors of an update.
pub(super) fn update_names(layer: &LoraLayer) -> [String; 2] {
    ["lora_A", "lora_B"].map(|factor| format!("{}.{factor}", layer.name()))
}

/// Wraps `base` with a fresh adapter, called `default` and active: the rows of the configuration's tokens and the LoRA
/// updates of its linear layers can be trained, and nothing else.
///
/// # Errors
/// There is no token, or one is out of range or repeated; a target matches no module, or a module of the wrong kind; an
/// option cannot be honoured; tied layers are to have different tokens although their tying is insisted on.
pub fn get_peft_model<M: BaseModel>(base: M, config: impl Into<PeftConfig>) -> Result<PeftModel<M>> {
    let mut model = PeftModel::without_adapter(base);
    model.add_adapter(DEFAULT_ADAPTER, config)?;
    model.set_adapter(&[DEFAULT_ADAPTER])?;
    Ok(model)
}

impl<M: BaseModel> PeftModel<M> {
    /// A model that has no adapter yet: it computes what `base` does.
    pub fn without_adapter(base: M) -> Self {
        Self {
            base,
            adapters: Vec::new(),
            active: Vec::new(),
            merged: Vec::new(),
            kept: Vec::new(),
            enabled: true,
            joined: OnceLock::new(),
        }
    }

    /// Makes an adapter from a configuration and adds it, without making it active.
    ///
    /// # Errors
    /// As [`get_peft_model`]; there is an adapter of this name, or it cannot be a name.
    pub fn add_adapter(&mut self, name: &str, config: impl Into<PeftConfig>) -> Result<()> {
        self.check_new_name(name)?;
        let mut config: PeftConfig = config.into();
        // a fresh adapter copies rows of the base, which are not in it now
        self.refuse_merged("adding an adapter")?;
        config.common_mut().inference_mode = false;
        // what a fresh configuration says is meant for causal language models
        let task_type = &mut config.common_mut().task_type;
        if task_type.as_deref() == Some(CAUSAL_LM) {
            *task_type = self.base.task_type().map(String::from);
        }
        let adapter = inject::adapter(&self.base, name.to_string(), config)?;
        self.joined.take();
        self.adapters.push(adapter);
        Ok(())
    }

    pub(super) fn refuse_merged(&self, what: &'static str) -> Result<()> {
        match self.merged.is_empty() {
            true => Ok(()),
            false => Err(PeftError::Merged { what, merged: self.merged.clone() }),
        }
    }

    pub(super) fn check_new_name(&self, name: &str) -> Result<()> {
        let problem = match name {
            "" => Some("it is empty"),
            super::BASE_ADAPTER => Some("it means the model without an adapter"),
            // names are parts of paths and, in PEFT, of keys
            _ if name.contains(['.', '/', '\\']) => Some("it holds a dot or a slash"),
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(PeftError::AdapterName { name: name.into(), problem });
        }
        if self.adapters.iter().any(|adapter| adapter.name == name) {
            return Err(PeftError::AdapterExists { name: name.into() });
        }
        Ok(())
    }

    /// The frozen model.
    pub fn base(&self) -> &M {
        &self.base
    }

    /// Every adapter, in the order of adding.
    pub fn adapters(&self) -> &[Adapter] {
        &self.adapters
    }

    /// The names of all adapters.
    pub(super) fn names(&self) -> Vec<String> {
        self.adapters.iter().map(|adapter| adapter.name.clone()).collect()
    }

    /// The adapter `name`.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn adapter(&self, name: &str) -> Result<&Adapter> {
        self.adapters.iter().find(|adapter| adapter.name == name).ok_or_else(|| self.no_such(name))
    }

    pub(super) fn adapter_mut(&mut self, name: &str) -> Result<&mut Adapter> {
        let error = self.no_such(name);
        self.joined.take();
        self.adapters.iter_mut().find(|adapter| adapter.name == name).ok_or(error)
    }

    fn no_such(&self, name: &str) -> crate::peft::error::PeftError {
        let adapters = self.names();
        let nearest = nearest(name, adapters.iter().map(String::as_str)).map(str::to_owned);
        PeftError::NoSuchAdapter { name: name.into(), nearest, adapters }
    }

    /// The active adapters.
    pub(crate) fn acting(&self) -> impl Iterator<Item = &Adapter> + Clone {
        self.active.iter().filter_map(|name| self.adapters.iter().find(|adapter| adapter.name == *name))
    }

    /// The configuration of an adapter, with the targets filled in.
    ///
    /// # Errors
    /// There is no adapter of this name.
    pub fn config(&self, name: &str) -> Result<&PeftConfig> {
        self.adapter(name).map(|adapter| &adapter.config)
    }

    /// The configuration of the first active adapter.
    pub fn active_config(&self) -> Option<&PeftConfig> {
        self.acting().next().map(|adapter| &adapter.config)
    }

    /// Fills in what the files of every adapter should say of their base.
    pub fn set_base_name(&mut self, name: &str) {
        for adapter in &mut self.adapters {
            adapter.config.common_mut().base_model_name_or_path = Some(name.into());
        }
    }

    /// Whether adapters act: not inside of a [`DisabledAdapter`](super::DisabledAdapter).
    pub fn is_adapter_enabled(&self) -> bool {
        self.enabled
    }

    /// The tokens whose rows the active adapters replace, each once.
    pub fn token_indices(&self) -> Vec<u32> {
        let mut all: Vec<u32> = Vec::new();
        for id in self.acting().flat_map(|adapter| &adapter.tokens).flat_map(|layer| layer.rows().indices()) {
            if !all.contains(id) {
                all.push(*id);
            }
        }
        all
    }

    pub(super) fn joined(&self) -> &Joined {
        self.joined.get_or_init(|| Joined::of(self.acting()))
    }

    /// The token matrices with trained rows of the active adapter; of several, joined.
    pub fn layers(&self) -> &[TrainableTokensLayer] {
        match self.active.as_slice() {
            [] => &[],
            [_] => self.acting().next().map_or(&[], |adapter| &adapter.tokens),
            _ => &self.joined().layers,
        }
    }

    /// The linear layers with an update of the active adapter; of several, one after the other.
    pub fn lora_layers(&self) -> &[LoraLayer] {
        match self.active.as_slice() {
            [] => &[],
            [_] => self.acting().next().map_or(&[], |adapter| &adapter.lora),
            _ => &self.joined().lora,
        }
    }

    /// The adapter that is trained: the active one.
    ///
    /// # Errors
    /// None is active, or several are, or some are merged; its configuration asks for what is not trained here.
    pub fn trained_adapter(&self) -> Result<&Adapter> {
        self.refuse_merged("training")?;
        match self.active.as_slice() {
            [name] => {
                let adapter = self.adapter(name)?;
                match adapter.config.not_trained() {
                    None => Ok(adapter),
                    Some((field, found)) => Err(PeftError::NotTrained { field, found }),
                }
            }
            [] => Err(PeftError::NoneActive { adapters: self.names() }),
            several => Err(PeftError::SeveralActive { adapters: several.to_vec() }),
        }
    }

    /// What is trained, by its names: the rows of each layer of the active adapter, then `A` and `B` of each of its updates.
    pub fn parameters(&self) -> Vec<Parameter<'_>> {
        let Some(adapter) = self.acting().next() else { return Vec::new() };
        let rows = adapter.tokens.iter().map(|layer| Parameter {
            name: rows_name(layer),
            layer: layer.name(),
            is_lora: false,
            values: &layer.rows().values,
        });
        let lora = adapter.lora.iter().flat_map(|layer| {
            let of = |(name, values)| Parameter { name, layer: layer.name(), is_lora: true, values };
            update_names(layer).into_iter().zip([&layer.a[..], &layer.b]).map(of)
        });
        rows.chain(lora).collect()
    }

    /// The values of the same, to be changed by an optimizer.
    pub fn parameters_mut(&mut self) -> Vec<(String, &mut Vec<f32>)> {
        let Some(adapter) = self.first_active_mut() else { return Vec::new() };
        let rows = adapter.tokens.iter_mut().map(|layer| (rows_name(layer), &mut layer.rows_mut().values));
        let lora = adapter.lora.iter_mut().flat_map(|layer| {
            let names = update_names(layer);
            names.into_iter().zip([&mut layer.a, &mut layer.b])
        });
        rows.chain(lora).collect()
    }

    fn first_active_mut(&mut self) -> Option<&mut Adapter> {
        self.joined.take();
        let name = self.active.first()?;
        self.adapters.iter_mut().find(|adapter| adapter.name == *name)
    }

    /// The token matrices of the first active adapter, to be changed by an optimizer.
    pub fn layers_mut(&mut self) -> &mut [TrainableTokensLayer] {
        self.first_active_mut().map_or(&mut [], |adapter| &mut adapter.tokens)
    }

    /// The linear layers of the first active adapter, to be changed by an optimizer.
    pub fn lora_layers_mut(&mut self) -> &mut [LoraLayer] {
        self.first_active_mut().map_or(&mut [], |adapter| &mut adapter.lora)
    }

    /// Trainable numbers of the active adapters, and all numbers of the model with every adapter.
    pub fn parameter_counts(&self) -> (u64, u64) {
        let trainable = self.acting().map(Adapter::num_parameters).sum();
        let all: u64 = self.adapters.iter().map(Adapter::num_parameters).sum();
        (trainable, self.base.num_parameters() + all)
    }

    /// Writes PEFT's line `trainable params: … || all params: … || trainable%: …`.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn print_trainable_parameters(&self, out: &mut impl Write) -> std::io::Result<()> {
        let (trainable, all) = self.parameter_counts();
        let percent = 100.0 * trainable as f64 / all as f64;
        writeln!(
            out,
            "trainable params: {} || all params: {} || trainable%: {percent:.4}",
            grouped(trainable),
            grouped(all)
        )
    }
}

impl PeftModel {
    /// The same model once more with its adapters, over the same weights, to be changed without this one.
    ///
    /// # Errors
    /// As [`PretrainedModel::try_clone`].
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            base: self.base.try_clone()?,
            adapters: self.adapters.clone(),
            active: self.active.clone(),
            merged: self.merged.clone(),
            kept: self.kept.clone(),
            enabled: self.enabled,
            joined: OnceLock::new(),
        })
    }

    /// The trained values by where they act. Nothing when adapters are disabled or merged: then the base computes the
    /// whole result.
    pub fn active(&self) -> ActiveRows<'_> {
        if !self.enabled || !self.merged.is_empty() {
            return ActiveRows::default();
        }
        ActiveRows::new(self.layers(), self.lora_layers(), &self.base)
    }

    /// The values of one adapter, active or not, by where they act.
    ///
    /// # Errors
    /// There is no adapter of this name.
    pub fn rows_of_adapter(&self, name: &str) -> Result<ActiveRows<'_>> {
        let adapter = self.adapter(name)?;
        Ok(ActiveRows::new(&adapter.tokens, &adapter.lora, &self.base))
    }

    /// The embeddings of the active adapters that PEFT cannot name once the base was resized: an encoder-decoder's own names
    /// for the embedding that its sides share (`encoder.embed_tokens`). transformers then makes one module of them, which is
    /// known by the first name, and `target_modules` with another finds nothing. PEFT resizes a base for every adapter with
    /// a tokenizer in its folder.
    pub fn layers_lost_by_resize(&self) -> Vec<&str> {
        let layers = self.acting().flat_map(|adapter| &adapter.tokens).map(TrainableTokensLayer::name);
        layers.filter(|name| self.base.embedding_modules().skip(1).any(|alias| alias == *name)).collect()
    }
}

/// Digits in groups of three.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_as_peft_prints_them() {
        assert_eq!([0, 999, 1728, 134_516_736].map(grouped), ["0", "999", "1,728", "134,516,736"]);
    }
}
