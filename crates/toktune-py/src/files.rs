//! What is written: adapters, merged models, forms for other programs.

use crate::adapters::saved_layers;
use crate::errors::{argument, raise};
use crate::model::Model;
use crate::tokenizer::{Tokenizer, cloned};
use crate::values::written;
use pyo3::prelude::*;
use serde_json::{Value, json};
use std::path::PathBuf;
use toktune::export::{
    MergeOptions, MergedType, export_gguf, export_gguf_lora, export_lora_onehot, export_peft,
    merge_to_folder as merge, prove_merge,
};
use toktune::peft::SaveEmbeddingLayers;
use toktune::{OnConflict, combine_adapters};

/// Writes adapters of a model into a folder, one called otherwise than `default` into a folder of its name beneath, as PEFT does.
#[pyfunction]
pub fn save_adapter(
    py: Python<'_>,
    model: &Model,
    folder: PathBuf,
    names: Option<Vec<String>>,
    save_embedding_layers: &str,
    base_name: Option<&str>,
) -> PyResult<()> {
    let layers = saved_layers(save_embedding_layers)?;
    if let Some(name) = base_name {
        model.change(py, |model| {
            model.set_base_name(name);
            Ok(())
        })?;
    }
    model.look(py, |seen| {
        let adapted = seen.adapted()?;
        let all: Vec<String> = adapted.adapters().iter().map(|of| of.name().to_owned()).collect();
        for name in names.unwrap_or(all) {
            let own = if name == "default" { folder.clone() } else { folder.join(&name) };
            py.detach(|| adapted.save_adapter(&name, &own, layers)).map_err(raise)?;
        }
        Ok(())
    })
}

/// Writes the model with its active adapters merged in, as a plain folder of transformers, and opens it again to see; what was found,
/// as JSON.
#[pyfunction]
pub fn merge_to_folder(
    py: Python<'_>,
    model: &Model,
    folder: PathBuf,
    dtype: Option<&str>,
    tokenizer: Option<&Tokenizer>,
) -> PyResult<String> {
    let mut options = MergeOptions::default();
    options.dtype = match dtype {
        None => None,
        Some("float32" | "f32") => Some(MergedType::F32),
        Some("float16" | "f16") => Some(MergedType::F16),
        Some("bfloat16" | "bf16") => Some(MergedType::Bf16),
        Some(other) => return Err(argument("dtype", "float32, float16 or bfloat16", other)),
    };
    let tokenizer = cloned(py, tokenizer);
    model.look(py, |seen| {
        let adapted = seen.adapted()?;
        let write = || {
            merge(adapted, &folder, options)?;
            if let Some(tokenizer) = &tokenizer {
                tokenizer.save_pretrained(&folder)?;
            }
            Ok::<_, toktune::Error>(prove_merge(adapted, &folder)?)
        };
        let proof = py.detach(write).map_err(raise)?;
        written(&json!({
            "rows": proof.rows,
            "rounding": proof.rounding,
            "unchanged_tensors": proof.unchanged_tensors,
            "unchanged_bytes": proof.unchanged_bytes,
            "converted_tensors": proof.converted_tensors,
            "logits": proof.logits,
            "changed": proof.changed,
        }))
    })
}

/// Writes the adapter in a form that another program loads; what was written, as JSON.
#[pyfunction]
pub fn export(
    py: Python<'_>,
    model: &Model,
    to: &str,
    path: PathBuf,
    tokenizer: Option<&Tokenizer>,
) -> PyResult<String> {
    let tokenizer = cloned(py, tokenizer);
    let tokenizer = tokenizer.as_ref();
    model.look(py, |seen| {
        let adapted = seen.adapted()?;
        let work = || -> toktune::Result<Option<Value>> {
            Ok(Some(match to {
                "peft" => {
                    let folder = export_peft(adapted, tokenizer, SaveEmbeddingLayers::No, &path)?;
                    json!({"tokens": folder.tokens, "rows": folder.rows, "base_rows": folder.base_rows})
                }
                "lora-onehot" => {
                    let lora = export_lora_onehot(adapted, tokenizer, &path)?;
                    json!({"tokens": lora.tokens, "rank": lora.rank, "rows": lora.rows, "base_rows": lora.base_rows})
                }
                "gguf" => {
                    let file = export_gguf(adapted, tokenizer, &path)?;
                    json!({"tokens": file.tokens, "rows": file.rows, "base_rows": file.base_rows})
                }
                "gguf-lora" => {
                    let lora = export_gguf_lora(adapted, &path)?;
                    json!({"tokens": lora.tokens, "rank": lora.rank, "tensors": lora.tensors.len()})
                }
                _ => return Ok(None),
            }))
        };
        match py.detach(work).map_err(raise)? {
            Some(found) => written(&found),
            None => Err(argument("to", "peft, lora-onehot, gguf or gguf-lora", to)),
        }
    })
}

/// Writes one adapter of several; what became of the tokens, as JSON.
#[pyfunction]
pub fn combine(
    py: Python<'_>,
    folders: Vec<PathBuf>,
    output: PathBuf,
    on_conflict: &str,
) -> PyResult<String> {
    let on_conflict = match on_conflict {
        "error" => OnConflict::Error,
        "first" => OnConflict::First,
        "mean" => OnConflict::Mean,
        other => return Err(argument("on_conflict", "error, first or mean", other)),
    };
    let combined = py.detach(|| combine_adapters(&folders, &output, on_conflict)).map_err(raise)?;
    let renumbered: Vec<Value> = combined
        .renumbered
        .iter()
        .map(|(token, adapter, was, is)| json!({"token": token, "adapter": adapter, "was": was, "is": is}))
        .collect();
    written(&json!({
        "tokens": combined.tokens,
        "renumbered": renumbered,
        "conflicts": combined.conflicts,
        "bases": combined.bases,
    }))
}
