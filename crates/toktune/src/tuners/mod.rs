//! The method itself: trained token rows over a frozen model, and their files.

mod files;
mod layer;
mod merge;
mod model;

pub use files::{ADAPTER_FILE, get_peft_model_state_dict};
pub use layer::TrainableTokensLayer;
pub use merge::{MergeOptions, MergedType, merge_to_folder};
pub use model::{ActiveRows, PeftModel, RowInit, get_peft_model};
