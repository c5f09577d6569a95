//! Training: the step, the optimizer, schedules and the loop.

mod optimizer;
mod plan;
mod schedule;
mod step;

pub use optimizer::{AdamW, AdamWConfig, clip_grad_norm};
pub use schedule::{LrScheduler, Schedule};
pub use step::{LabelLosses, StepOutput, Wanted, run};
