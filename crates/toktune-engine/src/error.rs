//! What can go wrong with a model and in the engine, saying what was found and expected.

use std::path::PathBuf;
use toktune_weights::{WeightsError, did_you_mean};

/// The result of everything here that can fail.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// A fault of a model's files, of a batch, or of numbers on the way. Every message names what it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A model is of another kind than was asked for.
    #[error("{path}: this is a model for {found}, not for {expected}")]
    WrongModelKind {
        /// The folder or file.
        path: PathBuf,
        /// The class that loads it.
        found: &'static str,
        /// The class that was asked to.
        expected: &'static str,
    },
    /// A batch is one for another kind of model.
    #[error("the batch is one for {found}, and the model is one for {expected}")]
    WrongBatch {
        /// The class that loads models of the batch's kind.
        found: &'static str,
        /// The class that loads the model.
        expected: &'static str,
    },
    /// A divergence from a teacher is wanted of a model whose logits are not products of states and rows.
    #[error(
        "this model's logits are capped (`final_logit_softcapping`), and the divergence (kl) is not known for those: use mse or ce"
    )]
    SoftCappedDivergence,
    /// A sequence has more rows than a model has learnt positions for.
    #[error("a sequence needs row {position} of the learnt positions, of which there are {rows}")]
    PositionOutOfRange {
        /// The row it needs.
        position: usize,
        /// The rows there are.
        rows: usize,
    },
    /// A key of a configuration is missing or cannot be used.
    #[error("{path}: {key}: {problem}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// An update is for a layer that the model does not have.
    #[error("{module} is no linear layer of the model's blocks")]
    NoSuchModule {
        /// The layer.
        module: String,
    },
    /// A sequence is to go on that has not been opened.
    #[error("sequence {sequence} of {sequences}: there is none of this number")]
    NoSuchSequence {
        /// Its number.
        sequence: usize,
        /// How many there are.
        sequences: usize,
    },
    /// A sequence is to go on twice at once.
    #[error("a sequence is to go on in two ways at once")]
    SequenceTwice,
    /// The model belongs to no supported family.
    #[error(
        "{path}: {found} is not supported{}; supported: {}",
        why_not(.missing, .nearest), .supported.join(", ")
    )]
    UnsupportedModel {
        /// The configuration or GGUF file.
        path: PathBuf,
        /// What the file says it is.
        found: String,
        /// What such a model needs that is not here, where that is known.
        missing: Option<&'static str>,
        /// The nearest supported name: in what it is where that is known, else by its spelling.
        nearest: Option<String>,
        /// Every supported name.
        supported: Box<[String]>,
    },
    /// A token id has no row.
    #[error("token id {id} is out of range: the embedding has {rows} rows (0 to {})", .rows.saturating_sub(1))]
    TokenOutOfRange {
        /// The id.
        id: i64,
        /// Rows of the embedding.
        rows: usize,
    },
    /// A number that must be finite is not.
    #[error("not a finite number: {what}")]
    NotFinite {
        /// Where.
        what: String,
    },
    /// There is nothing to continue.
    #[error("the prompt has no token; expected at least one, such as the beginning-of-text token")]
    EmptyPrompt,
    /// A folder for values on disk is none, or cannot be written.
    #[error("{name}: expected {expected}, found {found}")]
    Argument {
        /// The setting.
        name: &'static str,
        /// The range.
        expected: &'static str,
        /// The value.
        found: String,
    },
    /// A file of weights is at fault.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// `TOKTUNE_ISA` cannot be honoured.
    #[error(transparent)]
    Isa(#[from] toktune_kernels::IsaError),
}

impl EngineError {
    /// For `map_err` on a file operation: the system's reason with the file's name.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> EngineError {
        let path = path.into();
        move |source| EngineError::Io { path, source }
    }
}

/// What keeps a model from being supported, and what is nearest to it.
fn why_not(missing: &Option<&'static str>, nearest: &Option<String>) -> String {
    match (missing, nearest) {
        (Some(missing), Some(nearest)) => format!(": it needs {missing}; the nearest is '{nearest}'"),
        (Some(missing), None) => format!(": it needs {missing}"),
        (None, _) => {
            let described = ": no family file describes it (docs/adding-a-family.md)";
            format!("{described}{}", did_you_mean(nearest))
        }
    }
}
