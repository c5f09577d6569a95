//! Text generation: one token at a time, with the keys and values of earlier rows kept.
//!
//! [`GenerationConfig`] says how tokens are chosen, under transformers' names; a [`Generator`] takes a
//! prompt's ids and gives an iterator over new ids, so that a caller can print them as they come and stop
//! when it likes. Ids become text elsewhere: this module knows no tokenizer.

mod config;
mod generator;
mod sampler;
mod texts;

pub use config::GenerationConfig;
pub use generator::Generator;
pub use sampler::Sampler;
pub use texts::{FinishReason, Texts, Tokens};
