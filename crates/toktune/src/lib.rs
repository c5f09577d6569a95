//! Train a few token embeddings of a pretrained transformer and nothing else.

pub mod config;
pub mod data;
mod error;
pub mod generate;
pub mod models;
pub mod ops;
pub mod text;
pub mod train;
pub mod tuners;
pub mod weights;

pub use error::{Error, Result};
