//! Loading a model from a folder or a GGUF file.

use super::config::ModelConfig;
use super::decoder::CausalLm;
use super::families::of_model_type;
use super::gguf_config;
use crate::error::Result;
use crate::text::AutoTokenizer;
use crate::weights::Checkpoint;
use candle_core::Device;
use std::path::Path;

/// Loads causal language models, as transformers' class of this name does.
#[derive(Clone, Copy, Debug)]
pub struct AutoModelForCausalLM;

impl AutoModelForCausalLM {
    /// Opens the model in `path`: a folder with `config.json` and safetensors or `pytorch_model.bin`, or a GGUF file. The
    /// weights are mapped, not read; every tensor is checked for its presence, shape and type.
    ///
    /// # Errors
    /// The files are missing, damaged or of an unsupported kind; see [`crate::Error`].
    pub fn from_pretrained(path: impl AsRef<Path>, device: &Device) -> Result<CausalLm> {
        let path = path.as_ref();
        let checkpoint = Checkpoint::open(path)?;
        let config = match checkpoint.as_gguf() {
            Some(gguf) => gguf_config::from_metadata(path, &checkpoint, gguf)?,
            None if path.is_dir() => ModelConfig::read(path)?,
            None => ModelConfig::read(path.parent().unwrap_or(Path::new(".")))?,
        };
        let family = of_model_type(&config)?;
        CausalLm::load(path, family, config, checkpoint, device)
    }
}

impl CausalLm {
    /// The tokenizer that lies with the model: in its folder, or inside its GGUF file.
    ///
    /// # Errors
    /// There is none, or it is damaged or of an unsupported kind.
    pub fn tokenizer(&self) -> Result<AutoTokenizer> {
        match self.checkpoint().as_gguf() {
            Some(gguf) => AutoTokenizer::from_gguf(gguf),
            None if self.path().is_dir() => AutoTokenizer::from_pretrained(self.path()),
            None => AutoTokenizer::from_pretrained(self.path().parent().unwrap_or(Path::new("."))),
        }
    }
}
