//! The `config.json` of a merged model.

use super::MergedType;
use crate::models::PretrainedModel;
use crate::peft::error::Result;
use crate::weights::WeightsError;
use serde_json::{Map, Value};

/// The configuration of a model whose embedding was given more rows: everything else as it was.
pub(super) fn resized(model: &PretrainedModel) -> Result<String> {
    let mut object = model.config().object().clone();
    let rows = Value::from(model.vocabulary());
    // Marian has one for each side, of one matrix
    if let Some(size) = object.get_mut("decoder_vocab_size").filter(|size| !size.is_null()) {
        *size = rows.clone();
    }
    let nested = object.get_mut("text_config").and_then(Value::as_object_mut);
    let in_section = nested.map(|section| section.insert("vocab_size".into(), rows.clone())).is_some();
    if !in_section || object.contains_key("vocab_size") {
        object.insert("vocab_size".into(), rows);
    }
    text(object)
}

/// A configuration for a model from a GGUF file, for transformers 5 and 4.
pub(super) fn from_metadata(model: &PretrainedModel, dtype: MergedType) -> Result<String> {
    let mut object = model.config().object().clone();
    object.entry("architectures").or_insert_with(|| vec![model.family().architecture].into());
    object.insert("vocab_size".into(), model.vocabulary().into());
    object.insert("tie_word_embeddings".into(), model.is_tied().into());
    // classes have defaults of their own, some beyond a small vocabulary
    object.entry("pad_token_id").or_insert(Value::Null);
    for key in ["dtype", "torch_dtype"] {
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
