//! An adapter's tensors by PEFT's keys.
//!
//! | adapter | keys behind `base_model.model.` |
//! | --- | --- |
//! | tokens alone | `LAYER.trainable_tokens_delta`, of a tied head too |
//! | tokens beside LoRA | `LAYER.token_adapter.trainable_tokens_delta` |
//! | LoRA | `LAYER.lora_A.weight`, `LAYER.lora_B.weight` |
//! | whole embeddings | `LAYER.base_layer.weight` or `LAYER.token_adapter.base_layer.weight` of a layer with trained rows, `LAYER.weight` of another |

use super::adapter::Adapter;
use super::base::{BaseModel, LayerKind, NamedLayer};
use super::model::PeftModel;
use crate::config::PeftConfig;
use crate::peft::error::{PeftError, Result};
use crate::weights::FrozenMatrix;
use std::collections::{BTreeMap, BTreeSet};
use toktune_engine::EngineError;

/// Tensors by their keys; every tensor of an adapter is a matrix.
pub type StateDict = BTreeMap<String, FrozenMatrix>;

/// Whether whole embeddings are stored beside the trained rows: PEFT's `save_embedding_layers`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaveEmbeddingLayers {
    /// When the embedding was resized.
    #[default]
    Auto,
    /// Always.
    Yes,
    /// Never: the rows of added tokens are in the adapter, and its tokenizer says how many there are.
    No,
}

/// What did not fit when tensors were set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadResult {
    /// The adapter's tensors that were not given.
    pub missing_keys: Vec<String>,
    /// The tensors that the adapter does not have.
    pub unexpected_keys: Vec<String>,
}

pub(super) const PREFIX: &str = "base_model.model.";
pub(super) const DELTA: &str = "trainable_tokens_delta";

/// What a key stands for.
enum Slot {
    /// The rows of a token layer, by its place.
    Rows(usize),
    LoraA(usize),
    LoraB(usize),
}

/// Where the rows and the matrix of a layer lie beneath its name.
fn infix(config: &PeftConfig) -> &'static str {
    match config {
        PeftConfig::TrainableTokens(_) => "",
        PeftConfig::Lora(_) => "token_adapter.",
    }
}

/// The adapter's tensors, without whole embeddings. The rows of tied layers appear under each of their names where PEFT
/// stores them so, which is for tokens alone.
fn slots(adapter: &Adapter, with_tied: bool) -> BTreeMap<String, Slot> {
    let infix = infix(&adapter.config);
    let with_tied = with_tied || matches!(adapter.config, PeftConfig::TrainableTokens(_));
    let mut slots = BTreeMap::new();
    for (at, layer) in adapter.tokens.iter().enumerate() {
        let modules = layer.modules().take(if with_tied { usize::MAX } else { 1 });
        slots.extend(modules.map(|module| (format!("{PREFIX}{module}.{infix}{DELTA}"), Slot::Rows(at))));
    }
    for (at, layer) in adapter.tokens.iter().enumerate() {
        let twice = layer.tied().iter().filter(|head| is_wrapped_twice(adapter, head));
        slots.extend(twice.map(|head| (format!("{PREFIX}{head}.base_layer.{DELTA}"), Slot::Rows(at))));
    }
    for (at, layer) in adapter.lora.iter().enumerate() {
        slots.insert(format!("{PREFIX}{}.lora_A.weight", layer.name()), Slot::LoraA(at));
        slots.insert(format!("{PREFIX}{}.lora_B.weight", layer.name()), Slot::LoraB(at));
    }
    slots
}

/// Whether PEFT wraps a tied layer twice, and stores its rows under one more key: when Trainable Tokens alone targets it
/// by name beside the layer it is tied to.
fn is_wrapped_twice(adapter: &Adapter, head: &str) -> bool {
    let PeftConfig::TrainableTokens(config) = &adapter.config else { return false };
    let name = [head.to_string()];
    // a pattern that is no expression has been refused when the adapter was made
    config.target_modules.as_ref().is_some_and(|t| t.matching(&name).is_ok_and(|found| !found.is_empty()))
}

impl Slot {
    fn shape(&self, adapter: &Adapter) -> [usize; 2] {
        match *self {
            Slot::Rows(at) => {
                let rows = adapter.tokens[at].rows();
                [rows.indices().len(), rows.width()]
            }
            Slot::LoraA(at) => [adapter.lora[at].r(), adapter.lora[at].inputs()],
            Slot::LoraB(at) => [adapter.lora[at].outputs(), adapter.lora[at].r()],
        }
    }

    fn values<'a>(&self, adapter: &'a Adapter) -> &'a [f32] {
        match *self {
            Slot::Rows(at) => &adapter.tokens[at].rows().values,
            Slot::LoraA(at) => &adapter.lora[at].a,
            Slot::LoraB(at) => &adapter.lora[at].b,
        }
    }

    fn values_mut<'a>(&self, adapter: &'a mut Adapter) -> &'a mut Vec<f32> {
        match *self {
            Slot::Rows(at) => &mut adapter.tokens[at].rows_mut().values,
            Slot::LoraA(at) => &mut adapter.lora[at].a,
            Slot::LoraB(at) => &mut adapter.lora[at].b,
        }
    }
}

/// The tensors of adapter `name` as PEFT stores them.
///
/// # Errors
/// There is no adapter of this name, or an embedding to be stored whole cannot be read.
pub fn get_peft_model_state_dict<M: BaseModel>(
    model: &PeftModel<M>,
    name: &str,
    save_embedding_layers: SaveEmbeddingLayers,
) -> Result<StateDict> {
    let adapter = model.adapter(name)?;
    let whole = match save_embedding_layers {
        SaveEmbeddingLayers::Auto => model.base.is_resized(),
        SaveEmbeddingLayers::Yes => true,
        SaveEmbeddingLayers::No => false,
    };
    let mut tensors = StateDict::new();
    for (key, slot) in slots(adapter, whole) {
        let [rows, cols] = slot.shape(adapter);
        let values = slot.values(adapter).to_vec();
        tensors.insert(key.clone(), FrozenMatrix::from_f32(key, rows, cols, values)?);
    }
    if whole {
        if save_embedding_layers == SaveEmbeddingLayers::Auto {
            tracing::warn!("the embedding was resized: it is saved whole beside the adapter");
        }
        for (key, layer) in embedding_keys(model, adapter) {
            tensors.insert(key, model.base.weight(&layer)?);
        }
    }
    Ok(tensors)
}

/// The keys under which whole embeddings are stored, with their layers.
///
/// PEFT stores those with trained rows, and the others only when the embedding is no target of the method.
fn embedding_keys<M: BaseModel>(model: &PeftModel<M>, adapter: &Adapter) -> Vec<(String, String)> {
    let infix = infix(&adapter.config);
    let layers = model.base.named_layers();
    let mut keys = Vec::new();
    for layer in saved_whole(&layers, model.base.input_embedding().as_deref()) {
        match (&adapter.config, adapter.rows_on(&layer)) {
            // of a layer that it wraps twice PEFT does not find the weight
            (_, Some(_)) if is_wrapped_twice(adapter, &layer) && is_tied(adapter, &layer) => {}
            (_, Some(_)) => keys.push((format!("{PREFIX}{layer}.{infix}base_layer.weight"), layer)),
            (PeftConfig::Lora(_), None) => keys.push((format!("{PREFIX}{layer}.weight"), layer)),
            (PeftConfig::TrainableTokens(_), None) => {}
        }
    }
    keys
}

fn is_tied(adapter: &Adapter, layer: &str) -> bool {
    adapter.tokens.iter().any(|of| of.tied().iter().any(|tied| tied == layer))
}

/// The layers that PEFT knows as a model's input and output embeddings.
fn saved_whole(layers: &[NamedLayer], input: Option<&str>) -> Vec<String> {
    let is_one = |layer: &&NamedLayer| input == Some(layer.name.as_str()) || layer.kind == LayerKind::Head;
    layers.iter().filter(is_one).map(|layer| layer.name.clone()).collect()
}

/// The layer whose whole weight a key holds.
pub(super) fn whole_weight_of<'a>(key: &str, layers: &'a [NamedLayer]) -> Option<&'a NamedLayer> {
    let inner = key.strip_prefix(PREFIX)?;
    layers.iter().filter(|layer| layer.has_token_rows()).find(|layer| {
        inner.strip_prefix(layer.name.as_str()).is_some_and(|rest| {
            matches!(rest, ".weight" | ".base_layer.weight" | ".token_adapter.base_layer.weight")
        })
    })
}

/// Puts whole embeddings that an adapter's file holds into the base, which may get more rows by them; of tied layers the
/// one with the matrix. Rows that the file lacks stay. The rest of the tensors is left.
pub(super) fn set_embeddings<M: BaseModel>(base: &mut M, tensors: &StateDict) -> Result<()> {
    let layers = base.named_layers();
    let tied = base.tied_layers();
    let mut done = BTreeSet::new();
    let mut rows = 0;
    for (key, weight) in tensors {
        let Some(layer) = whole_weight_of(key, &layers) else { continue };
        let source = tied.iter().find(|t| t.layer == layer.name).map_or(&layer.name, |t| &t.source);
        if weight.cols() != layer.cols {
            let (found, expected) = (vec![weight.rows(), weight.cols()], vec![weight.rows(), layer.cols]);
            return Err(PeftError::Shape { key: key.clone(), found, expected });
        }
        if done.insert(source.clone()) {
            // transformers takes padding rows away when it resizes; here they stay as they are
            let rest: Vec<u32> = (weight.rows()..layer.rows).map(|row| row as u32).collect();
            base.set_weight(source, weight.followed_by(&base.weight_rows(source, &rest)?)?)?;
        }
        rows = rows.max(weight.rows());
    }
    if rows > 0 {
        base.grow(rows)?;
    }
    Ok(())
}

/// Sets the tensors of adapter `name`, which must be there, and says which are missing and which unexpected; those that
/// fit are set. Whole embeddings replace those of the base.
///
/// # Errors
/// There is no adapter of this name; a tensor has another shape or holds a NaN or an infinity: nothing is set then.
pub fn set_peft_model_state_dict<M: BaseModel>(
    model: &mut PeftModel<M>,
    tensors: &StateDict,
    name: &str,
) -> Result<LoadResult> {
    let layers = model.base.named_layers();
    let adapter = model.adapter_mut(name)?;
    let (slots, known) = (slots(adapter, false), slots(adapter, true));
    for (key, slot) in &known {
        if let Some(tensor) = tensors.get(key) {
            check(key, tensor, slot.shape(adapter))?;
        }
    }
    set_embeddings(&mut model.base, tensors)?;
    let adapter = model.adapter_mut(name)?;
    let mut result = LoadResult::default();
    for (key, slot) in &known {
        match tensors.get(key) {
            Some(tensor) if slots.contains_key(key) => {
                *slot.values_mut(adapter) = tensor.decode_rows(0..tensor.rows());
            }
            Some(_) => {}
            None if slots.contains_key(key) => result.missing_keys.push(key.clone()),
            None => {}
        }
    }
    let aliases: BTreeSet<String> = adapter
        .tokens
        .iter()
        // harmless in a file whose configuration does not name the head
        .flat_map(|layer| layer.tied().iter().map(|head| format!("{PREFIX}{head}.base_layer.{DELTA}")))
        .collect();
    result.unexpected_keys = tensors
        .keys()
        .filter(|key| {
            !known.contains_key(*key) && !aliases.contains(*key) && whole_weight_of(key, &layers).is_none()
        })
        .cloned()
        .collect();
    Ok(result)
}

fn check(key: &str, tensor: &FrozenMatrix, expected: [usize; 2]) -> Result<()> {
    let found = [tensor.rows(), tensor.cols()];
    if found != expected {
        let (found, expected) = (found.to_vec(), expected.to_vec());
        return Err(PeftError::Shape { key: key.into(), found, expected });
    }
    match tensor.first_non_finite() {
        Some((row, _)) => Err(EngineError::NotFinite { what: format!("{key}: row {row}") }.into()),
        None => Ok(()),
    }
}

/// The keys of a tied copy: PEFT warns when they are missing, and loads right.
pub(super) fn is_tied_copy(adapter: &Adapter, key: &str) -> bool {
    let infix = infix(&adapter.config);
    let mut copies = adapter.tokens.iter().flat_map(|layer| layer.tied());
    copies.any(|module| {
        [infix, "base_layer."].iter().any(|infix| key == format!("{PREFIX}{module}.{infix}{DELTA}"))
    })
}
