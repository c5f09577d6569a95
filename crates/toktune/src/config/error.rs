//! What can be wrong with an adapter's configuration.

use std::path::PathBuf;
use toktune_engine::EngineError;
use toktune_weights::WeightsError;

/// The result of everything in this module that can fail.
pub type Result<T, E = ConfigError> = std::result::Result<T, E>;

/// A fault of a configuration; every message names the field.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A field of a file is missing or cannot be used.
    #[error("{path}: {key}: {problem}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// A field of a configuration holds no valid regular expression, or one that takes too long.
    #[error("`{field}` '{pattern}': {problem}")]
    Pattern {
        /// The field.
        field: &'static str,
        /// The expression, or its beginning.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No token was chosen.
    #[error("no token to train: token_indices is empty")]
    NoTokens,
    /// A token was chosen twice.
    #[error("token id {id} is in token_indices twice")]
    DuplicateToken {
        /// The id.
        id: u32,
    },
    /// A LoRA option has a value that cannot be honoured.
    #[error("{option} is {found}; expected {expected}")]
    LoraOption {
        /// The option, as PEFT names it.
        option: String,
        /// Its value.
        found: String,
        /// What would have been accepted.
        expected: &'static str,
    },
    /// A module was to be trained whole, and by rows too.
    #[error("'{module}' is in modules_to_save and in trainable_token_indices; expected one of them")]
    TrainedWholeAndByRows {
        /// The module.
        module: String,
    },
    /// A field of a file cannot be honoured, as the source says.
    #[error("{path}: {source}")]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with the field.
        source: Box<ConfigError>,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A token has no row.
    #[error(transparent)]
    Engine(EngineError),
}

impl From<EngineError> for ConfigError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Weights(error) => error.into(),
            error => Self::Engine(error),
        }
    }
}

impl ConfigError {
    /// The fault, said of the file at `path` where it is about a field; fields may also be given by hand.
    pub(crate) fn in_file(self, path: PathBuf) -> Self {
        match self {
            Self::Pattern { .. } | Self::LoraOption { .. } | Self::TrainedWholeAndByRows { .. } => {
                Self::InFile { path, source: Box::new(self) }
            }
            other => other,
        }
    }
}
