//! Adapters over a model: PEFT's functions, and recipes.

use crate::array::Array;
use crate::errors::{argument, raise};
use crate::model::Model;
use crate::tensors::floats;
use crate::values::parsed;
use pyo3::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toktune::config::{PeftConfig, TargetModules};
use toktune::peft::{
    PeftModel, RowInit, SaveEmbeddingLayers, StateDict, get_peft_model, get_peft_model_state_dict,
    set_peft_model_state_dict,
};
use toktune::weights::FrozenMatrix;
use toktune::{Recipe, Result};

/// An adapter's configuration, as `adapter_config.json` has it.
fn config(json: &str, seed: u64) -> PyResult<PeftConfig> {
    let value: Value = parsed("the configuration", json)?;
    let mut config = PeftConfig::from_value(Path::new("the configuration"), value).map_err(raise)?;
    config.common_mut().seed = seed;
    Ok(config)
}

/// PEFT's `save_embedding_layers`.
pub(crate) fn saved_layers(of: &str) -> PyResult<SaveEmbeddingLayers> {
    match of {
        "auto" => Ok(SaveEmbeddingLayers::Auto),
        "yes" => Ok(SaveEmbeddingLayers::Yes),
        "no" => Ok(SaveEmbeddingLayers::No),
        _ => Err(argument("save_embedding_layers", "\"auto\", True or False", of)),
    }
}

/// The model with a fresh adapter called `default`; the one that is given stays as it is.
#[pyfunction]
pub fn adapted(py: Python<'_>, model: &Model, json: &str, name: &str, seed: u64) -> PyResult<Model> {
    let config = config(json, seed)?;
    let made = model.compute(py, |seen| {
        let base = seen.base().try_clone()?;
        if name == "default" {
            return Ok(get_peft_model(base, config)?);
        }
        let mut model = PeftModel::without_adapter(base);
        model.add_adapter(name, config)?;
        model.set_adapter(&[name])?;
        Ok(model)
    })?;
    Ok(Model::of_adapted(made))
}

/// A [`Recipe`] as Python writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecipeFields {
    tokens: Vec<u32>,
    added: Vec<u32>,
    target_modules: Option<TargetModules>,
    /// What the row of each token starts from: the rule, and the tokens that it is made of.
    inits: BTreeMap<u32, (String, Vec<u32>)>,
    spread: Option<f64>,
    lora: Option<Value>,
    seed: u64,
}

fn start(rule: &str, sources: Vec<u32>, seed: u64) -> PyResult<RowInit> {
    let like = sources.first().copied();
    match (rule, like) {
        ("base", _) => Ok(RowInit::Base),
        ("mean", _) => Ok(RowInit::Mean),
        ("random", _) => Ok(RowInit::Random { seed }),
        ("pieces", _) => Ok(RowInit::Pieces(sources)),
        ("description", _) => Ok(RowInit::Description(sources)),
        ("like", Some(token)) => Ok(RowInit::Like(token)),
        _ => Err(argument("init", "base, mean, random, pieces, description or like:TOKEN", rule)),
    }
}

/// The model with what a recipe trains; the one that is given stays as it is.
#[pyfunction]
pub fn recipe(py: Python<'_>, model: &Model, json: &str) -> PyResult<Model> {
    let fields: RecipeFields = parsed("the recipe", json)?;
    let mut recipe = Recipe::new(fields.tokens);
    recipe.added = fields.added;
    recipe.target_modules = fields.target_modules;
    recipe.spread = fields.spread;
    recipe.seed = fields.seed;
    for (token, (rule, sources)) in fields.inits {
        recipe.inits.insert(token, start(&rule, sources, fields.seed)?);
    }
    if let Some(lora) = fields.lora {
        let lora = PeftConfig::from_value(Path::new("the configuration"), lora).map_err(raise)?;
        match lora {
            PeftConfig::Lora(lora) => recipe.lora = Some(lora),
            other => return Err(argument("lora", "a LoraConfig", other.peft_type())),
        }
    }
    model.compute(py, |seen| recipe.apply(seen.base().try_clone()?)).map(Model::of_adapted)
}

/// The model with the adapter in a folder; the one that is given stays as it is.
#[pyfunction]
pub fn with_adapter(py: Python<'_>, model: &Model, folder: PathBuf, name: &str) -> PyResult<Model> {
    let made = model.compute(py, |seen| {
        let mut model = PeftModel::without_adapter(seen.base().try_clone()?);
        model.load_adapter(&folder, name)?;
        model.set_adapter(&[name])?;
        Ok(model)
    })?;
    Ok(Model::of_adapted(made))
}

/// Adds a fresh adapter, without making it active.
#[pyfunction]
pub fn add_adapter(py: Python<'_>, model: &Model, name: &str, json: &str, seed: u64) -> PyResult<()> {
    let config = config(json, seed)?;
    model.change(py, |model| model.add_adapter(name, config).map_err(raise))
}

/// Adds the adapter in a folder, without making it active; the keys that are missing and those that are not expected.
#[pyfunction]
pub fn load_adapter(
    py: Python<'_>,
    model: &Model,
    folder: PathBuf,
    name: &str,
) -> PyResult<(Vec<String>, Vec<String>)> {
    let found = model.change(py, |model| model.load_adapter(&folder, name).map_err(raise))?;
    Ok((found.missing_keys, found.unexpected_keys))
}

/// Makes adapters the active ones.
#[pyfunction]
pub fn set_adapter(py: Python<'_>, model: &Model, names: Vec<String>) -> PyResult<()> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    model.change(py, |model| model.set_adapter(&names).map_err(raise))
}

/// Removes an adapter.
#[pyfunction]
pub fn delete_adapter(py: Python<'_>, model: &Model, name: &str) -> PyResult<()> {
    model.change(py, |model| model.delete_adapter(name).map_err(raise))
}

/// The names of all adapters, and of those that are active.
#[pyfunction]
pub fn adapters(py: Python<'_>, model: &Model) -> PyResult<(Vec<String>, Vec<String>)> {
    model.look(py, |seen| {
        let model = seen.adapted()?;
        let all = model.adapters().iter().map(|adapter| adapter.name().to_owned()).collect();
        Ok((all, model.active_adapters().to_vec()))
    })
}

/// The configuration of an adapter, as `adapter_config.json` has it.
#[pyfunction]
pub fn adapter_config(py: Python<'_>, model: &Model, name: &str) -> PyResult<String> {
    model
        .look(py, |seen| seen.adapted()?.config(name).and_then(|config| Ok(config.to_json()?)).map_err(raise))
}

/// What the active adapters train: name, layer, whether it is of LoRA, shape; and the trainable numbers, and all numbers.
#[pyfunction]
#[expect(clippy::type_complexity, reason = "a tuple for Python")]
pub fn parameters(
    py: Python<'_>,
    model: &Model,
) -> PyResult<(Vec<(String, String, bool, [usize; 2])>, (u64, u64))> {
    model.look(py, |seen| {
        let model = seen.adapted()?;
        let mut found = Vec::new();
        for parameter in model.parameters() {
            let width = match model.layers().iter().find(|layer| layer.name() == parameter.layer) {
                Some(layer) if !parameter.is_lora => layer.rows().width(),
                _ => {
                    let of = model.lora_layers().iter().find(|layer| layer.name() == parameter.layer);
                    let is_a = parameter.name.ends_with("lora_A");
                    of.map_or(1, |layer| if is_a { layer.inputs() } else { layer.r() })
                }
            };
            let shape = [parameter.values.len() / width.max(1), width];
            found.push((parameter.name, parameter.layer.to_owned(), parameter.is_lora, shape));
        }
        Ok((found, model.parameter_counts()))
    })
}

/// An adapter's tensors by PEFT's keys, rounded to `bf16` where that is wanted.
#[pyfunction]
pub fn state_dict(
    py: Python<'_>,
    model: &Model,
    name: &str,
    save_embedding_layers: &str,
    bf16: bool,
) -> PyResult<Vec<(String, Array)>> {
    let layers = saved_layers(save_embedding_layers)?;
    model.look(py, |seen| {
        let model = seen.adapted()?;
        let tensors = py.detach(|| get_peft_model_state_dict(model, name, layers)).map_err(raise)?;
        let array = |of: &FrozenMatrix| {
            let (values, shape) = (of.decode_rows(0..of.rows()), [of.rows(), of.cols()]);
            if bf16 { Array::rounded(&values, &shape) } else { Array::new(values, &shape) }
        };
        Ok(tensors.iter().map(|(key, matrix)| (key.clone(), array(matrix))).collect())
    })
}

/// Sets an adapter's tensors by PEFT's keys: name, rows, columns, bytes of `f32`. The keys that are missing and those that are not
/// expected.
#[pyfunction]
pub fn set_state_dict(
    py: Python<'_>,
    model: &Model,
    tensors: Vec<(String, usize, usize, Bound<'_, PyAny>)>,
    name: &str,
) -> PyResult<(Vec<String>, Vec<String>)> {
    let mut dict = StateDict::new();
    for (key, rows, cols, of) in tensors {
        let matrix = FrozenMatrix::from_f32(key.clone(), rows, cols, floats(&of)?).map_err(raise)?;
        dict.insert(key, matrix);
    }
    let found = model.change(py, |model| set_peft_model_state_dict(model, &dict, name).map_err(raise))?;
    Ok((found.missing_keys, found.unexpected_keys))
}

/// Merges adapters into the weights; `None` is the active ones.
#[pyfunction]
pub fn merge_adapter(
    py: Python<'_>,
    model: &Model,
    names: Option<Vec<String>>,
    safe_merge: bool,
) -> PyResult<()> {
    let names: Option<Vec<&str>> = names.as_ref().map(|names| names.iter().map(String::as_str).collect());
    model.change(py, |model| model.merge_adapter(names.as_deref(), safe_merge).map_err(raise))
}

/// Takes the merged adapters out of the weights again.
#[pyfunction]
pub fn unmerge_adapter(py: Python<'_>, model: &Model) -> PyResult<()> {
    model.change(py, |model| model.unmerge_adapter().map_err(raise))
}

/// The frozen model of a model with adapters, which are merged into it where `merge` says so, as `safe_merge` does it; the one that
/// is given stays as it is.
#[pyfunction]
pub fn unloaded(
    py: Python<'_>,
    model: &Model,
    merge: bool,
    safe_merge: bool,
    names: Option<Vec<String>>,
) -> PyResult<Model> {
    let names: Option<Vec<&str>> = names.as_ref().map(|names| names.iter().map(String::as_str).collect());
    let base = model.look(py, |seen| {
        let adapted = seen.adapted()?;
        let work = || -> Result<_> {
            let copy = adapted.try_clone()?;
            match merge {
                true => Ok(copy.merge_and_unload(safe_merge, names.as_deref())?),
                false => Ok(copy.unload()),
            }
        };
        py.detach(work).map_err(raise)
    })?;
    Ok(Model::of_base(base))
}
