//! Merging from a GGUF file: every tensor decoded, under the name and in the order that transformers has.

use super::{MergedLinear, MergedMatrix, MergedType, config, write_file, write_panels, write_values};
use crate::models::FrozenTensor;
use crate::peft::PeftModel;
use crate::peft::error::Result;
use crate::weights::WeightsError;
use crate::weights::{Checkpoint, SINGLE, TensorHeader, TensorOut, WeightType, write_safetensors};
use serde_json::Map;
use std::path::Path;

/// A tensor of the file to be.
enum Part<'a> {
    Token(MergedMatrix<'a>),
    Linear(MergedLinear<'a>),
    Vector(Vec<f32>),
}

pub(super) fn write(model: &PeftModel, output: &Path, dtype: Option<MergedType>) -> Result<()> {
    let base = model.base();
    let merged = dtype.unwrap_or_else(|| natural_type(base.checkpoint()));
    let dtype = merged.weight_type();
    let weight = |module: &str| format!("{module}.weight");
    let mut parts = vec![(weight(base.embedding_name()), Part::Token(MergedMatrix::embedding(model)))];
    parts.extend(base.frozen_tensors().into_iter().map(|(name, tensor)| {
        let part = match tensor {
            FrozenTensor::Vector(values) => Part::Vector(values),
            FrozenTensor::Matrix(weight) => {
                Part::Linear(MergedLinear::new(model, name.strip_suffix(".weight").unwrap_or(&name), weight))
            }
        };
        (name, part)
    }));
    if !base.is_tied() {
        let head = base.stored_head_name();
        parts.push((weight(head), Part::Token(MergedMatrix::head(model))));
    }
    let headers = parts
        .iter()
        .map(|(name, part)| {
            let shape = part.shape();
            let bytes = dtype.bytes(1, shape.iter().product()).ok_or_else(|| {
                WeightsError::Serialise(format!("{name} of shape {shape:?} as {dtype}: too large"))
            })?;
            Ok(TensorHeader { name: name.clone(), dtype: dtype.name().into(), shape, bytes: bytes as u64 })
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata = Map::from_iter([("format".to_owned(), "pt".into())]);
    write_safetensors(&output.join(SINGLE), &metadata, &headers, |index, out| {
        let (name, part) = &parts[index];
        part.write(name, dtype, out)
    })?;
    write_file(&output.join("config.json"), config::from_metadata(base, merged)?.as_bytes())
}

/// The type of a file that is not quantised, the widest of its matrices; else `bfloat16`.
pub(super) fn natural_type(checkpoint: &Checkpoint) -> MergedType {
    // vectors are always stored as `F32`, whatever the model was trained in
    let matrices = checkpoint.names().filter(|name| checkpoint.shape(name).is_some_and(|s| s.len() == 2));
    let types: Vec<WeightType> = matrices.filter_map(|name| checkpoint.dtype(name)).collect();
    let has = |dtype| types.contains(&dtype);
    let quantised = types.iter().any(|t| !matches!(t, WeightType::F32 | WeightType::F16 | WeightType::BF16));
    match (has(WeightType::F32), has(WeightType::F16), has(WeightType::BF16)) {
        _ if quantised => MergedType::Bf16,
        (true, _, _) | (_, true, true) => MergedType::F32,
        (false, true, false) => MergedType::F16,
        (false, false, _) => MergedType::Bf16,
    }
}

impl Part<'_> {
    fn shape(&self) -> Vec<usize> {
        match self {
            Part::Token(MergedMatrix { matrix, .. }) => vec![matrix.rows(), matrix.width()],
            Part::Linear(linear) => linear.shape().to_vec(),
            Part::Vector(values) => vec![values.len()],
        }
    }

    fn write(&self, name: &str, dtype: WeightType, out: &mut TensorOut<'_>) -> Result<()> {
        match self {
            Part::Token(merged) => write_panels(name, &merged.table(), dtype, out),
            Part::Linear(linear) => linear.write(name, dtype, out),
            Part::Vector(values) => write_values(values, dtype, |at| format!("{name}, entry {at}"), out),
        }
    }
}
