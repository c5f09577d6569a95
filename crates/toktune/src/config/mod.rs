//! Adapter configurations: PEFT's `adapter_config.json`, read, checked and written.
//!
//! What the options do is the business of [`crate::peft`].

mod common;
mod error;
mod lora;
mod pattern;
mod target_modules;
mod trainable_tokens;

pub(crate) use common::CAUSAL_LM;
pub use common::{CONFIG_FILE, CommonConfig, PeftConfig, check_tokens};
pub use error::ConfigError;
pub use lora::{LayerPatterns, LayersToTransform, LoraConfig, TrainableTokenIndices};
pub use target_modules::TargetModules;
pub use trainable_tokens::TrainableTokensConfig;
