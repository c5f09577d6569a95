//! The methods: trained token rows and LoRA updates over a frozen model, and their files.
//!
//! | file | owns |
//! | --- | --- |
//! | `base` | what a model must tell to be adapted; the models of this library |
//! | `placement`, `inject` | from a configuration to layers: matching, weight tying, fresh values |
//! | `adapter`, `layer`, `lora` | the values |
//! | `starts` | what rows start from, and where that lies |
//! | `model`, `switching`, `merging` | several adapters on one model |
//! | `active`, `forward` | what acts in a pass |
//! | `state_dict`, `files`, `auto` | PEFT's keys and folders |

mod active;
mod adapter;
mod auto;
mod base;

pub(crate) mod error;
mod files;
mod forward;
mod inject;
mod layer;
mod lora;
mod lora_targets;
mod merging;
mod model;
mod placement;
mod starts;
mod state_dict;
mod switching;
#[cfg(test)]
mod tests;

pub use active::{ActiveRows, HeldRows};
pub use adapter::{Adapter, BASE_ADAPTER, DEFAULT_ADAPTER};
pub use auto::{
    AutoPeftModel, AutoPeftModelForCausalLM, AutoPeftModelForFeatureExtraction, AutoPeftModelForSeq2SeqLM,
};
pub use base::{BaseModel, KeptWeight, LayerKind, NamedLayer, TiedLayer, no_such_layer};

pub use error::PeftError;
pub use files::{ADAPTER_FILE, adapter_file};
pub use layer::TrainableTokensLayer;
pub use lora::LoraLayer;
pub use model::{Gradient, Parameter, PeftModel, get_peft_model};
pub(crate) use starts::matrix_of;
pub use starts::{RowInit, RowPlace};
pub use state_dict::{
    LoadResult, SaveEmbeddingLayers, StateDict, get_peft_model_state_dict, set_peft_model_state_dict,
};
pub use switching::DisabledAdapter;
