//! Flags that several commands have.

use super::values::{DeviceChoice, LogFormat, Precision, loss_on, sample_by};
use clap::Args;
use std::path::PathBuf;
use toktune::data::{LossOn, SampleBy};

/// Which model, with which adapter.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// The model: a folder, a .gguf file or an id of the Hub
    #[arg(long, value_name = "DIR|FILE|ID")]
    pub model: String,
    /// An adapter's folder; its tokenizer is used when it has one
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Give the model at least this many rows, for an adapter with added tokens and no tokenizer
    #[arg(long, value_name = "ROWS")]
    pub resize: Option<usize>,
}

/// How rows become examples.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
pub struct DataArgs {
    /// Cut longer rows at the end
    #[arg(long, value_name = "N")]
    pub max_length: Option<usize>,
    /// What is learnt: the completion (or the assistant's turns), or every token [default: the completion of
    /// rows that have one, everything of the others]
    #[arg(long, value_name = "all|completion", value_parser = loss_on(), hide_possible_values = true)]
    pub loss_on: Option<LossOn>,
    /// The key of the prompt in rows that call it otherwise
    #[arg(long, value_name = "KEY")]
    pub prompt_key: Option<String>,
    /// The key of the completion in rows that call it otherwise
    #[arg(long, value_name = "KEY")]
    pub completion_key: Option<String>,
    /// The key of the text in rows that call it otherwise
    #[arg(long, value_name = "KEY")]
    pub text_key: Option<String>,
    /// What a row of a plain text file is
    #[arg(
        long, default_value = "line", value_name = "line|paragraph|document", value_parser = sample_by(),
        hide_possible_values = true
    )]
    pub sample_by: SampleBy,
    /// Keep encoded rows for the next run in this folder, or nowhere [default: the user's cache folder, for data of
    /// more than 4 MB]
    #[arg(long, value_name = "DIR|none")]
    pub data_cache: Option<PathBuf>,
}

/// How tokens are chosen.
#[derive(Debug, Args)]
pub struct SamplingArgs {
    /// The most tokens to generate
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub max_new_tokens: usize,
    /// Draw tokens by their probability instead of taking the likeliest
    #[arg(long)]
    pub do_sample: bool,
    /// Divides the logits before drawing; turns sampling on
    #[arg(long, value_name = "X")]
    pub temperature: Option<f32>,
    /// Draw among the likeliest tokens with this probability together; turns sampling on
    #[arg(long, value_name = "X")]
    pub top_p: Option<f32>,
    /// Draw among this many of the likeliest tokens, 0 for all; turns sampling on
    #[arg(long, value_name = "N")]
    pub top_k: Option<usize>,
    /// Above 1, tokens that are there already become less likely
    #[arg(long, value_name = "X")]
    pub repetition_penalty: Option<f32>,
    /// The same seed draws the same tokens
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
}

/// Languages of translation models.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Translation (NLLB, mBART, M2M100)")]
pub struct LanguageArgs {
    /// The language of prompts, as the tokenizer names it (eng_Latn, en_XX, en) [default: the folder's, or English]
    #[arg(long, value_name = "LANG")]
    pub source_lang: Option<String>,
    /// The language of completions, and of what is generated [default: the folder's, or the source's]
    #[arg(long, value_name = "LANG")]
    pub target_lang: Option<String>,
}

/// On what it runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machine")]
pub struct MachineArgs {
    /// The type of the matrix products
    #[arg(
        long, value_enum, default_value_t = Precision::Auto, value_name = "auto|f32|bf16",
        hide_possible_values = true
    )]
    pub precision: Precision,
    /// Where it runs
    #[arg(long, default_value_t = DeviceChoice::Cpu, value_name = "cpu|cuda[:N]|metal")]
    pub device: DeviceChoice,
    /// Threads; results do not depend on them [default: as many as the machine has]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

/// Whether trained tokens are tried.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Proof of emission (decoders)")]
pub struct EmissionArgs {
    /// Held-out rows that the model goes on with, to see whether it writes the trained tokens [default: 30 in train, 0 in eval]
    #[arg(long, value_name = "N")]
    pub emission_prompts: Option<usize>,
    /// End with status 3 unless each trained token is written in at least this share of the held-out rows that have it
    #[arg(long, value_name = "SHARE")]
    pub require_emission: Option<f64>,
}

/// How results are written.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Text for people, or JSON objects, one a line
    #[arg(
        long, value_enum, default_value_t = LogFormat::Text, value_name = "text|json",
        hide_possible_values = true
    )]
    pub log_format: LogFormat,
}
