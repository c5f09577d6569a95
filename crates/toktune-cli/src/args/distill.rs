//! The flags of `distill`.

use super::shared::{MachineArgs, OutputArgs};
use super::values::{distillation_weights, lr_scheduler, memory_budget, sample_by};
use clap::Args;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use toktune::data::SampleBy;
use toktune::distill::SnippetOptions;
use toktune::engine::objective::DistillationWeights;
use toktune::train::{LrScheduler, MemoryBudget, RELATIVE_DISTILLATION_RATE, TrainingArguments};

/// The defaults that the help shows.
fn defaults() -> SnippetOptions {
    SnippetOptions::default()
}

/// Flags of `distill`.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    override_usage = "toktune distill --model MODEL --words FILE {--corpus FILE...|--generate N} --output DIR [OPTIONS]",
    after_help = "Each word becomes one token whose row is trained until the model reads it as it reads the word's pieces: \
        the frozen model on the pieces is the teacher.\n\n\
        Examples:\n  \
        toktune distill --model smollm2.gguf --words words.txt --corpus articles.jsonl --output out\n  \
        toktune distill --model models/llama --words words.txt --generate 32 --output out"
)]
pub struct DistillArgs {
    /// The model: a folder, a .gguf file or an id of the Hub
    #[arg(long, value_name = "DIR|FILE|ID")]
    pub model: String,
    /// The words: one a line, JSON lines with `token` and with `init`, `description` or `special`, or TOML, as `--tokens` of train
    /// reads them
    #[arg(long, value_name = "FILE")]
    pub words: PathBuf,
    /// Texts with the words: files or folders of JSONL, JSON, CSV, TSV, Parquet, Arrow or text, packed or not; `hf:ORG/NAME` for a
    /// set of the Hub, `-` for the standard input
    #[arg(long, num_args = 1.., value_name = "FILE", required_unless_present = "generate", conflicts_with = "generate")]
    pub corpus: Vec<String>,
    /// Have the model write N texts about each word itself
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub generate: Option<u32>,
    /// A new folder for the adapter, the log and the measurements
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// What is to be alike: the last hidden states (mse), the distributions over the tokens (kl), the loss of the tokens that follow
    /// (ce), or a sum, as mse+0.5ce
    #[arg(long, default_value = "mse", value_name = "LOSS", value_parser = distillation_weights())]
    pub loss: DistillationWeights,
    #[command(flatten)]
    pub snippets: SnippetArgs,
    #[command(flatten)]
    pub steps: DistillStepArgs,
    #[command(flatten)]
    pub run: DistillRunArgs,
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Write report.html into the output folder: curves, words and texts on one page
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "true|false", hide_possible_values = true)]
    pub report: bool,
    #[command(flatten)]
    pub told: OutputArgs,
    /// Write a line every N steps [default: 1, none on a terminal, where there is a progress bar]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub log_every: Option<u64>,
}

/// Which texts around the words are taken.
#[derive(Debug, Args)]
#[command(next_help_heading = "Snippets")]
pub struct SnippetArgs {
    /// Snippets a word to train on, at most
    #[arg(long, default_value_t = defaults().per_word as u32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub snippets_per_word: u32,
    /// A word with fewer has none of its own, and its row moves only where it stands in those of other words
    #[arg(long, default_value_t = defaults().least, value_name = "N")]
    pub min_snippets: usize,
    /// Tokens behind the word
    #[arg(long, default_value_t = defaults().tokens_after as u32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens_after: u32,
    /// The key of the text in rows that call it otherwise
    #[arg(long, value_name = "KEY")]
    pub text_key: Option<String>,
    /// What a row of a plain text file is
    #[arg(
        long, default_value = "paragraph", value_name = "line|paragraph|document", value_parser = sample_by(),
        hide_possible_values = true
    )]
    pub sample_by: SampleBy,
}

/// Snippets of a step where nothing is said: one for each word, so that few words take as many steps as many do.
const BATCH: RangeInclusive<usize> = 4..=16;

/// How the rows are trained.
#[derive(Debug, Args)]
#[command(next_help_heading = "Training")]
pub struct DistillStepArgs {
    /// Snippets of a step [default: as many as there are words, at least 4 and at most 16]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Passes over the snippets; may be a fraction
    #[arg(long, default_value_t = 2.0, value_name = "X", conflicts_with = "max_steps")]
    pub num_epochs: f64,
    /// Steps, in place of epochs
    #[arg(long, value_name = "N")]
    pub max_steps: Option<u64>,
    /// The learning rate [default: 0.03 x the root mean square of the embedding's entries]
    #[arg(long, value_name = "X", alias = "lr")]
    pub learning_rate: Option<f64>,
    /// What becomes of the learning rate after the warm-up
    #[arg(
        long, default_value = "cosine", value_name = "constant|linear|cosine",
        value_parser = lr_scheduler(), hide_possible_values = true
    )]
    pub lr_scheduler: LrScheduler,
    /// Steps over which the learning rate rises from 0
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub warmup_steps: u64,
    /// Of the choice of snippets and their order
    #[arg(long, default_value_t = defaults().seed, value_name = "N")]
    pub seed: u64,
}

/// What is kept on the way.
#[derive(Debug, Args)]
#[command(next_help_heading = "Run")]
pub struct DistillRunArgs {
    /// Write a checkpoint every N steps
    #[arg(long, value_name = "N")]
    pub save_every: Option<u64>,
    /// Keep the N newest checkpoints [default: all]
    #[arg(long, value_name = "N", alias = "save-total-limit")]
    pub keep_last: Option<u64>,
    /// Go on from the last checkpoint in the output folder
    #[arg(long)]
    pub resume: bool,
    /// Go on with other settings, another model or other texts than the run began with, which are named
    #[arg(long)]
    pub resume_anyway: bool,
    /// The memory that a run may take, as in train: half of what is free (free), little (min), or so much of the process, as 900MB
    /// or 2GB; a teacher that does not fit lies in a temporary file in the output folder, and results do not depend on it
    #[arg(long, default_value = "free", value_name = "free|min|SIZE", value_parser = memory_budget())]
    pub memory_budget: MemoryBudget,
}

impl DistillArgs {
    /// Snippets of a step for so many words.
    pub fn batch_size(&self, words: usize) -> usize {
        self.steps.batch_size.unwrap_or(words.clamp(*BATCH.start(), *BATCH.end()))
    }

    /// The library's settings of the run, before it is known how many words there are.
    pub fn training_arguments(&self) -> TrainingArguments {
        let steps = &self.steps;
        let mut to = TrainingArguments::new(&self.output);
        to.per_device_train_batch_size = steps.batch_size.unwrap_or(*BATCH.end());
        to.num_train_epochs = steps.num_epochs;
        to.max_steps = steps.max_steps;
        to.learning_rate = steps.learning_rate;
        to.relative_learning_rate = RELATIVE_DISTILLATION_RATE;
        to.lr_scheduler_type = steps.lr_scheduler;
        to.warmup_steps = steps.warmup_steps;
        to.seed = steps.seed;
        to.save_steps = self.run.save_every;
        to.save_total_limit = self.run.keep_last;
        to.resume = self.run.resume;
        to.resume_anyway = self.run.resume_anyway;
        to.memory_budget = self.run.memory_budget;
        to
    }

    /// And of the choice of snippets.
    pub fn snippet_options(&self) -> SnippetOptions {
        let mut options = SnippetOptions::default();
        options.per_word = self.snippets.snippets_per_word as usize;
        options.least = self.snippets.min_snippets;
        options.tokens_after = self.snippets.tokens_after as usize;
        options.seed = self.steps.seed;
        options
    }
}
