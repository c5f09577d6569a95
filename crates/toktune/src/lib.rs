//! Train a few token embeddings of a pretrained transformer and nothing else.

pub mod data;
mod error;
pub mod text;

pub use error::{Error, Result};
