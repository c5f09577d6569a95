//! Adapters for a candle module of your own, trained by candle's autograd.
//!
//! The module tells its embeddings and linear layers by [`CandleModel`]; [`OnCandle`] makes a base of it that
//! [`get_peft_model`](toktune::get_peft_model) takes. Its forward pass asks [`CandleAdapters`], which [`Bind::bind`] makes of the
//! active adapters, for the result of a layer in place of computing it. The files are PEFT's, as for every model.
//! `examples/two_embeddings.rs` is a whole program.

mod adapters;
mod base;
mod error;

pub use adapters::{Bind, CandleAdapters};
pub use base::{CandleLayer, CandleModel, OnCandle};
pub use error::{Error, Result};
