//! Whether a merged folder is what it should be: opened again, and compared with the model that it was made of.

use super::MergedMatrix;
use super::floats::StoredFloats;
use crate::engine::runner::TokenRows;
use crate::engine::trained::Trained;
use crate::models::{AutoModel, PrecisionMode, PretrainedModel};
use crate::peft::PeftModel;
use crate::peft::error::{PeftError, Result};
use crate::random::Random;
use crate::weights::{Checkpoint, Isa, Matrix, encode};
use std::collections::BTreeSet;
use std::path::Path;

/// Tokens of the text that both models read.
const SAMPLE: usize = 48;

/// What a merged folder shares with its source, and where it differs.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct MergeProof {
    /// Rows of token matrices that were read again: each is the trained row, rounded to the matrix's type.
    pub rows: usize,
    /// The largest change of an entry of theirs by that rounding.
    pub rounding: f32,
    /// Tensors of the source that are there byte for byte, but for the rows above; none where tensors get other names (GGUF
    /// files), or are changed as a whole by LoRA.
    pub unchanged_tensors: usize,
    /// The bytes that were compared.
    pub unchanged_bytes: u64,
    /// Tensors of the source that are there in another type ([`MergeOptions::dtype`](super::MergeOptions::dtype)): every entry, but for
    /// the rows above, is the source's, rounded to that type.
    pub converted_tensors: usize,
    /// The entries that were compared.
    pub converted_entries: u64,
    /// The largest change of one of them by that rounding: 0 in a wider type.
    pub conversion: f32,
    /// The largest difference of a logit on a sample of tokens, the trained ones among them, computed in `f32`; `None` of a model whose rows
    /// have no logits of their own.
    pub logits: Option<f32>,
    /// Places of the sample where another token is the likeliest, of all that there are.
    pub changed: (usize, usize),
}

/// Opens `folder`, which `model` was merged into, and compares.
///
/// # Errors
/// It cannot be opened; a row is not the trained one in the type it is written in; something else differs from the source that
/// should not.
pub fn prove_merge(model: &PeftModel, folder: &Path) -> Result<MergeProof> {
    let mut merged = AutoModel::from_pretrained(folder, &model.base().device())?;
    let differs = |what: String| PeftError::MergeDiffers { path: folder.to_path_buf(), what };
    if merged.vocabulary() != model.base().vocabulary() {
        let (found, expected) = (merged.vocabulary(), model.base().vocabulary());
        return Err(differs(format!("{found} rows of the token matrix, expected {expected}")));
    }
    let mut proof = MergeProof::default();
    let mut changed_rows: BTreeSet<usize> = BTreeSet::new();
    let mut sides = vec![(MergedMatrix::embedding(model), merged.embedding())];
    // a tied head has no rows of its own
    if merged.has_head() && !model.base().is_tied() {
        sides.push((MergedMatrix::head(model), merged.head()));
    }
    for (source, found) in sides {
        let trained = source.trained.map_or(&[][..], |rows| rows.indices());
        let appended = source.matrix.frozen().rows()..source.matrix.rows();
        let own: BTreeSet<usize> = trained.iter().map(|id| *id as usize).chain(appended).collect();
        for &row in &own {
            let (rounding, is_same) = row_difference(&source, found, row);
            if !is_same {
                return Err(differs(format!("row {row} of {} is not the trained one", found.name())));
            }
            proof.rounding = proof.rounding.max(rounding);
            proof.rows += 1;
        }
        changed_rows.extend(own);
    }
    if let Some(what) = compare_tensors(model, merged.checkpoint(), &changed_rows, &mut proof)? {
        return Err(differs(what));
    }
    merged.set_precision(PrecisionMode::F32);
    compare_logits(model, &merged, &changed_rows, &mut proof)?;
    Ok(proof)
}

/// How much rounding changes a row, and whether it is that rounded row which was `found`.
fn row_difference(source: &MergedMatrix<'_>, found: &crate::models::TokenMatrix, row: usize) -> (f32, bool) {
    let table = source.table();
    let mut exact = vec![0f32; table.cols()];
    table.decode(Isa::best(), row..row + 1, 0..table.cols(), &mut exact);
    let stored = found.frozen().view();
    let rounded = stored.stored_row(row).and_then(|of| Some((of.bytes.to_vec(), encode(of.dtype, &exact)?)));
    let read = found.gather(&[row as u32]);
    let rounding = read.iter().zip(&exact).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    (rounding, rounded.is_some_and(|(found, expected)| found == expected))
}

/// Compares the tensors that both have under one name; what differs where nothing should, in words.
fn compare_tensors(
    model: &PeftModel,
    merged: &Checkpoint,
    rows: &BTreeSet<usize>,
    proof: &mut MergeProof,
) -> Result<Option<String>> {
    let (base, source) = (model.base(), model.base().checkpoint());
    let updated: BTreeSet<String> =
        model.active().lora().iter().map(|update| format!("{}.weight", update.name())).collect();
    let mut tokens = base.embedding_tensors();
    if base.has_head() && !base.is_tied() {
        tokens.extend(base.head_tensors());
    }
    let none = BTreeSet::new();
    for name in source.names() {
        // other tensors have rows of these numbers too, which are nobody's own
        let rows = if tokens.iter().any(|token| token == name) { rows } else { &none };
        let (Some(was), Some(is)) = (source.stored_bytes(name), merged.stored_bytes(name)) else { continue };
        // an update changes all of its weight; the names of checkpoints may leave out what is before the layers
        if updated.iter().any(|layer| layer.ends_with(name) || name.ends_with(layer.as_str())) {
            continue;
        }
        let count = source.shape(name).and_then(|shape| shape.first()).copied().unwrap_or(0);
        let other_row = if source.type_name(name) == merged.type_name(name) {
            proof.unchanged_tensors += 1;
            proof.unchanged_bytes += was.len() as u64;
            other_row(was, is, count, rows)
        } else {
            let floats = (StoredFloats::of(source, name), StoredFloats::of(merged, name));
            // in a GGUF file names and orders are others; a whole matrix that an adapter brought may be of its own type
            let is_brought = [base.embedding(), base.head()]
                .iter()
                .any(|matrix| matrix.is_replaced() && matrix.frozen().name() == name);
            let (Some(was), Some(is)) = floats else { continue };
            if source.as_gguf().is_some() || is_brought {
                continue;
            }
            let width = was.entries() / count.max(1);
            proof.converted_tensors += 1;
            proof.converted_entries += was.entries() as u64;
            match was.compare(&is, width, rows)? {
                Ok(rounding) => {
                    proof.conversion = proof.conversion.max(rounding);
                    None
                }
                Err(entry) => Some(entry / width.max(1)),
            }
        };
        if let Some(row) = other_row {
            return Ok(Some(format!("{name}, row {row}, is not that of the source")));
        }
    }
    Ok(None)
}

/// The first of a tensor's rows, beside those in `but`, whose bytes are not the same in both.
fn other_row(was: &[u8], is: &[u8], count: usize, but: &BTreeSet<usize>) -> Option<usize> {
    let width = was.len() / count.max(1);
    let is_same = |row: usize| {
        let own = row * width..(row + 1) * width;
        but.contains(&row) || was.get(own.clone()) == is.get(own)
    };
    if was == is { None } else { (0..count).find(|row| !is_same(*row)) }
}

/// Compares the logits of both on a text of random tokens with those whose rows were changed among them.
fn compare_logits(
    model: &PeftModel,
    merged: &PretrainedModel,
    rows: &BTreeSet<usize>,
    proof: &mut MergeProof,
) -> Result<()> {
    let base = model.base();
    if base.has_encoder() || !base.has_head() {
        return Ok(());
    }
    let mut random = Random::new(0);
    let changed: Vec<usize> = rows.iter().copied().collect();
    let ids: Vec<u32> = (0..SAMPLE)
        .map(|at| match at % 4 {
            1 if !changed.is_empty() => changed[at / 4 % changed.len()] as u32,
            _ => random.below(base.vocabulary().max(1) as u64) as u32,
        })
        .collect();
    let of = |model: &PretrainedModel, trained: &Trained<'_>| -> Result<Vec<f32>> {
        let tokens = TokenRows { ids: &ids, starts: &[0, ids.len()] };
        Ok(model.runner().logits(tokens, None, trained)?.concat())
    };
    let expected = of(base, &model.active().trained())?;
    let found = of(merged, &Trained::default())?;
    let vocabulary = (expected.len() / ids.len().max(1)).max(1);
    let likeliest = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(at, _)| at);
    let others = expected
        .chunks_exact(vocabulary)
        .zip(found.chunks_exact(vocabulary))
        .filter(|(a, b)| likeliest(a) != likeliest(b))
        .count();
    proof.changed = (others, ids.len());
    proof.logits = Some(expected.iter().zip(&found).fold(0f32, |most, (a, b)| most.max((a - b).abs())));
    Ok(())
}
