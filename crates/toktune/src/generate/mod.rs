//! Text generation: one token at a time, with the keys and values of earlier rows kept.
//!
//! [`GenerationConfig`] says how tokens are chosen, under transformers' names; a [`Generator`] takes a
//! prompt's ids and gives an iterator over new ids, so that a caller can print them as they come and stop
//! when it likes. Ids become text elsewhere: this module knows no tokenizer.

mod cache;
mod config;
mod generator;
mod sampler;

pub use cache::KeyValueCache;
pub use config::GenerationConfig;
pub use generator::{FinishReason, Generator, Tokens};
pub use sampler::Sampler;
