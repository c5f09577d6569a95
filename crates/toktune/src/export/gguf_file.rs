//! Trained rows inside a copy of the GGUF file that they were trained over.

use super::base_rows::check_other_rows;
use super::error::{ExportError, Result};
use crate::models::{TokenMatrix, TrainedRows};
use crate::peft::PeftModel;
use crate::text::{AutoTokenizer, PatchedTokens, patch_gguf_tokens};
use crate::weights::{
    Bytes, Checkpoint, FrozenMatrix, Gguf, GgufPatch, Isa, Matrix, RowOrder, RowPatch, WeightType, encode,
};
use std::path::Path;
use toktune_engine::EngineError;

/// llama.cpp's name of the biases of the logits.
const HEAD_BIAS: &str = "output.bias";

/// What a patched file has in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PatchedGguf {
    /// The tokens whose rows were replaced or appended by training.
    pub tokens: usize,
    /// Each token matrix and the type its rows were rounded to.
    pub matrices: Vec<(String, WeightType)>,
    /// Rows of the token matrices.
    pub rows: usize,
    /// Rows that they had.
    pub base_rows: usize,
    /// What became of the token lists.
    pub vocabulary: PatchedTokens,
}

/// Writes a copy of the GGUF file that the base was opened from, with the active adapter's rows in its token matrices: each is
/// rounded as ggml's reference rounds it to the type of the matrix. Rows that a resize appended are behind the others, and
/// the token lists have the tokens of `tokenizer` that they lack, so that llama.cpp reads and writes them. Every other byte
/// of the metadata and the tensors is as it was.
///
/// # Errors
/// There is something at `path`; the base is no GGUF file, or one in parts; not exactly one adapter is active, or it has LoRA
/// beside the rows, or brings more than that; a tied head has rows of its own; rows cannot be written in the type of a matrix;
/// `tokenizer` is not the file's with more tokens; a file cannot be written.
pub fn export_gguf(model: &PeftModel, tokenizer: Option<&AutoTokenizer>, path: &Path) -> Result<PatchedGguf> {
    let (base, adapter) = (model.base(), model.trained_adapter()?);
    let gguf = gguf_of(base.checkpoint())?;
    check_new(path)?;
    if let Some(layer) = adapter.lora_layers().first() {
        let (layers, first) = (adapter.lora_layers().len(), layer.name().to_owned());
        return Err(ExportError::LoraInGguf { layers, first });
    }
    model.check_ties(adapter)?;
    check_other_rows(model)?;
    let mut patch = GgufPatch::default();
    let mut matrices = Vec::new();
    let active = model.active();
    let mut own = vec![(base.embedding_tensors(), base.embedding(), active.input_rows())];
    if base.has_head() && !base.is_tied() {
        own.push((base.head_tensors(), base.head(), active.output_rows()));
    }
    for (names, matrix, trained) in own {
        for name in names {
            let dtype = base.checkpoint().dtype(&name).unwrap_or(WeightType::F32);
            let rows = rows(&name, dtype, matrix, trained)?;
            if rows != RowPatch::default() {
                matrices.push((name.clone(), dtype));
                patch.tensors.insert(name, rows);
            }
        }
    }
    let base_rows = base.embedding().frozen().rows();
    // the logits' biases, where there are any
    if let Some(dtype) = base.checkpoint().dtype(HEAD_BIAS).filter(|_| base.vocabulary() > base_rows) {
        let tensor = || HEAD_BIAS.to_owned();
        let zero =
            encode(dtype, &[0.0]).ok_or_else(|| ExportError::Unwritable { tensor: tensor(), dtype })?;
        let appended = vec![zero; base.vocabulary() - base_rows];
        patch.tensors.insert(tensor(), RowPatch { appended, ..RowPatch::default() });
    }
    let trained = model.token_indices();
    let vocabulary = patch_gguf_tokens(gguf, tokenizer, &trained, base.vocabulary(), &mut patch)?;
    Gguf::write_patched(base.checkpoint().path(), path, &patch)?;
    Ok(PatchedGguf { tokens: trained.len(), matrices, rows: base.vocabulary(), base_rows, vocabulary })
}

/// The GGUF file that a model was opened from.
pub(super) fn gguf_of(checkpoint: &Checkpoint) -> Result<&Gguf> {
    let path = || checkpoint.path().to_path_buf();
    checkpoint.as_gguf().ok_or_else(|| ExportError::NotGguf { path: path() })
}

/// Makes sure that nothing is overwritten, the base's own file least of all.
pub(super) fn check_new(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(_) => Err(ExportError::OutputExists { path: path.to_path_buf() }),
        Err(_) => Ok(()),
    }
}

/// The trained and the appended rows of a matrix as a tensor of this type holds them.
fn rows(
    name: &str,
    dtype: WeightType,
    matrix: &TokenMatrix,
    trained: Option<&TrainedRows>,
) -> Result<RowPatch> {
    let table = matrix.table(trained);
    let row = |row: usize| {
        let mut values = vec![0f32; matrix.width()];
        // exact: the same bits on every instruction set
        table.decode(Isa::best(), row..row + 1, 0..matrix.width(), &mut values);
        rounded(name, dtype, row, &values)
    };
    let frozen = matrix.frozen().rows();
    let replaced = table.overrides().iter().map(|(row, _)| *row).filter(|row| *row < frozen);
    Ok(RowPatch {
        changed: replaced.map(|at| Ok((at, row(at)?))).collect::<Result<_>>()?,
        appended: (frozen..matrix.rows()).map(row).collect::<Result<_>>()?,
    })
}

/// A row's bytes.
fn rounded(name: &str, dtype: WeightType, row: usize, values: &[f32]) -> Result<Vec<u8>> {
    let not_finite = |x: &f32| !x.is_finite();
    let refuse = |x: f32| EngineError::NotFinite { what: format!("{name}, row {row} holds {x} as {dtype}") };
    if let Some(x) = values.iter().copied().find(|x| not_finite(x)) {
        return Err(refuse(x).into());
    }
    let bytes =
        encode(dtype, values).ok_or_else(|| ExportError::Unwritable { tensor: name.into(), dtype })?;
    let stored = Bytes::owned(bytes.clone());
    let stored = FrozenMatrix::new(name, stored, dtype, 1, values.len(), RowOrder::Plain)?.decode_rows(0..1);
    if stored.iter().all(|x| x.is_finite()) {
        return Ok(bytes);
    }
    // the factors of blocks are of half precision, and the largest weight decides about them
    let larger = |a: f32, b: f32| if b.abs() > a.abs() { b } else { a };
    Err(refuse(values.iter().copied().fold(0.0, larger)).into())
}
