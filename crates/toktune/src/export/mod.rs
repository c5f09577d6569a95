//! Writing what was trained for other programs: a plain model with the adapters in it, or the adapter in forms that they load.
//!
//! | file | owns |
//! | --- | --- |
//! | `from_safetensors`, `from_pytorch`, `from_gguf`, `floats`, `config`, `companions` | [`merge_to_folder`]: a HuggingFace folder that needs no adapter |
//! | `peft_folder` | [`export_peft`]: the adapter itself, as small as it can be |
//! | `gguf_file` | [`export_gguf`]: rows inside a copy of a GGUF file |
//! | `lora_onehot`, `gguf_lora` | [`export_lora_onehot`], [`export_gguf_lora`]: rows as LoRA, for PEFT's files and for llama.cpp |
//! | `low_rank`, `factor`, `base_rows` | the updates of both, and what they are differences to |
//!
//! Nothing is held in memory but a panel of rows: tensors go from the mapped source to the file. A folder
//! is filled under a temporary name beside its own and renamed, so that it is there whole or not at all.

mod base_rows;
mod companions;
mod config;
mod error;
mod factor;
mod floats;
mod from_gguf;
mod from_pytorch;
mod from_safetensors;
mod gguf_file;
mod gguf_lora;
mod lora_onehot;
mod low_rank;
mod peft_folder;
mod proof;
#[cfg(test)]
mod tests;

pub use error::ExportError;
pub use gguf_file::{PatchedGguf, export_gguf};
pub use gguf_lora::{GgufLora, export_gguf_lora};
pub use lora_onehot::{OneHotLora, export_lora_onehot};
pub use peft_folder::{PeftFolder, export_peft};
pub use proof::{MergeProof, prove_merge};

use crate::engine::backend::StoredAs;
use crate::models::{TokenMatrix, TrainedRows};
use crate::peft::error::{PeftError, Result};
use crate::peft::{LoraLayer, PeftModel};
use crate::weights::WeightsError;
use crate::weights::{
    Checkpoint, FrozenMatrix, TensorOut, WeightType, write_atomically, write_folder_atomically,
};
use crate::weights::{Isa, Matrix, TokenTable, encode};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use toktune_engine::EngineError;

/// A type that the tensors of a merged model can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergedType {
    /// `float32`.
    F32,
    /// `float16`.
    F16,
    /// `bfloat16`.
    Bf16,
}

/// What a merged folder is to be like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MergeOptions {
    /// The type of the tensors. With `F32` nothing is rounded: the trained rows are there as they were trained, LoRA's updates are
    /// added to the weights and rounded once, and the merged model computes what the model with the adapter does, in twice the
    /// space of one of 16 bits.
    ///
    /// From a folder every tensor of `F32`, `F16` or `BF16` is written in it, changed or not, and `config.json` names it.
    /// Others (integers, 64-bit floats, 8-bit floats and their scales) stay as they are stored. `None` keeps the type
    /// of each tensor, so that what was trained is rounded to that of its matrix.
    ///
    /// From a GGUF file every tensor is written in it. `None` takes the type of a file that is not quantised (`float32`, `float16` or
    /// `bfloat16`), so that nothing is lost, and `bfloat16` for a quantised one: models are published in it, and its
    /// rounding (0.2%) is small against that of the blocks.
    pub dtype: Option<MergedType>,
}

/// Writes a folder that transformers, and [`AutoModelForCausalLM`](crate::models::AutoModelForCausalLM), load
/// as the model with its active adapters: the trained rows and the rows appended by a resize are in the
/// embedding and the head, LoRA's updates in the linear layers.
///
/// From a folder of safetensors, unless [`MergeOptions::dtype`] asks for a type, everything else is copied as it stands: other tensors byte for byte, each in
/// its type and its shard, `config.json` (with a new `vocab_size` when rows were appended), and the files
/// and folders that belong to a model (`generation_config.json`, the tokenizer's and the processor's, code, cards and
/// licences, what `modules.json` names; no other weights and nothing hidden). The tensors of `pytorch_model.bin`, sharded or not, go as they are stored into
/// one `model.safetensors`, the rest is copied likewise. From a GGUF file the tensors are decoded, renamed and reordered as
/// transformers has them, into one `model.safetensors` beside a `config.json` made from the metadata. A
/// tokenizer that was changed, or that is inside the GGUF file, is the caller's to save.
///
/// # Errors
/// `folder` is the source, or holds something already; a tied head has rows of its own; a trained row, or what the asked type cannot hold of the
/// source, is not finite in the type it is written in; a file cannot be read or written. Then nothing is left behind.
pub fn merge_to_folder(model: &PeftModel, folder: &Path, options: MergeOptions) -> Result<()> {
    model.acting().try_for_each(|adapter| model.check_ties(adapter))?;
    let checkpoint = model.base().checkpoint();
    let source = checkpoint.path().parent().unwrap_or(Path::new(""));
    // `canonicalize` refuses the empty path, which is the present folder
    let source = if source.as_os_str().is_empty() { Path::new(".") } else { source };
    if let (Ok(a), Ok(b)) = (source.canonicalize(), folder.canonicalize())
        && a == b
    {
        return Err(PeftError::MergeOntoSource { path: folder.to_path_buf() });
    }
    write_folder_atomically(folder, |output| match checkpoint {
        Checkpoint::Gguf(_) => from_gguf::write(model, output, options.dtype),
        // what another program holds has no file either that could be copied as it stands
        Checkpoint::Pytorch(_) | Checkpoint::Memory(_) => {
            from_pytorch::write(model, source, output, options.dtype)
        }
        Checkpoint::Safetensors(_) => from_safetensors::write(model, source, output, options.dtype),
    })
}

impl MergedType {
    fn weight_type(self) -> WeightType {
        match self {
            MergedType::F32 => WeightType::F32,
            MergedType::F16 => WeightType::F16,
            MergedType::Bf16 => WeightType::BF16,
        }
    }

    /// That of a plain type of weights.
    fn of(dtype: WeightType) -> Option<Self> {
        [Self::F32, Self::F16, Self::Bf16].into_iter().find(|plain| plain.weight_type() == dtype)
    }

    /// As `config.json` names it.
    fn torch_name(self) -> &'static str {
        match self {
            MergedType::F32 => "float32",
            MergedType::F16 => "float16",
            MergedType::Bf16 => "bfloat16",
        }
    }
}

/// A token matrix under the name of its tensor, with the rows that replace some of its own.
#[derive(Clone, Copy)]
struct MergedMatrix<'a> {
    matrix: &'a TokenMatrix,
    trained: Option<&'a TrainedRows>,
}

impl<'a> MergedMatrix<'a> {
    fn embedding(model: &'a PeftModel) -> Self {
        Self { matrix: model.base().embedding(), trained: model.active().input_rows() }
    }

    fn head(model: &'a PeftModel) -> Self {
        Self { matrix: model.base().head(), trained: model.active().output_rows() }
    }

    fn table(&self) -> TokenTable<'a> {
        self.matrix.table(self.trained)
    }

    /// Whether it differs from the stored matrix.
    fn is_changed(&self) -> bool {
        self.trained.is_some() || !self.matrix.extra().is_empty() || self.matrix.is_replaced()
    }
}

/// A linear layer's weight with the updates that are added to it.
#[derive(Clone)]
struct MergedLinear<'a> {
    weight: &'a FrozenMatrix,
    updates: Vec<&'a LoraLayer>,
    form: Form,
}

/// How a weight lies where it comes from and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `[out, in]` in both places.
    Rows,
    /// `[in, out]` in both places.
    Columns,
    /// `[out, in]`, to be written as `[in, out]`.
    Transposed,
}

/// Entries decoded at a time: 4 MiB of `f32`.
const PANEL: usize = 1 << 20;

impl<'a> MergedLinear<'a> {
    /// The weight of layer `name` with what the active adapters add to it.
    fn new(model: &'a PeftModel, name: &str, weight: &'a FrozenMatrix) -> Self {
        let updates = model.active().lora().iter().filter(|update| update.name() == name).collect();
        let form = match model.base().linear(name).map(|linear| linear.stored) {
            // positions, say, are no linear layer
            None => Form::Rows,
            Some(StoredAs::Columns) => Form::Columns,
            Some(StoredAs::Rows) if model.base().family().columns => Form::Transposed,
            Some(StoredAs::Rows) => Form::Rows,
        };
        Self { weight, updates, form }
    }

    /// The shape that is written.
    fn shape(&self) -> [usize; 2] {
        match self.form {
            Form::Transposed => [self.weight.cols(), self.weight.rows()],
            Form::Rows | Form::Columns => [self.weight.rows(), self.weight.cols()],
        }
    }

    /// Writes all rows in `dtype`, a panel at a time; each entry is rounded once.
    fn write(&self, name: &str, dtype: WeightType, out: &mut TensorOut<'_>) -> Result<()> {
        let [rows, cols] = self.shape();
        let unit = if self.form == Form::Transposed { self.weight.view().column_unit() } else { 1 };
        let panel = (PANEL / cols.max(1)).max(1).next_multiple_of(unit);
        (0..rows).step_by(panel).try_for_each(|start| {
            let mut values = self.rows(start..(start + panel).min(rows));
            for (row, values) in values.chunks_exact_mut(cols.max(1)).enumerate() {
                self.updates.iter().for_each(|update| match self.form {
                    Form::Rows => update.add_row(start + row, values),
                    Form::Columns | Form::Transposed => update.add_column(start + row, values),
                });
            }
            let what = |at: usize| format!("{name}, row {}", start + at / cols.max(1));
            write_values(&values, dtype, what, out)
        })
    }

    /// Some of the rows that are written, as the checkpoint has them.
    fn rows(&self, range: Range<usize>) -> Vec<f32> {
        if self.form != Form::Transposed {
            return self.weight.decode_rows(range);
        }
        let (outputs, width) = (self.weight.rows(), range.len());
        let mut stored = vec![0f32; outputs * width];
        // exact: the same bits on every instruction set
        self.weight.view().decode(Isa::best(), 0..outputs, range, &mut stored);
        let entry = |at: usize| stored[at % outputs * width + at / outputs];
        (0..stored.len()).map(entry).collect()
    }
}

/// Writes some rows of a matrix in `dtype`.
fn write_rows(
    name: &str,
    table: &impl Matrix,
    rows: Range<usize>,
    dtype: WeightType,
    out: &mut TensorOut<'_>,
) -> Result<()> {
    let mut values = vec![0f32; rows.len() * table.cols()];
    // exact: the same bits on every instruction set
    table.decode(Isa::best(), rows.clone(), 0..table.cols(), &mut values);
    let what = |at: usize| format!("{name}, row {}", rows.start + at / table.cols().max(1));
    write_values(&values, dtype, what, out)
}

/// Writes values in `dtype`; `what` names the one at an index.
fn write_values(
    values: &[f32],
    dtype: WeightType,
    what: impl Fn(usize) -> String,
    out: &mut TensorOut<'_>,
) -> Result<()> {
    if let Some(at) = first_beyond(values, dtype) {
        return Err(not_finite(what(at), values[at], dtype));
    }
    let bytes =
        encode(dtype, values).ok_or_else(|| WeightsError::Serialise(format!("{} as {dtype}", what(0))))?;
    Ok(out.put(&bytes)?)
}

/// The first value that a type cannot hold.
fn first_beyond(values: &[f32], dtype: WeightType) -> Option<usize> {
    // values past the range of a type would become infinities in silence
    let limit = match dtype {
        WeightType::F16 => half::f16::MAX.to_f32(),
        WeightType::BF16 => half::bf16::MAX.to_f32(),
        _ => f32::MAX,
    };
    values.iter().position(|x| x.is_nan() || x.abs() > limit)
}

fn not_finite(what: String, value: f32, dtype: WeightType) -> PeftError {
    EngineError::NotFinite { what: format!("{what} holds {value} as {dtype}") }.into()
}

/// Writes all rows of a matrix in `dtype`, a panel at a time.
fn write_panels(name: &str, table: &impl Matrix, dtype: WeightType, out: &mut TensorOut<'_>) -> Result<()> {
    let rows = (PANEL / table.cols().max(1)).max(1);
    (0..table.rows())
        .step_by(rows)
        .try_for_each(|start| write_rows(name, table, start..(start + rows).min(table.rows()), dtype, out))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    Ok(write_atomically(path, |file| file.write_all(bytes).map_err(WeightsError::io(path)))?)
}
