//! Train a few token embeddings of a pretrained transformer and nothing else.

mod error;

pub use error::{Error, Result};
