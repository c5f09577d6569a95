//! Train a few token embeddings of a pretrained transformer and nothing else: PEFT's Trainable Tokens, in Rust.
//!
//! ```no_run
//! use toktune::{AutoModelForCausalLM, AutoTokenizer, Dataset, Device, Recipe, Trainer, TrainingArguments};
//!
//! # fn main() -> toktune::Result<()> {
//! let mut model = AutoModelForCausalLM::from_pretrained("path/to/model", &Device::Cpu)?;
//! let mut tokenizer = AutoTokenizer::from_checkpoint(model.checkpoint())?;
//! let tokens = tokenizer.add_tokens(&["<think>", "</think>"])?;
//! model.resize_token_embeddings(tokenizer.required_rows());
//! let data = Dataset::for_model(&model, &["rows.jsonl"], Some(&tokenizer))?;
//! let model = Recipe::for_added(tokens).apply(model)?;
//! let mut trainer = Trainer::new(model, TrainingArguments::new("adapter"), data)?.with_tokenizer(tokenizer);
//! trainer.train(&mut ())?; // rows, tokenizer, log and model card are in "adapter"
//! # Ok(())
//! # }
//! ```
//!
//! # Where things are
//!
//! | module | owns |
//! | --- | --- |
//! | [`config`] | adapter configurations, PEFT's JSON |
//! | [`peft`] | the method: trained rows over a frozen model, their files, merging in memory |
//! | [`models`] | what a model is, and one small file a family; with [`engine`] in a crate of its own |
//! | [`weights`] | frozen weights: mapped safetensors, GGUF and torch files; a crate of its own |
//! | [`text`] | tokenizers, added tokens, chat templates; a crate of its own |
//! | [`export`] | what was trained for other programs: in a plain model folder, as LoRA, in PEFT's files |
//! | [`data`] | rows of training data from any file, ragged batches |
//! | [`distill`] | tokens that are to act as the pieces of their words did |
//! | [`emission`] | whether trained tokens are written where they belong |
//! | [`template_tokens`] | the control tokens of a chat template, and which of them a model never learnt |
//! | [`train`] | the step, the loop, optimizer, schedules, checkpoints, evaluation |
//! | [`generate`] | text from a model with its trained rows |
//! | [`report`] | a page that shows what came of a run |
//! | [`runtime`] | the instruction set and the threads |
//! | `hub` (a feature) | models by their id of the Hub |
//!
//! The library never prints and does not panic on input: every fault is an [`Error`] that names what was found and what
//! was expected. How the engine works is told in `docs/engine.md` of the repository.

mod combine;
pub mod config;
pub mod data;
pub mod distill;
pub mod emission;
mod error;
pub mod export;
pub mod generate;
#[cfg(feature = "hub")]
pub mod hub;
pub mod peft;
mod random;
mod recipe;
pub mod report;
pub mod runtime;
pub mod template_tokens;
pub mod train;
pub mod workers;

pub use combine::{CombineError, Combined, OnConflict, combine_adapters};
pub use config::{LoraConfig, PeftConfig, TargetModules, TrainableTokenIndices, TrainableTokensConfig};
pub use data::{DataOptions, Dataset};
pub use error::{Error, Result};
pub use generate::{GenerationConfig, Generator};
pub use models::{AutoModelForCausalLM, Device, PretrainedModel};
pub use peft::{AutoPeftModel, PeftModel, SaveEmbeddingLayers, get_peft_model};
pub use recipe::{Recipe, SPREAD};
pub use text::AutoTokenizer;
pub use toktune_engine as engine;
pub use toktune_engine::EngineError;
pub use toktune_engine::{models, profile};
pub use toktune_text as text;
pub use toktune_weights as weights;
pub use toktune_weights::nearest;
pub use train::{Trainer, TrainerCallback, TrainingArguments};

/// The README's Rust example, compiled as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// The example in the page on data, compiled as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../docs/data.md")]
pub struct DataPage;
