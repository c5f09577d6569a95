//! The adapter itself in PEFT's files, as small as it can be.

use super::base_rows::{BaseRows, check_other_rows};
use super::error::Result;
use crate::peft::{PeftModel, SaveEmbeddingLayers};
use crate::text::AutoTokenizer;
use crate::weights::write_folder_atomically;
use std::path::Path;

/// What a folder of PEFT's asks of whoever loads it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeftFolder {
    /// The tokens whose rows it replaces.
    pub tokens: usize,
    /// Rows that the base's token matrices must have at least.
    pub rows: usize,
    /// Rows that they have in its files.
    pub base_rows: usize,
}

/// Writes the active adapter as PEFT reads it: the rows in `f32`, under both keys of a tied model, its LoRA, its configuration
/// and `tokenizer`, the one that has added tokens. Whole matrices that its own file held are left out unless
/// `save_embedding_layers` asks for them.
///
/// # Errors
/// `folder` is in use; not exactly one adapter is active, or it brings biases or whole modules; a matrix to be left out has
/// rows that are neither trained nor the base's; a file cannot be written.
pub fn export_peft(
    model: &PeftModel,
    tokenizer: Option<&AutoTokenizer>,
    save_embedding_layers: SaveEmbeddingLayers,
    folder: &Path,
) -> Result<PeftFolder> {
    let adapter = model.trained_adapter()?;
    let base = model.base();
    let stored = BaseRows::of(base, base.embedding())?.matrix().rows();
    let whole = match save_embedding_layers {
        SaveEmbeddingLayers::No => false,
        SaveEmbeddingLayers::Auto => base.vocabulary() > stored,
        SaveEmbeddingLayers::Yes => true,
    };
    let save = match whole {
        true => SaveEmbeddingLayers::Yes,
        false => {
            check_other_rows(model)?;
            SaveEmbeddingLayers::No
        }
    };
    write_folder(folder, tokenizer, |output| Ok(model.save_adapter(adapter.name(), output, save)?))?;
    Ok(PeftFolder { tokens: model.token_indices().len(), rows: base.vocabulary(), base_rows: stored })
}

/// Writes a folder that is filled by `write`, with a tokenizer in it.
pub(super) fn write_folder(
    folder: &Path,
    tokenizer: Option<&AutoTokenizer>,
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    write_folder_atomically(folder, |output| {
        write(output)?;
        match tokenizer {
            Some(tokenizer) => Ok(tokenizer.save_pretrained(output)?),
            None => Ok(()),
        }
    })
}
