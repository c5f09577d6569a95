//! An adapter of llama.cpp: rows and LoRA as updates of the tensors of a GGUF file.
//!
//! Names and shapes are those of its `convert_lora_to_gguf.py` and `llama-adapter.cpp`.

use super::error::{ExportError, Result};
use super::gguf_file::{check_new, gguf_of};
use super::low_rank::{Layout, LowRank, Update};
use crate::engine::backend::StoredAs;
use crate::models::PretrainedModel;
use crate::peft::PeftModel;
use crate::weights::{Value, write_atomically, write_gguf_into};
use std::path::Path;

/// What an adapter of llama.cpp has in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GgufLora {
    /// The rank of every update.
    pub rank: usize,
    /// The tokens whose rows it replaces.
    pub tokens: usize,
    /// The tensors of the base that it updates.
    pub tensors: Vec<String>,
}

/// Writes the active adapter as a LoRA adapter for llama.cpp, for the GGUF file that the base was opened from: differences are to
/// the rows of that file, so that each row that llama.cpp looks up is the trained one.
///
/// # Errors
/// There is something at `path`; the base is no GGUF file; not exactly one adapter is active, or it brings more than rows and
/// LoRA; the model is tied, which llama.cpp cannot update; the adapter has added tokens; LoRA is on a layer that is no tensor
/// of its own; the file cannot be written.
pub fn export_gguf_lora(model: &PeftModel, path: &Path) -> Result<GgufLora> {
    let base = model.base();
    let gguf = gguf_of(base.checkpoint())?;
    check_new(path)?;
    let low_rank = LowRank::of(model)?;
    let has_rows = low_rank.updates.iter().any(|update| !matches!(update, Update::Linear(..)));
    if has_rows && base.is_tied() {
        return Err(ExportError::TiedGguf);
    }
    let (rows, base_rows) = (base.vocabulary(), base.embedding().frozen().rows());
    if rows > base_rows {
        let path = base.checkpoint().path().to_path_buf();
        return Err(ExportError::AddedRows { path, rows, base_rows });
    }
    let tensors: Vec<String> =
        low_rank.updates.iter().map(|update| tensor(base, update)).collect::<Result<_>>()?;
    let architecture: &str = gguf.metadata().require("general.architecture")?;
    let metadata = [
        ("general.architecture", Value::String(architecture.into())),
        ("general.type", Value::String("adapter".into())),
        // every tensor is `F32`
        ("general.file_type", Value::U32(0)),
        ("adapter.type", Value::String("lora".into())),
        ("adapter.lora.alpha", Value::F32(low_rank.rank as f32)),
    ];
    // every update has a tensor, as was just seen
    let keys = |update: &Update<'_>| {
        let tensor = tensor(base, update).unwrap_or_default();
        ["a", "b"].map(|factor| format!("{tensor}.lora_{factor}"))
    };
    let headers = low_rank.headers(Layout::Gguf, keys);
    write_atomically(path, |file| {
        write_gguf_into(path, file, &metadata, &headers, |number, out| {
            low_rank.write(Layout::Gguf, number, out)
        })
    })?;
    Ok(GgufLora { rank: low_rank.rank, tokens: model.token_indices().len(), tensors })
}

/// The tensor of the base's file that an update is of.
fn tensor(base: &PretrainedModel, update: &Update<'_>) -> Result<String> {
    let Update::Linear(layer, _) = update else {
        let matrix = if matches!(update, Update::Head(_)) { base.head() } else { base.embedding() };
        return Ok(matrix.frozen().name().to_owned());
    };
    let linear = base.linear(layer.name());
    let tensor = linear.as_ref().map(|linear| linear.weight.name().to_owned()).unwrap_or_default();
    let is_whole = base.checkpoint().shape(&tensor) == Some(&[layer.outputs(), layer.inputs()]);
    match linear.is_some_and(|linear| linear.stored == StoredAs::Rows) && is_whole {
        true => Ok(tensor),
        false => Err(ExportError::SharedTensor { layer: layer.name().to_owned(), tensor }),
    }
}
