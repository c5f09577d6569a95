//! Loading a model from a folder or a GGUF file.

use super::config::ModelConfig;
use super::families::of_model_type;
use super::gguf_config;
use super::kind::ModelKind;
use super::model::{PretrainedModel, wrong_kind};
use super::quantisation;
use crate::error::Result;
use crate::models::Device;
use std::path::Path;
use toktune_kernels::Isa;
use toktune_weights::Checkpoint;

/// Loads models of every kind: what the files hold decides.
#[derive(Clone, Copy, Debug)]
pub struct AutoModel;

impl AutoModel {
    /// Opens the model in `path`: a folder with `config.json` and safetensors or `pytorch_model.bin`, or a GGUF file. The
    /// weights are mapped, not read; every tensor is checked for its presence, shape and type.
    ///
    /// # Errors
    /// The files are missing, damaged or of an unsupported kind, or `TOKTUNE_ISA` names instructions that this machine lacks;
    /// see [`crate::EngineError`].
    pub fn from_pretrained(path: impl AsRef<Path>, device: &Device) -> Result<PretrainedModel> {
        let path = path.as_ref();
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        let is_gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        let checkpoint = Checkpoint::open(path).map_err(|error| match is_gguf {
            // what lies beside such a file says nothing of it
            true => error.into(),
            false => quantisation::explained(folder, error.into()),
        })?;
        let config = match checkpoint.as_gguf() {
            Some(gguf) => gguf_config::from_metadata(path, &checkpoint, gguf)?,
            None => ModelConfig::read(folder)?,
        };
        Self::from_checkpoint(path, config, checkpoint, device)
    }

    /// A model of weights that were opened, or that another program holds ([`Checkpoint::Memory`]), with the configuration that
    /// transformers has for them; `name` is what messages and files call it: the folder that it came from, where there is one.
    ///
    /// # Errors
    /// As [`AutoModel::from_pretrained`].
    pub fn from_checkpoint(
        name: impl AsRef<Path>,
        config: ModelConfig,
        checkpoint: Checkpoint,
        device: &Device,
    ) -> Result<PretrainedModel> {
        let family = of_model_type(&config)?;
        PretrainedModel::load(name.as_ref(), family, config, checkpoint, (*device, Isa::from_environment()?))
    }

    fn of_kind(path: &Path, device: &Device, kind: ModelKind) -> Result<PretrainedModel> {
        let model = Self::from_pretrained(path, device)?;
        if model.kind() == kind { Ok(model) } else { Err(wrong_kind(&model, kind)) }
    }
}

macro_rules! auto_classes {
    ($($name:ident, $kind:expr, $what:literal;)*) => {$(
        #[doc = concat!("Loads ", $what, ", as transformers' class of this name does.")]
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl $name {
            /// Opens the model in `path`, as [`AutoModel::from_pretrained`] does.
            ///
            /// # Errors
            /// The same, and the model is of another kind.
            pub fn from_pretrained(path: impl AsRef<Path>, device: &Device) -> Result<PretrainedModel> {
                AutoModel::of_kind(path.as_ref(), device, $kind)
            }
        }
    )*};
}

auto_classes! {
    AutoModelForCausalLM, ModelKind::Causal, "causal language models";
    AutoModelForMaskedLM, ModelKind::MaskedLm, "masked language models";
    AutoModelForSeq2SeqLM, ModelKind::Seq2Seq, "encoder-decoders";
}
