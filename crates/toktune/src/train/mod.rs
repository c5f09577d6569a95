//! Training: the loop, the optimizer, schedules, evaluation and checkpoints.
//!
//! The pass over one micro-batch is the engine's; [`Trainer`] is everything around it. Nothing here prints: a
//! [`TrainerCallback`] is told what happens.

mod agree;
mod arguments;
mod best;
mod budget;
mod callback;
mod card;
mod checkpoint;
mod evaluate;
mod free_memory;
mod growth;
mod history;
mod leak;
mod lock;
mod log;
mod memory;
mod metric;
mod norms;
mod optimizer;
mod preference;
mod prior;
mod run;
mod schedule;
mod settings;
mod step;
mod tensorboard;
mod trainer;

pub use crate::engine::constants::{CacheConstants, CacheLocation};
pub use crate::engine::objective::{DpoConfig, DpoLoss};
pub use arguments::{
    EMISSION_PROMPTS, LORA_LEARNING_RATE, RELATIVE_DISTILLATION_RATE, RELATIVE_LEARNING_RATE,
    TrainingArguments,
};
pub use best::BestStep;
pub use budget::{MemoryBudget, MemoryRoom};
pub use callback::{ChangedSetting, TrainerCallback, TrainerWarning};
pub use evaluate::{Evaluation, TokenEvaluation, evaluate, evaluate_preferences, evaluate_until};
pub use history::EvaluatedStep;
pub use leak::Leak;
pub use log::{LOG_FILE, StepLog, peak_memory_bytes, read_log};
pub use memory::bytes_to_hold;
pub use metric::MetricForBestModel;
pub use norms::{Norms, OddRow, RowNorm};
pub use optimizer::{AdamW, AdamWConfig, clip_grad_norm};
pub use preference::PreferenceMetrics;
pub use prior::{Prior, prior};
pub use run::TrainOutput;
pub use schedule::{LrScheduler, Schedule};
pub use tensorboard::{RUNS, TensorBoard};
pub use trainer::Trainer;
