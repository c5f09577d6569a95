//! A GGUF file's tokenizer keys, read into [`GgufTokenizer`].

use super::GgufTokenizer;
use crate::{AutoTokenizer, Result};
use std::path::Path;
use toktune_weights::{Checkpoint, Gguf};

impl AutoTokenizer {
    /// Reads the tokenizer that lies with a model: in its folder, beside its file, or inside its GGUF file.
    ///
    /// # Errors
    /// There is none, or it is damaged or of an unsupported kind.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        let path = checkpoint.path();
        match checkpoint.as_gguf() {
            Some(gguf) => Self::from_gguf(gguf),
            None if path.is_dir() => Self::from_pretrained(path),
            None => Self::from_pretrained(path.parent().unwrap_or(Path::new("."))),
        }
    }

    /// Builds the tokenizer that a GGUF file holds in its metadata.
    ///
    /// # Errors
    /// A key is missing or of another type, or the tokenizer is of a kind that is not supported.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        GgufTokenizer::from_metadata(gguf)?.build()
    }
}

impl GgufTokenizer {
    /// Reads the keys under `tokenizer.`.
    ///
    /// # Errors
    /// A key that every tokenizer has is missing, or one is of another type.
    pub fn from_metadata(gguf: &Gguf) -> Result<Self> {
        let metadata = gguf.metadata();
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let id = |name: &str| metadata.get::<u32>(&key(&format!("{name}_token_id")));
        let flag = |name: &str| metadata.get::<bool>(&key(name));
        let types = metadata.get::<Vec<i64>>(&key("token_type"))?.unwrap_or_default();
        Ok(Self {
            architecture: metadata.require::<&str>("general.architecture")?.to_owned(),
            model: metadata.require::<&str>(&key("model"))?.to_owned(),
            pre: metadata.get::<&str>(&key("pre"))?.map(str::to_owned),
            tokens: metadata.require::<&[String]>(&key("tokens"))?.to_vec(),
            scores: metadata.get::<&[f32]>(&key("scores"))?.unwrap_or_default().to_vec(),
            // an out-of-range kind becomes one that no tokenizer has, and is refused by name where the kinds are read
            token_types: types.into_iter().map(|kind| i32::try_from(kind).unwrap_or(i32::MAX)).collect(),
            merges: metadata.get::<&[String]>(&key("merges"))?.unwrap_or_default().to_vec(),
            bos_id: id("bos")?,
            eos_id: id("eos")?,
            unk_id: id("unknown")?,
            pad_id: id("padding")?,
            sep_id: id("seperator")?,
            cls_id: id("cls")?,
            mask_id: id("mask")?,
            eot_id: id("eot")?,
            eom_id: id("eom")?,
            add_bos: flag("add_bos_token")?,
            add_eos: flag("add_eos_token")?,
            add_space_prefix: flag("add_space_prefix")?,
            chat_template: metadata.get::<&str>("tokenizer.chat_template")?.map(str::to_owned),
        })
    }
}
