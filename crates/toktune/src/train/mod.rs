//! Training: the step, the optimizer, schedules, the loop, evaluation and checkpoints.
//!
//! [`run`] is the pass over one micro-batch and knows no optimizer; [`Trainer`] is everything around it. Nothing here
//! prints: a [`TrainerCallback`] is told what happens.

mod arguments;
mod callback;
mod card;
mod checkpoint;
mod constants;
mod evaluate;
mod graph;
mod growth;
mod kept;
mod lock;
mod log;
mod memory;
mod optimizer;
mod pass;
mod plan;
mod schedule;
mod settings;
mod step;
mod trainer;

pub use arguments::{LORA_LEARNING_RATE, RELATIVE_LEARNING_RATE, TrainingArguments};
pub use callback::{ChangedSetting, TrainerCallback, TrainerControl, TrainerWarning};
pub use constants::{CacheConstants, CacheLocation, CachedExamples, ConstantCache};
pub use evaluate::{Evaluation, TokenEvaluation, evaluate};
pub use log::{LOG_FILE, StepLog, peak_memory_bytes};
pub use optimizer::{AdamW, AdamWConfig, clip_grad_norm};
pub use schedule::{LrScheduler, Schedule};
pub use step::{LabelLosses, NO_TOKEN, StepOptions, StepOutput, Wanted, run};
pub use trainer::{TrainOutput, Trainer};
