//! Merging from a HuggingFace folder: what is not trained is copied as it lies, unless another type is asked for.

use super::companions::{copy, copy_companions};
use super::floats::{StoredFloats, convertible};
use super::{MergedLinear, MergedMatrix, MergedType, config, write_file, write_panels, write_rows};
use crate::engine::runner::LinearLayer;
use crate::peft::PeftModel;
use crate::peft::error::{PeftError, Result};
use crate::weights::WeightsError;
use crate::weights::{
    Checkpoint, INDEX, SINGLE, TensorHeader, TensorOut, WeightType, read_metadata, write_safetensors,
};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A tensor that is not written as it is stored, and the type that it gets.
pub(super) struct ChangedTensor<'a> {
    part: Part<'a>,
    dtype: WeightType,
}

/// What a tensor is made of.
enum Part<'a> {
    Tokens(MergedMatrix<'a>),
    Linear(MergedLinear<'a>),
    /// The logits' biases of a head that was given more rows, with zeros for those: as many entries in all.
    HeadBias(StoredFloats<'a>, usize),
    /// What the checkpoint has: in another type, or in place of its own as an adapter brought it whole.
    Stored(StoredFloats<'a>),
}

/// The changed tensors by their names.
pub(super) type Changed<'a> = BTreeMap<String, ChangedTensor<'a>>;

impl<'a> ChangedTensor<'a> {
    /// In the type that is asked for, else in the one that it is stored in, or that an adapter brought the whole matrix in.
    fn new(part: Part<'a>, dtype: Option<MergedType>) -> Self {
        let stored = match &part {
            Part::Tokens(matrix) => matrix.matrix.frozen().dtype(),
            Part::Linear(linear) => linear.weight.dtype(),
            Part::HeadBias(stored, _) | Part::Stored(stored) => stored.dtype,
        };
        Self { part, dtype: dtype.map_or(stored, MergedType::weight_type) }
    }

    /// Its shape, from the one that is stored: rows may have been appended.
    fn shape(&self, stored: &[usize]) -> Vec<usize> {
        let mut shape = stored.to_vec();
        match &self.part {
            Part::Tokens(matrix) => shape[0] = matrix.matrix.rows(),
            Part::Linear(_) | Part::Stored(_) => {}
            Part::HeadBias(_, entries) => shape[stored.len() - 1] = *entries,
        }
        shape
    }

    fn entries(&self) -> usize {
        match &self.part {
            Part::Tokens(matrix) => matrix.matrix.rows() * matrix.matrix.width(),
            Part::Linear(linear) => linear.weight.rows() * linear.weight.cols(),
            Part::HeadBias(_, entries) => *entries,
            Part::Stored(stored) => stored.entries(),
        }
    }

    fn bytes(&self) -> u64 {
        // nothing but plain types is written here, whose blocks are single entries
        self.dtype.bytes(1, self.entries()).unwrap_or(0) as u64
    }

    fn write(&self, name: &str, out: &mut TensorOut<'_>) -> Result<()> {
        match &self.part {
            Part::Stored(stored) => stored.write(name, self.dtype, out),
            Part::Tokens(matrix) if self.dtype == matrix.matrix.frozen().dtype() => {
                write_over(name, matrix, out)
            }
            Part::Tokens(matrix) => write_panels(name, &matrix.table(), self.dtype, out),
            Part::Linear(linear) => linear.write(name, self.dtype, out),
            Part::HeadBias(stored, entries) => {
                stored.write(name, self.dtype, out)?;
                let appended = entries.saturating_sub(stored.entries());
                Ok(out.put(&vec![0; self.dtype.bytes(1, appended).unwrap_or(0)])?)
            }
        }
    }
}

pub(super) fn write(
    model: &PeftModel,
    source: &Path,
    output: &Path,
    dtype: Option<MergedType>,
) -> Result<()> {
    let checkpoint = model.base().checkpoint();
    let changed = changed(model, dtype)?;
    let mut files: Vec<(&Path, Vec<&str>)> = Vec::new();
    for name in checkpoint.names() {
        let Some(file) = checkpoint.file(name) else { continue };
        match files.iter_mut().find(|(known, _)| *known == file) {
            Some((_, names)) => names.push(name),
            None => files.push((file, vec![name])),
        }
    }
    let sharded = checkpoint.path().extension().is_some_and(|ending| ending == "json");
    for (file, names) in files {
        // a model that was opened by its file may have another name; a folder is opened by this one
        let target = match file.strip_prefix(source) {
            Ok(inside) if sharded => output.join(inside),
            _ => output.join(SINGLE),
        };
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(WeightsError::io(parent))?;
        }
        if names.iter().any(|name| changed.contains_key(*name)) {
            write_tensors(checkpoint, &changed, read_metadata(file)?, &names, &target)?;
        } else {
            copy(file, &target)?;
        }
    }
    if sharded {
        write_index(checkpoint, &changed, dtype.is_some(), &output.join(INDEX))?;
    }
    write_beside(model, source, output, dtype)
}

/// The configuration and whatever else belongs to the model beside its weights.
pub(super) fn write_beside(
    model: &PeftModel,
    source: &Path,
    output: &Path,
    dtype: Option<MergedType>,
) -> Result<()> {
    let (checkpoint, embedding) = (model.base().checkpoint(), model.base().embedding());
    let resized = Some(embedding.rows()) != checkpoint.shape(embedding.frozen().name()).map(|shape| shape[0]);
    let config = output.join("config.json");
    match config::changed(model.base(), resized, dtype)? {
        Some(text) => write_file(&config, text.as_bytes())?,
        None => copy(model.base().config().path(), &config)?,
    }
    // what another program holds need not have come from a folder
    if matches!(checkpoint, Checkpoint::Memory(_)) && !source.is_dir() {
        return Ok(());
    }
    copy_companions(source, output)
}

/// The tensors that are not to be written as they are stored: token matrices under every name that the checkpoint has them
/// by, so that the copies of a tied one stay equal; with a `dtype`, whatever is stored in another one that it can replace.
///
/// # Errors
/// One has scales beside it.
pub(super) fn changed(model: &PeftModel, dtype: Option<MergedType>) -> Result<Changed<'_>> {
    let (base, checkpoint) = (model.base(), model.base().checkpoint());
    let (embedding, head) = (MergedMatrix::embedding(model), MergedMatrix::head(model));
    let mut matrices: Vec<(String, MergedMatrix<'_>)> =
        base.embedding_tensors().into_iter().map(|name| (name, embedding)).collect();
    if base.has_head() && !base.is_tied() {
        matrices.extend(base.head_tensors().into_iter().map(|name| (name, head)));
    }
    let tokens = matrices.into_iter().filter(|(_, matrix)| matrix.is_changed());
    let tensor = |part| ChangedTensor::new(part, dtype);
    let mut changed: Changed<'_> =
        tokens.map(|(name, matrix)| (name, tensor(Part::Tokens(matrix)))).collect();
    for name in checkpoint.replaced() {
        if let Some(stored) = StoredFloats::of(checkpoint, name) {
            changed.entry(name.to_owned()).or_insert_with(|| tensor(Part::Stored(stored)));
        }
    }
    if !base.head().extra().is_empty() {
        for name in base.head_bias_tensors() {
            if let Some(stored) = StoredFloats::of(checkpoint, &name) {
                changed.insert(name, tensor(Part::HeadBias(stored, base.head().rows())));
            }
        }
    }
    for LinearLayer { module, weight, .. } in base.runner().linears() {
        let linear = MergedLinear::new(model, module, weight);
        // one that was merged in memory is no longer the stored one
        let stored = checkpoint.stored_bytes(weight.name()).map(<[u8]>::as_ptr);
        if !linear.updates.is_empty() || stored != Some(weight.stored_bytes().as_ptr()) {
            changed.insert(weight.name().to_owned(), tensor(Part::Linear(linear)));
        }
    }
    // what is written would be taken for numbers that are yet to be multiplied
    if let Some(tensor) = changed.keys().find(|name| checkpoint.is_scaled(name)) {
        return Err(PeftError::MergeIntoScaled { tensor: tensor.clone() });
    }
    if let Some(asked) = dtype.map(MergedType::weight_type) {
        let others = convertible(checkpoint).into_iter().filter(|(_, stored)| stored.dtype != asked);
        for (name, stored) in others {
            changed.entry(name.to_owned()).or_insert_with(|| tensor(Part::Stored(stored)));
        }
    }
    Ok(changed)
}

/// The bytes that a tensor has in the checkpoint.
fn stored_bytes(checkpoint: &Checkpoint, name: &str) -> u64 {
    checkpoint.stored_bytes(name).map_or(0, <[u8]>::len) as u64
}

/// Writes the tensors `names` into one file, the changed ones as they are now.
pub(super) fn write_tensors(
    checkpoint: &Checkpoint,
    changed: &Changed<'_>,
    mut metadata: Map<String, Value>,
    names: &[&str],
    target: &Path,
) -> Result<()> {
    // transformers refuses a file that does not say which framework wrote it
    metadata.entry("format").or_insert_with(|| "pt".into());
    let mut headers = Vec::new();
    for &name in names {
        let mut shape = checkpoint.shape(name).unwrap_or_default().to_vec();
        let mut bytes = stored_bytes(checkpoint, name);
        let mut dtype = checkpoint.type_name(name).unwrap_or_default().to_owned();
        if let Some(tensor) = changed.get(name) {
            shape = tensor.shape(&shape);
            (dtype, bytes) = (tensor.dtype.name().into(), tensor.bytes());
        }
        headers.push(TensorHeader { name: name.to_owned(), dtype, shape, bytes });
    }
    write_safetensors(target, &metadata, &headers, |index, out| {
        let name = names[index];
        match changed.get(name) {
            Some(tensor) => tensor.write(name, out),
            None => Ok(out.put(checkpoint.stored_bytes(name).unwrap_or_default())?),
        }
    })
}

/// The stored rows with the trained ones in their places, then the appended ones.
fn write_over(name: &str, matrix: &MergedMatrix<'_>, out: &mut TensorOut<'_>) -> Result<()> {
    let table = matrix.table();
    let (stored, dtype) = (matrix.matrix.frozen().stored_bytes(), matrix.matrix.frozen().dtype());
    let frozen = matrix.matrix.frozen().rows();
    let row_bytes = stored.len() / frozen.max(1);
    let mut next = 0;
    for &(row, _) in table.overrides().iter().take_while(|(row, _)| *row < frozen) {
        out.put(&stored[next * row_bytes..row * row_bytes])?;
        write_rows(name, &table, row..row + 1, dtype, out)?;
        next = row + 1;
    }
    out.put(&stored[next * row_bytes..])?;
    (frozen..matrix.matrix.rows()).try_for_each(|row| write_rows(name, &table, row..row + 1, dtype, out))
}

/// The index as it is, but for the sizes when rows were appended or types changed.
fn write_index(checkpoint: &Checkpoint, changed: &Changed<'_>, retyped: bool, target: &Path) -> Result<()> {
    let source = checkpoint.path();
    let (mut bytes, mut entries) = (0i64, 0i64);
    for (name, tensor) in changed {
        let before = checkpoint.shape(name).map_or(0, |shape| shape.iter().product::<usize>());
        bytes += tensor.bytes() as i64 - stored_bytes(checkpoint, name) as i64;
        entries += tensor.entries() as i64 - before as i64;
    }
    if (bytes, entries) == (0, 0) {
        return copy(source, target);
    }
    let text = fs::read(source).map_err(WeightsError::io(source))?;
    let mut index: Value = serde_json::from_slice(&text).map_err(|error| WeightsError::Json {
        path: source.to_path_buf(),
        what: "the index",
        source: error,
    })?;
    for (key, added) in [("total_size", bytes), ("total_parameters", entries)] {
        if let Some(size) = index.get_mut("metadata").and_then(|metadata| metadata.get_mut(key))
            && let Some(before) = size.as_u64()
        {
            *size = before.saturating_add_signed(added).into();
        }
    }
    if retyped && let Some(size) = index.pointer_mut("/metadata/total_size") {
        let of =
            |name| changed.get(name).map_or_else(|| stored_bytes(checkpoint, name), ChangedTensor::bytes);
        // of all, whatever was said of the source
        *size = checkpoint.names().map(of).sum::<u64>().into();
    }
    let text = serde_json::to_string_pretty(&index).map_err(|e| WeightsError::Serialise(e.to_string()))?;
    write_file(target, (text + "\n").as_bytes())
}
