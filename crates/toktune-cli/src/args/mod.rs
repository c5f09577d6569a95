//! What can be typed: commands and their flags.
//!
//! The structs here are the only list of flags: the configuration file of `train` is read by the same table.

mod distill;
mod preference;
mod shared;
mod train;
mod values;

pub use distill::DistillArgs;
pub use preference::PreferenceArgs;
pub use shared::{DataArgs, EmissionArgs, LanguageArgs, MachineArgs, ModelArgs, OutputArgs, SamplingArgs};
pub use train::{ChoiceArgs, TokenArgs, TrainArgs};
pub use values::{
    ConflictChoice, DeviceChoice, ExportForm, Init, LogFormat, MergeType, Precision, Start, TemplateChoice,
};

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use toktune::peft::SaveEmbeddingLayers;
use values::save_embedding_layers;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "toktune",
    about = "Train a few token embeddings of a pretrained transformer and nothing else",
    long_about = "Train a few token embeddings of a pretrained transformer and nothing else.\n\n\
        Adapters are those of HuggingFace PEFT (Trainable Tokens), read and written.",
    after_help = "Results go to the standard output; notes, warnings, the progress bar and errors to the \
        standard error.\n\
        Exit status: 0 done, 1 failed, 2 unusable arguments, 3 a required proof failed. NO_COLOR turns colours off; TOKTUNE_ISA narrows \
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
    /// Make words single tokens that the model reads as it read their pieces
    Distill(Box<DistillArgs>),
    /// Loss and perplexity on data, overall and at the trained tokens
    Eval(EvalArgs),
    /// Show rows of data as the model will see them
    Preview(PreviewArgs),
    /// Continue a prompt or a conversation
    Generate(GenerateArgs),
    /// Talk to a model, with or without an adapter
    Chat(ChatArgs),
    /// Write a plain model folder with the trained rows in it
    Merge(MergeArgs),
    /// Make one adapter of several
    Combine(CombineArgs),
    /// Write the adapter in a form that other programs load
    Export(ExportArgs),
    /// Say what is in a model, an adapter or a data file
    Inspect(InspectArgs),
    /// Show which tokens a text is, or which special, added and reserved ones there are
    Tokens(TokensArgs),
    /// Write what a shell completes commands and flags by
    Completions(CompletionsArgs),
    /// Write the manual's pages
    Man(ManArgs),
}

/// Flags of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        toktune completions bash > ~/.local/share/bash-completion/completions/toktune\n  \
        toktune completions zsh > ~/.zfunc/_toktune")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Flags of `man`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
        toktune man --output ~/.local/share/man/man1")]
pub struct ManArgs {
    /// The folder for `toktune.1`, `toktune-train.1` and the others; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
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
    pub emission: EmissionArgs,
    #[command(flatten)]
    pub preference: PreferenceArgs,
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
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Show special tokens, trained ones among them, in the text
    #[arg(long)]
    pub show_special_tokens: bool,
    #[command(flatten)]
    pub machine: MachineArgs,
    #[command(flatten)]
    pub languages: LanguageArgs,
}

/// Flags of `chat`.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Every line is a message; /reset forgets the conversation, /quit (or the end of the input) ends it. Without sampling flags \
        the likeliest token is taken every time.\n\n\
        Examples:\n  \
        toktune chat --adapter out --show-special-tokens\n  \
        toktune chat --model models/llama --system 'Answer briefly.' --temperature 0.7"
)]
pub struct ChatArgs {
    /// The model: a folder, a .gguf file or an id of the Hub [default: the one that the adapter was trained on]
    #[arg(long, value_name = "DIR|FILE|ID", required_unless_present = "adapter")]
    pub model: Option<String>,
    /// An adapter's folder; its tokenizer is used when it has one
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// What the conversation begins with
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Show special tokens, and on a terminal them and the trained ones in colour
    #[arg(long)]
    pub show_special_tokens: bool,
    #[command(flatten)]
    pub machine: MachineArgs,
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
    /// The type of the tensors; f32 for an exact merge, in which nothing is rounded [default: each tensor of a
    /// folder keeps its own; of a .gguf file f32 or f16 when it has such matrices, else bf16]
    #[arg(long, value_enum, value_name = "f32|f16|bf16", hide_possible_values = true)]
    pub dtype: Option<MergeType>,
}

/// Flags of `combine`.
#[derive(Debug, Args)]
#[command(
    after_help = "Tokens are put together by what they are called: those that two adapters added under one id get ids of their \
        own.\n\nExample:\n  toktune combine think tools --output both"
)]
pub struct CombineArgs {
    /// Adapters of trained rows, of one model
    #[arg(required = true, num_args = 2.., value_name = "DIR")]
    pub adapters: Vec<PathBuf>,
    /// A new folder for the adapter
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,
    /// What becomes of tokens that several have with different rows
    #[arg(
        long, value_enum, default_value_t = ConflictChoice::Error, value_name = "error|first|mean",
        hide_possible_values = true
    )]
    pub on_conflict: ConflictChoice,
    #[command(flatten)]
    pub told: OutputArgs,
}

/// Flags of `export`.
#[derive(Debug, Args)]
#[command(after_help = "Forms:\n  \
        peft         PEFT's own files: the rows in f32 and the tokenizer, no matrix of the base\n  \
        lora-onehot  the rows as LoRA in PEFT's files, exact: for servers that load LoRA alone\n  \
        gguf         a copy of the .gguf file with the rows in it, and the added tokens in its lists: for llama.cpp\n  \
        gguf-lora    a LoRA adapter for the .gguf file, of a model that is not tied: for llama.cpp\n\n\
        Examples:\n  \
        toktune export --model models/llama --adapter out --to lora-onehot --output served\n  \
        toktune export --model smollm2.gguf --adapter out --to gguf --output smollm2-calc.gguf\n  \
        toktune export --model models/llama --adapter out/checkpoint-200 --output small")]
pub struct ExportArgs {
    /// The model that the adapter was trained on: a folder, a .gguf file or an id of the Hub
    #[arg(long, value_name = "DIR|FILE|ID")]
    pub model: String,
    /// The adapter's folder, or a checkpoint's
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// Give the model at least this many rows, for an adapter with added tokens and no tokenizer
    #[arg(long, value_name = "ROWS")]
    pub resize: Option<usize>,
    /// The form
    #[arg(
        long, value_enum, default_value_t = ExportForm::Peft, value_name = "peft|lora-onehot|gguf|gguf-lora",
        hide_possible_values = true
    )]
    pub to: ExportForm,
    /// A new folder or file
    #[arg(long, value_name = "PATH")]
    pub output: PathBuf,
    /// For peft: store whole embeddings too: never (the rows and the tokenizer are enough), always, or when the model was
    /// resized
    #[arg(
        long, default_value = "no", value_name = "auto|yes|no", value_parser = save_embedding_layers(),
        hide_possible_values = true
    )]
    pub save_embedding_layers: SaveEmbeddingLayers,
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
