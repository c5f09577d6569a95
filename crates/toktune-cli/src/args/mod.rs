//! What can be typed: commands and their flags.
//!
//! The structs here are the only list of flags: the configuration file of `train` is read by the same table.

mod shared;
mod train;
mod values;

pub use shared::{DataArgs, LanguageArgs, MachineArgs, ModelArgs, OutputArgs};
pub use train::{ChoiceArgs, TokenArgs, TrainArgs};
pub use values::{DeviceChoice, Init, LogFormat, MergeType, Precision, Start};

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "toktune",
    version,
    about = "Train a few token embeddings of a pretrained transformer and nothing else",
    long_about = "Train a few token embeddings of a pretrained transformer and nothing else.\n\n\
        Adapters are those of HuggingFace PEFT (Trainable Tokens), read and written.",
    after_help = "Results go to the standard output; notes, warnings, the progress bar and errors to the \
        standard error.\n\
        Exit status: 0 done, 1 failed, 2 unusable arguments. NO_COLOR turns colours off; TOKTUNE_ISA narrows \
        the instruction set; HF_HOME, HF_ENDPOINT and HF_TOKEN are those of the Hub.",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train the rows of chosen tokens and save them as an adapter
    Train(Box<TrainArgs>),
    /// Loss and perplexity on data, overall and at the trained tokens
    Eval(EvalArgs),
    /// Show rows of data as the model will see them
    Preview(PreviewArgs),
    /// Continue a prompt or a conversation
    Generate(GenerateArgs),
    /// Write a plain model folder with the trained rows in it
    Merge(MergeArgs),
    /// Say what is in a model, an adapter or a data file
    Inspect(InspectArgs),
    /// Show which tokens a text is, or which special, added and reserved ones there are
    Tokens(TokensArgs),
}

/// Flags of `tokens`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        toktune tokens --model smollm2.gguf 'The medical answer is <calc>'\n  \
        toktune tokens --model models/llama")]
pub struct TokensArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Texts to cut; without one, the special, added and reserved tokens are listed
    #[arg(value_name = "TEXT")]
    pub text: Vec<String>,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub languages: LanguageArgs,
}

/// Flags of `eval`.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Examples:\n  \
        toktune eval --model smollm2.gguf --adapter out --data heldout.jsonl --compare-base\n  \
        toktune eval --model models/llama --token '<|im_end|>' --data heldout.jsonl --log-format json"
)]
pub struct EvalArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Rows to evaluate on: files or folders of JSONL, JSON, CSV, TSV, Parquet, Arrow or text, packed or not; `hf:ORG/NAME` for a
    /// set of the Hub, `-` for the standard input
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub data: Vec<String>,
    /// Also evaluate the model without the adapter, and show both
    #[arg(long, requires = "adapter")]
    pub compare_base: bool,
    /// Without an adapter: ids of tokens to report on, one by one
    #[arg(long, value_delimiter = ',', value_name = "ID", conflicts_with = "adapter")]
    pub token_ids: Vec<u32>,
    /// Without an adapter: a token to report on; may be repeated
    #[arg(long, value_name = "TOKEN", conflicts_with = "adapter")]
    pub token: Vec<String>,
    /// Sequences computed at a time
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub batch_size: usize,
    #[command(flatten)]
    pub options: DataArgs,
    #[command(flatten)]
    pub machine: MachineArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub languages: LanguageArgs,
}

/// Flags of `preview`.
#[derive(Debug, Args)]
#[command(
    override_usage = "toktune preview --model MODEL --data FILE... [--add-token TOKEN...] [OPTIONS]",
    after_help = "Give it the flags that training will have: tokens, --loss-on, --max-length.\n\n\
        Examples:\n  \
        toktune preview --model smollm2.gguf --data train.jsonl --add-token '<calc>' --add-token '</calc>'\n  \
        toktune preview --model models/llama --data chats.jsonl --rows 1 --log-format json"
)]
pub struct PreviewArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Rows to show: files or folders of JSONL, JSON, CSV, TSV, Parquet, Arrow or text, packed or not; `hf:ORG/NAME` for a
    /// set of the Hub, `-` for the standard input
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub data: Vec<String>,
    /// How many rows are shown
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub rows: usize,
    /// The number of the first one
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub from: usize,
    #[command(flatten)]
    pub tokens: ChoiceArgs,
    #[command(flatten)]
    pub options: DataArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub languages: LanguageArgs,
}

/// Flags of `generate`.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Without sampling flags the likeliest token is taken every time. Special tokens end or \
        structure a text and are not shown unless --show-special-tokens is given: a trained special token \
        may be there, unseen.\n\n\
        Examples:\n  \
        toktune generate --model smollm2.gguf --adapter out --prompt 'Question: ...' --max-new-tokens 64\n  \
        toktune generate --model smollm2.gguf --messages chat.json --temperature 0.7 --seed 1"
)]
pub struct GenerateArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// A text to continue
    #[arg(long, value_name = "TEXT", required_unless_present = "messages", conflicts_with = "messages")]
    pub prompt: Option<String>,
    /// A JSON file with a conversation: a list of messages, or an object with `messages` (and `tools`)
    #[arg(long, value_name = "FILE")]
    pub messages: Option<PathBuf>,
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
    /// Show special tokens, trained ones among them, in the text
    #[arg(long)]
    pub show_special_tokens: bool,
    #[command(flatten)]
    pub machine: MachineArgs,
    #[command(flatten)]
    pub languages: LanguageArgs,
}

/// Flags of `merge`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  toktune merge --model smollm2.gguf --adapter out --output merged")]
pub struct MergeArgs {
    /// The model that the adapter was trained on: a folder, a .gguf file or an id of the Hub
    #[arg(long, value_name = "DIR|FILE|ID")]
    pub model: String,
    /// The adapter's folder
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// Give the model at least this many rows, for an adapter with added tokens and no tokenizer
    #[arg(long, value_name = "ROWS")]
    pub resize: Option<usize>,
    /// A new folder for the merged model
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// The type of the tensors when the model is a .gguf file; a folder's keep theirs [default: f32 or f16
    /// when the file has such matrices, else bf16]
    #[arg(long, value_enum, value_name = "f32|f16|bf16", hide_possible_values = true)]
    pub dtype: Option<MergeType>,
}

/// Flags of `inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  toktune inspect smollm2.gguf\n  toktune inspect out\n  \
        toktune inspect train.jsonl --model smollm2.gguf")]
pub struct InspectArgs {
    /// A model (folder, .gguf file or id of the Hub), an adapter's folder, or a file or folder of data
    #[arg(value_name = "DIR|FILE|ID")]
    pub path: PathBuf,
    /// For an adapter: its base; for data: the model whose tokenizer counts the tokens
    #[arg(long, value_name = "DIR|FILE|ID")]
    pub model: Option<String>,
    #[command(flatten)]
    pub options: DataArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}
