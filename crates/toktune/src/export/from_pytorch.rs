//! Merging from PyTorch's own files: the tensors go, as they are stored unless another type is asked for, into one safetensors file.

use super::MergedType;
use super::from_safetensors::{changed, write_beside, write_tensors};
use crate::peft::PeftModel;
use crate::peft::error::{PeftError, Result};
use crate::weights::WeightsError;
use crate::weights::{Checkpoint, SINGLE};
use serde_json::Map;
use std::path::Path;

/// The types that a safetensors file can hold, of those that [`Checkpoint::type_name`] names.
const TYPES: [&str; 10] = ["F32", "F16", "BF16", "F64", "I64", "I32", "I16", "I8", "U8", "BOOL"];

pub(super) fn write(
    model: &PeftModel,
    source: &Path,
    output: &Path,
    dtype: Option<MergedType>,
) -> Result<()> {
    let base = model.base();
    let checkpoint = base.checkpoint();
    // what shares the embedding's storage in such a file would be a copy in safetensors, which a tied model does without
    let copies = if base.is_tied() { base.embedding_tensors().split_off(1) } else { Vec::new() };
    let names: Vec<&str> = checkpoint.names().filter(|name| !copies.iter().any(|c| c == name)).collect();
    names.iter().try_for_each(|name| check(checkpoint, name))?;
    write_tensors(checkpoint, &changed(model, dtype)?, Map::new(), &names, &output.join(SINGLE))?;
    write_beside(model, source, output, dtype)
}

fn check(checkpoint: &Checkpoint, name: &str) -> Result<()> {
    let found = checkpoint.type_name(name).unwrap_or_default();
    if TYPES.contains(&found) {
        return Ok(());
    }
    Err(PeftError::Weights(WeightsError::UnsupportedType {
        path: checkpoint.file(name).unwrap_or(checkpoint.path()).to_path_buf(),
        tensor: name.to_owned(),
        found: found.to_owned(),
        supported: TYPES.join(", "),
    }))
}
