//! Adapter configurations: PEFT's `adapter_config.json`, read, checked and written.
//!
//! What the options do is the business of [`crate::tuners`].

mod target_modules;
mod trainable_tokens;

pub use target_modules::TargetModules;
pub use trainable_tokens::{CONFIG_FILE, TrainableTokensConfig};
