//! Opening a model with its tokenizer, and an adapter over it.

use crate::args::{LanguageArgs, MachineArgs, ModelArgs};
use crate::failure::{Failure, Outcome};
use crate::machine::Machine;
use std::path::{Path, PathBuf};
use toktune::Device;
use toktune::models::{AutoModel, PretrainedModel};
use toktune::peft::{ActiveRows, PeftModel};
use toktune::text::{AutoTokenizer, TextError};

/// A tokenizer, or why there is none.
pub type Tokenizer = Result<AutoTokenizer, String>;

/// The machine as the flags say, with a note on what will be slow.
pub fn machine(args: &MachineArgs) -> Outcome<Machine> {
    let machine = Machine::new(args)?;
    if let Some(note) = machine.note() {
        crate::report::note(&note);
    }
    Ok(machine)
}

/// Where a model lies: a path as it stands, else the Hub's copy.
pub fn locate(model: &str) -> Outcome<PathBuf> {
    let path = Path::new(model);
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    from_hub(model)
}

/// The Hub's copy of a model.
#[cfg(feature = "hub")]
fn from_hub(model: &str) -> Outcome<PathBuf> {
    if !toktune::hub::is_id(model) {
        return Err(Failure::Failed(format!(
            "{model}: there is no such folder or file, and an id of the Hub is written ORGANISATION/NAME"
        )));
    }
    let mut tell = |file: &str| crate::report::note(&format!("fetching {file} of {model}"));
    toktune::hub::snapshot(model, &mut tell).map_err(|error| {
        // a mistyped path looks like an id
        Failure::Failed(format!("there is no such folder or file, and the Hub does not help: {error}"))
    })
}

/// Without the client nothing can be fetched.
#[cfg(not(feature = "hub"))]
fn from_hub(model: &str) -> Outcome<PathBuf> {
    Err(Failure::Failed(format!(
        "{model}: there is no such folder or file (this toktune was built without the Hub: --features hub)"
    )))
}

/// What `base_model_name_or_path` says of a model: where it lies, or its id.
pub fn base_name(model: &str) -> String {
    match std::path::absolute(model) {
        Ok(path) if path.exists() => path.to_string_lossy().into_owned(),
        _ => model.to_string(),
    }
}

/// Opens the model that `--model` names, and its tokenizer.
pub fn model(name: &str, device: &Device) -> Outcome<(PretrainedModel, Tokenizer)> {
    let model = AutoModel::from_pretrained(locate(name)?, device)?;
    let tokenizer = AutoTokenizer::from_checkpoint(model.checkpoint()).map_err(|e| e.to_string());
    Ok((model, tokenizer))
}

/// Gives the tokenizer of a translation model the languages that the flags name.
pub fn set_languages(tokenizer: &mut Tokenizer, args: &LanguageArgs) -> Outcome {
    let (source, target) = (args.source_lang.as_deref(), args.target_lang.as_deref());
    if source.is_none() && target.is_none() {
        return Ok(());
    }
    let flag = if source.is_some() { "--source-lang" } else { "--target-lang" };
    let tokenizer = tokenizer
        .as_mut()
        .map_err(|reason| Failure::Failed(format!("{flag} needs a tokenizer: {reason}")))?;
    tokenizer.set_languages(source, target).map_err(|error| match &error {
        TextError::Language { found, .. } => {
            let flag = if source == Some(found) { "--source-lang" } else { "--target-lang" };
            Failure::Usage(format!("{flag}: {error}"))
        }
        TextError::NoLanguages { .. } => Failure::Usage(format!("{flag}: {error}")),
        _ => error.into(),
    })
}

/// The most rows that a mistyped number should not turn into memory.
const MOST_ROWS: usize = 1 << 24;

/// Gives `model` the rows that `--resize` asks for.
pub fn resize(model: &mut PretrainedModel, rows: Option<usize>) -> Outcome {
    match rows {
        Some(rows) if rows > MOST_ROWS => {
            Err(Failure::Usage(format!("--resize: expected at most {MOST_ROWS} rows, found {rows}")))
        }
        Some(rows) => {
            model.resize_token_embeddings(rows);
            Ok(())
        }
        None => Ok(()),
    }
}

/// The tokenizer in an adapter's folder, if one was saved there.
pub fn adapter_tokenizer(adapter: &Path) -> Outcome<Option<AutoTokenizer>> {
    match AutoTokenizer::from_pretrained(adapter) {
        Ok(tokenizer) => Ok(Some(tokenizer)),
        Err(TextError::NoTokenizerFile { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Puts the adapter in `folder` over `base`. Its own tokenizer, where there is one, replaces the model's, and
/// the model gets a row for each of its tokens.
pub fn with_adapter(
    mut base: PretrainedModel,
    tokenizer: Tokenizer,
    folder: &Path,
) -> Outcome<(PeftModel, Tokenizer)> {
    let own = adapter_tokenizer(folder)?;
    if let Some(own) = &own {
        base.resize_token_embeddings(own.required_rows());
    }
    let model = PeftModel::from_pretrained(base, folder)?;
    Ok((model, own.map_or(tokenizer, Ok)))
}

/// Bytes of a file, or of the files in a folder.
pub fn size_on_disk(path: &Path) -> u64 {
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum(),
        Err(_) => path.metadata().map_or(0, |metadata| metadata.len()),
    }
}

/// A model with or without an adapter.
pub enum Loaded {
    /// As it is.
    Base(Box<PretrainedModel>),
    /// With trained rows.
    Adapted(Box<PeftModel>),
}

impl Loaded {
    /// Opens what `--model` and `--adapter` name.
    pub fn open(args: &ModelArgs, machine: &Machine) -> Outcome<(Self, Tokenizer)> {
        let (mut base, tokenizer) = model(&args.model, &machine.handle)?;
        base.set_precision(machine.mode);
        Self::over(base, tokenizer, args)
    }

    /// Opens them to look at: nothing is computed.
    pub fn to_look_at(args: &ModelArgs) -> Outcome<(Self, Tokenizer)> {
        let (base, tokenizer) = model(&args.model, &Device::Cpu)?;
        Self::over(base, tokenizer, args)
    }

    /// A model with its rows, and the adapter that is named over it.
    fn over(mut base: PretrainedModel, tokenizer: Tokenizer, args: &ModelArgs) -> Outcome<(Self, Tokenizer)> {
        resize(&mut base, args.resize)?;
        match args.adapter.as_deref() {
            None => Ok((Loaded::Base(base.into()), tokenizer)),
            Some(folder) => {
                let (model, tokenizer) = with_adapter(base, tokenizer, folder)?;
                Ok((Loaded::Adapted(model.into()), tokenizer))
            }
        }
    }

    /// The frozen model.
    pub fn base(&self) -> &PretrainedModel {
        match self {
            Loaded::Base(model) => model,
            Loaded::Adapted(model) => model.base(),
        }
    }

    /// The trained rows, none without an adapter.
    pub fn active(&self) -> ActiveRows<'_> {
        match self {
            Loaded::Base(_) => ActiveRows::default(),
            Loaded::Adapted(model) => model.active(),
        }
    }

    /// The trained tokens, none without an adapter.
    pub fn tokens(&self) -> Vec<u32> {
        match self {
            Loaded::Base(_) => Vec::new(),
            Loaded::Adapted(model) => model.token_indices(),
        }
    }
}
