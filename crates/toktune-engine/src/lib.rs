//! The engine of `toktune`: models as data, their layers, and the one way through them.
//!
//! | module | owns |
//! | --- | --- |
//! | [`models`] | reading a model: its configuration, one small file a family, quantised and GGUF files |
//! | `spec` | what a model is, as data: stacks, layers, names, rotations, token matrices |
//! | [`backend`] | what the passes ask of a device, and two devices: the processor, and plain loops in 64 bits |
//! | `layers` | each layer's `run` and `pull`, each once, LoRA included |
//! | `stack` | the only loop over blocks |
//! | `plan`, [`prefixes`], [`constants`] | what is computed once, what is constant, what is kept |
//! | [`objective`] | what the last rows are trained for |
//! | [`runner`] | a step, losses and decoding, free of generics |
//! | [`batch`], [`trained`] | what goes in: sequences of tokens, and what is trained |
//! | [`profile`] | where the time goes |
//!
//! It knows no adapter files, no data files, no optimizer and no tokenizer; those stand above, in `toktune`.

pub mod backend;
pub mod batch;
pub mod constants;
mod error;
mod layers;
mod model;
pub mod models;
pub mod objective;
mod plan;
pub mod prefixes;
pub mod profile;
pub mod runner;
mod spec;
mod stack;
pub mod trained;

pub use error::{EngineError, Result};
