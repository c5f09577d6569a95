//! Train a few token embeddings of a pretrained transformer and nothing else.

pub mod config;
pub mod data;
mod error;
pub mod generate;
#[cfg(feature = "hub")]
pub mod hub;
pub mod models;
pub mod ops;
pub mod runtime;
pub mod text;
pub mod train;
pub mod tuners;
pub mod weights;

pub use candle_core::Device;
pub use error::{Error, Result, nearest};
