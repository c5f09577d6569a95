//! What can go wrong when an adapter is written for other programs: one variant a fault.

use crate::config::ConfigError;
use crate::peft::PeftError;
use crate::text::TextError;
use crate::weights::{WeightType, WeightsError, encode};
use std::path::PathBuf;
use toktune_engine::EngineError;

/// The result of everything in this module that can fail, but for merging.
pub type Result<T, E = ExportError> = std::result::Result<T, E>;

/// Why an adapter cannot be written in a form.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// Differences were to be taken to rows that are rounded to blocks.
    #[error(
        "'{tensor}' is stored as {dtype}, whose rows are rounded: differences to them fit no other file of this model; \
         expected the folder that it was made from, which the adapter will be served over"
    )]
    RoundedRows {
        /// The token matrix.
        tensor: String,
        /// The type it is stored in.
        dtype: WeightType,
    },
    /// The model reads its token matrix through several modules.
    #[error(
        "the model reads one token matrix through {}, which are one module or several by how it was loaded; LoRA for them \
         is not written: merge the adapter instead", .modules.join(", ")
    )]
    SeveralEmbeddings {
        /// The modules.
        modules: Vec<String>,
    },
    /// The adapter brings whole matrices whose other rows are not those of the base.
    #[error(
        "the adapter's file brings '{tensor}' whole, and its row {row} is neither trained nor the base's own, nor are {more} \
         more: leaving them out would change the model; keep them with `save_embedding_layers`, or merge"
    )]
    OtherRows {
        /// The matrix.
        tensor: String,
        /// The first such row.
        row: usize,
        /// How many more there are.
        more: usize,
    },
    /// Rows were to be written into a GGUF file, and the base is none.
    #[error(
        "{path}: the base is no GGUF file; expected the file that will be served, with the rows trained over it or over the \
             folder that it was made from"
    )]
    NotGguf {
        /// The base.
        path: PathBuf,
    },
    /// A type of rows that is not written.
    #[error("'{tensor}' is stored as {dtype}, in which rows are not written; written are {}", writable())]
    Unwritable {
        /// The token matrix.
        tensor: String,
        /// The type it is stored in.
        dtype: WeightType,
    },
    /// LoRA was to be written into the weights of a GGUF file.
    #[error(
        "the adapter has LoRA on {layers} layers ({first}, ...): it is not rounded into the blocks of a file; merge the adapter \
         and convert the folder, or write it as a GGUF adapter"
    )]
    LoraInGguf {
        /// How many there are.
        layers: usize,
        /// The first of them.
        first: String,
    },
    /// Rows of a tied model were to be written as a GGUF adapter.
    #[error(
        "the head of this model is its embedding, and llama.cpp has one name for both: it takes the factors of an update the \
         other way round at the embedding than at the head, and ends at the first token. Write the rows into a copy of the \
         file: `export_gguf`"
    )]
    TiedGguf,
    /// Rows of added tokens were to be written as a GGUF adapter.
    #[error(
        "the adapter's tokens need {rows} rows, and {path} has {base_rows}: an adapter of llama.cpp has no rows to add. Write \
         them into a copy of the file: `export_gguf`"
    )]
    AddedRows {
        /// The base.
        path: PathBuf,
        /// Rows that the tokens need.
        rows: usize,
        /// Rows of the file.
        base_rows: usize,
    },
    /// A layer with LoRA is no tensor of its own in the base's file.
    #[error(
        "{layer} has LoRA, and is no matrix of its own in the GGUF file, where '{tensor}' holds it: merge the adapter instead"
    )]
    SharedTensor {
        /// The layer.
        layer: String,
        /// The tensor of the file.
        tensor: String,
    },
    /// There is something already where a file is to be written.
    #[error("{path}: there is something of this name already; expected a new name")]
    OutputExists {
        /// The file.
        path: PathBuf,
    },
    /// An adapter is at fault, or the files of its base.
    #[error(transparent)]
    Peft(PeftError),
}

/// The types in which rows are written, for a message.
fn writable() -> String {
    let is_written = |dtype: &&WeightType| encode(**dtype, &[0.0; 256]).is_some();
    let names: Vec<&str> = WeightType::ALL.iter().filter(is_written).map(|dtype| dtype.name()).collect();
    names.join(", ")
}

impl From<PeftError> for ExportError {
    fn from(error: PeftError) -> Self {
        Self::Peft(error)
    }
}

macro_rules! through_peft {
    ($($part:ty),*) => {$(
        impl From<$part> for ExportError {
            fn from(error: $part) -> Self {
                PeftError::from(error).into()
            }
        }
    )*};
}

through_peft!(WeightsError, TextError, EngineError, ConfigError);
