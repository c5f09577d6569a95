//! The `config.json` of a merged model.

use super::MergedType;
use crate::models::PretrainedModel;
use crate::peft::error::Result;
use crate::weights::{Checkpoint, WeightsError};
use serde_json::{Map, Value};

/// What the type of the tensors is called.
const TYPE_KEYS: [&str; 2] = ["dtype", "torch_dtype"];

/// The configuration of a model whose embedding was given more rows, where it was `resized`, or whose tensors get another type:
/// everything else as it was. `None` where nothing differs from the file. What another program holds may differ from its file.
pub(super) fn changed(
    model: &PretrainedModel,
    resized: bool,
    dtype: Option<MergedType>,
) -> Result<Option<String>> {
    let mut object = model.config().object().clone();
    if resized {
        set_rows(&mut object, model.vocabulary());
    }
    if let Some(dtype) = dtype {
        set_type(&mut object, dtype);
    }
    let in_memory = matches!(model.checkpoint(), Checkpoint::Memory(_));
    match resized || in_memory || object != *model.config().object() {
        true => text(object).map(Some),
        false => Ok(None),
    }
}

/// Names the type of the tensors wherever a type is named. transformers 5 calls it `dtype`, earlier ones `torch_dtype`.
fn set_type(object: &mut Map<String, Value>, dtype: MergedType) {
    let is_named = |key: &str| object.get(key).is_some_and(|value| !value.is_null());
    if !TYPE_KEYS.into_iter().any(is_named) {
        TYPE_KEYS.into_iter().for_each(|key| {
            object.insert(key.into(), dtype.torch_name().into());
        });
    }
    rename_types(object, dtype);
}

/// The same for the sections of a configuration (`text_config`, `vision_config`, …), which need not name one.
fn rename_types(object: &mut Map<String, Value>, dtype: MergedType) {
    for (key, value) in object.iter_mut() {
        match value {
            Value::String(named) if TYPE_KEYS.contains(&key.as_str()) => *named = dtype.torch_name().into(),
            // what is quantised stays as it is
            Value::Object(section) if !key.starts_with("quantization") => rename_types(section, dtype),
            _ => {}
        }
    }
}

fn set_rows(object: &mut Map<String, Value>, rows: usize) {
    let rows = Value::from(rows);
    // Marian has one for each side, of one matrix
    if let Some(size) = object.get_mut("decoder_vocab_size").filter(|size| !size.is_null()) {
        *size = rows.clone();
    }
    let nested = object.get_mut("text_config").and_then(Value::as_object_mut);
    let in_section = nested.map(|section| section.insert("vocab_size".into(), rows.clone())).is_some();
    if !in_section || object.contains_key("vocab_size") {
        object.insert("vocab_size".into(), rows);
    }
}

/// A configuration for a model from a GGUF file, for transformers 5 and 4.
pub(super) fn from_metadata(model: &PretrainedModel, dtype: MergedType) -> Result<String> {
    let mut object = model.config().object().clone();
    object.entry("architectures").or_insert_with(|| vec![model.family().architecture].into());
    object.insert("vocab_size".into(), model.vocabulary().into());
    object.insert("tie_word_embeddings".into(), model.is_tied().into());
    // classes have defaults of their own, some beyond a small vocabulary
    object.entry("pad_token_id").or_insert(Value::Null);
    for key in TYPE_KEYS {
        object.insert(key.into(), dtype.torch_name().into());
    }
    let former = former_rope_keys(&object);
    object.extend(former);
    text(object)
}

/// transformers 4 does not know `rope_parameters` and would take its default base in silence.
fn former_rope_keys(object: &Map<String, Value>) -> Map<String, Value> {
    let mut keys = Map::new();
    let Some(parameters) = object.get("rope_parameters") else { return keys };
    if let Some(theta) = parameters.pointer("/sliding_attention/rope_theta") {
        keys.insert("rope_local_base_freq".into(), theta.clone());
    }
    let main = parameters.get("full_attention").unwrap_or(parameters);
    if let Some(theta) = main.get("rope_theta") {
        keys.insert("rope_theta".into(), theta.clone());
    }
    if let Some(share) = main.get("partial_rotary_factor") {
        keys.insert("partial_rotary_factor".into(), share.clone());
    }
    if main.get("rope_type").is_some_and(|kind| kind != "default") {
        let mut scaling = main.clone();
        if let Some(scaling) = scaling.as_object_mut() {
            scaling.remove("rope_theta");
        }
        keys.insert("rope_scaling".into(), scaling);
    }
    keys
}

fn text(object: Map<String, Value>) -> Result<String> {
    let text = serde_json::to_string_pretty(&object).map_err(|e| WeightsError::Serialise(e.to_string()))?;
    Ok(text + "\n")
}
