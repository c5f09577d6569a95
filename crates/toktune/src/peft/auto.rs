//! Opening an adapter with the base that its configuration names.

use super::PeftError;
use super::model::PeftModel;
use crate::config::{CONFIG_FILE, PeftConfig};
use crate::models::AutoModel;
use crate::models::Device;
use crate::peft::error::Result;
use crate::text::{AutoTokenizer, TextError};
use std::path::{Path, PathBuf};

/// Opens an adapter and its base, as PEFT's classes of this name do.
#[derive(Clone, Copy, Debug)]
pub struct AutoPeftModel;

/// PEFT's name for causal language models; models of every kind are opened in the same way.
pub type AutoPeftModelForCausalLM = AutoPeftModel;

/// PEFT's name for encoder-decoders.
pub type AutoPeftModelForSeq2SeqLM = AutoPeftModel;

/// PEFT's name for models without a head.
pub type AutoPeftModelForFeatureExtraction = AutoPeftModel;

impl AutoPeftModel {
    /// Opens the base that `adapter_config.json` in `folder` names (a folder, a file, or with the feature `hub` an id of
    /// the Hub), resizes it to the tokenizer that lies in `folder`, if there is one, and puts the adapter over it.
    ///
    /// # Errors
    /// The configuration names no base, or one that is not there; as
    /// [`AutoModel::from_pretrained`] and [`PeftModel::from_pretrained`].
    pub fn from_pretrained(folder: impl AsRef<Path>, device: &Device) -> Result<PeftModel> {
        let folder = folder.as_ref();
        let mut base = AutoModel::from_pretrained(base_of(folder)?, device)?;
        match AutoTokenizer::from_pretrained(folder) {
            Ok(tokenizer) => base.resize_token_embeddings(tokenizer.required_rows()),
            Err(TextError::NoTokenizerFile { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        PeftModel::from_pretrained(base, folder)
    }
}

/// Where the base of the adapter in `folder` lies.
fn base_of(folder: &Path) -> Result<PathBuf> {
    let config = PeftConfig::from_pretrained(folder)?;
    let path = folder.join(CONFIG_FILE);
    match config.common().base_model_name_or_path.as_deref() {
        None | Some("") => Err(PeftError::NoBase { path }),
        Some(base) if Path::new(base).exists() => Ok(PathBuf::from(base)),
        Some(base) => {
            if let Some(revision) =
                config.common().revision.as_deref().filter(|r| !r.is_empty() && *r != "main")
            {
                tracing::warn!(
                    "{base}: revision '{revision}' is not looked for, the Hub's main one is taken"
                );
            }
            from_hub(base, path)
        }
    }
}

#[cfg(feature = "hub")]
fn from_hub(base: &str, path: PathBuf) -> Result<PathBuf> {
    if !crate::hub::is_id(base) {
        return Err(PeftError::BaseNotFound { path, base: base.into(), hub: true });
    }
    Ok(crate::hub::snapshot(base, &mut |_| {})?)
}

#[cfg(not(feature = "hub"))]
fn from_hub(base: &str, path: PathBuf) -> Result<PathBuf> {
    Err(PeftError::BaseNotFound { path, base: base.into(), hub: false }.into())
}
