//! Why a command ends early, and which of the exit statuses that is.

use crate::fields::{in_flags, in_forms, in_lora_flags};
use toktune::config::ConfigError;
use toktune::data::DataError;
use toktune::export::ExportError;
use toktune::hub::HubError;
use toktune::peft::PeftError;
use toktune::text::TextError;
use toktune::weights::WeightsError;
use toktune::{EngineError, Error};

/// The result of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Why a command ended.
#[derive(Debug)]
pub enum Failure {
    /// clap has something to say: help, a version, or a fault of the command line.
    Arguments(clap::Error),
    /// A flag, a key of the configuration file or a variable of the environment that cannot be used with this
    /// model.
    Usage(String),
    /// The work itself failed.
    Failed(String),
    /// A signal stopped a run, which is saved; the exit status that says so.
    Stopped(u8),
    /// A proof that was required has failed.
    Unproven(String),
    /// The reader of the standard output went away.
    BrokenPipe,
}

macro_rules! through_the_library {
    ($($part:ty),*) => {$(
        impl From<$part> for Failure {
            fn from(error: $part) -> Self {
                Error::from(error).into()
            }
        }
    )*};
}

through_the_library!(
    WeightsError,
    TextError,
    EngineError,
    ConfigError,
    PeftError,
    ExportError,
    DataError,
    HubError
);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            // the library names settings as its fields, users know them as flags
            Error::Argument { name, expected, found }
            | Error::Engine(EngineError::Argument { name, expected, found }) => {
                Failure::Usage(format!("--{}: expected {expected}, found {found}", name.replace('_', "-")))
            }
            Error::GenerationOption { option, found, expected } => {
                Failure::Usage(format!("--{}: expected {expected}, found {found}", option.replace('_', "-")))
            }
            Error::Peft(PeftError::NoTarget { .. } | PeftError::NotATokenMatrix { .. })
            | Error::Config(ConfigError::Pattern { .. }) => Failure::Usage(in_flags(&error.to_string())),
            // the library names options as PEFT does, users know them as flags
            Error::Config(ConfigError::LoraOption { option, found, expected }) => {
                let flag = option.trim_start_matches("lora_");
                Failure::Usage(format!(
                    "--lora-{}: expected {expected}, found {found}",
                    flag.replace('_', "-")
                ))
            }
            Error::Peft(PeftError::NoLinear { .. } | PeftError::LoraOnTokenMatrix { .. }) => {
                Failure::Usage(in_lora_flags(&error.to_string()))
            }
            Error::Data(DataError::UnknownKeys { at, found, pair: Some((prompt, completion)), .. }) => {
                Failure::Failed(format!(
                    "{at}: found keys {found}; if `{prompt}` is the prompt and `{completion}` its completion, add \
                     --prompt-key {prompt} --completion-key {completion}"
                ))
            }
            Error::Data(DataError::UnknownKeys { .. }) => Failure::Failed(format!(
                "{error}; rows with other keys are read by --prompt-key and --completion-key, or --text-key"
            )),
            Error::NoEmission { reason } => {
                Failure::Usage(format!("--keep-best emission: it cannot be tried: {reason}"))
            }
            Error::ResumeMismatch { .. } => Failure::Usage(in_flags(&error.to_string())),
            Error::OutputLocked { .. } => Failure::Failed(format!("--output: {error}")),
            Error::OutputNotEmpty { .. }
            | Error::Weights(WeightsError::OutputInUse { .. })
            | Error::Peft(PeftError::MergeOntoSource { .. }) => {
                Failure::Usage(in_flags(&format!("--output: {error}")))
            }
            Error::Export(of) => Failure::Usage(match **of {
                ExportError::OutputExists { .. } => in_flags(&format!("--output: {error}")),
                _ => in_forms(&error.to_string()),
            }),
            Error::Config(ConfigError::DuplicateToken { .. } | ConfigError::NoTokens)
            | Error::Engine(EngineError::TokenOutOfRange { .. } | EngineError::Isa(_))
            | Error::Threads { .. } => Failure::Usage(error.to_string()),
            _ => Failure::Failed(in_flags(&error.to_string())),
        }
    }
}

impl From<std::io::Error> for Failure {
    /// For writing to the standard output; files are the library's, with their names.
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
            _ => Failure::Failed(format!("standard output: {error}")),
        }
    }
}

/// An unusable argument.
pub fn usage<T>(message: impl Into<String>) -> Outcome<T> {
    Err(Failure::Usage(message.into()))
}
