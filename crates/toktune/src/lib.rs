//! Train a few token embeddings of a pretrained transformer and nothing else.

mod error;
pub mod models;
pub mod ops;
pub mod weights;

pub use error::{Error, Result};
