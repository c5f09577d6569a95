//! The flags of `train`.

use super::preference::PreferenceArgs;
use super::shared::{DataArgs, EmissionArgs, LanguageArgs, MachineArgs};
use super::values::{
    Init, LogFormat, TemplateChoice, lr_scheduler, memory_budget, metric_for_best_model, row_norm,
    save_embedding_layers, size,
};
use clap::Args;
use std::path::PathBuf;
use toktune::SPREAD;
use toktune::config::{LoraConfig, TargetModules};
use toktune::data::Collator;
use toktune::peft::SaveEmbeddingLayers;
use toktune::train::{
    CacheConstants, CacheLocation, LrScheduler, MemoryBudget, MetricForBestModel, RowNorm, TrainingArguments,
};

/// Flags of `train`; also the keys of its configuration file.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    override_usage = "toktune train --model MODEL --data FILE... --output DIR --add-token TOKEN... [OPTIONS]",
    after_help = "--config FILE.toml holds flags by their names (batch-size = 4, add-token = ['<a>', \
        '</a>']); a flag on the command line wins. Every step is also written to train_log.jsonl in the \
        output folder.\n\n\
        Examples:\n  \
        toktune train --model smollm2.gguf --data train.jsonl --output out \\\n    \
        --add-token '<calc>' --add-token '</calc>' --eval-data heldout.jsonl\n  \
        toktune train --model models/llama --data chats.jsonl --output out --template-tokens\n  \
        toktune train --config run.toml --resume"
)]
pub struct TrainArgs {
    /// The model: a folder, a .gguf file or an id of the Hub
    #[arg(long, value_name = "DIR|FILE|ID")]
    pub model: String,
    /// Rows to train on: files or folders of JSONL, JSON, CSV, TSV, Parquet, Arrow or text, packed or not; `hf:ORG/NAME` for a
    /// set of the Hub, `-` for the standard input; `:2` behind one has its rows seen twice an epoch
    #[arg(long, required = true, num_args = 1.., value_name = "FILE[:WEIGHT]")]
    pub data: Vec<String>,
    /// A new folder for the adapter, the log and the checkpoints
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Flags from a TOML file
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub tokens: TokenArgs,
    #[command(flatten)]
    pub lora: LoraArgs,
    #[command(flatten)]
    pub steps: StepArgs,
    #[command(flatten)]
    pub options: DataArgs,
    #[command(flatten)]
    pub languages: LanguageArgs,
    #[command(flatten)]
    pub masks: MaskArgs,
    #[command(flatten)]
    pub preference: PreferenceArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub emission: EmissionArgs,
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// Which tokens are chosen.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Tokens (any of them together)")]
pub struct ChoiceArgs {
    /// Ids of tokens, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    pub token_ids: Vec<u32>,
    /// A token that the tokenizer has; may be repeated
    #[arg(long, value_name = "TOKEN")]
    pub token: Vec<String>,
    /// A token to add to the tokenizer, shown in generated text; may be repeated
    #[arg(long, value_name = "TOKEN")]
    pub add_token: Vec<String>,
    /// A token to add as a special one, hidden from generated text by default; may be repeated
    #[arg(long, value_name = "TOKEN")]
    pub add_special_token: Vec<String>,
    /// A word: the tokens that it is in the data, with its first letter in either case, or one that is added for it; may
    /// be repeated
    #[arg(long, value_name = "WORD")]
    pub word: Vec<String>,
    /// Tokens to add from a file: one a line, JSON lines with `token`, `special`, `description` and `init`, or TOML with
    /// descriptions
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// Give the names of added tokens to reserved ones of the vocabulary (`<|reserved_special_token_0|>`, `<unused0>`,
    /// `[unused0]`), whose rows the model has already
    #[arg(long)]
    pub use_reserved: bool,
    /// The control tokens that the chat template writes: those that the model never learnt (rows of zeros, equal ones, ones near
    /// unused rows), or all; what ends a turn then ends generated texts too
    #[arg(
        long, value_name = "unlearnt|all", num_args = 0..=1, require_equals = true, default_missing_value = "unlearnt",
        hide_possible_values = true
    )]
    pub template_tokens: Option<TemplateChoice>,
    /// The chat template, in place of the model's: a Jinja file, or chatml, whose tokens --template-tokens adds where they are missing
    #[arg(long, value_name = "FILE|chatml")]
    pub chat_template: Option<String>,
}

/// Which rows are trained, and what they start from.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Tokens (any of them together)")]
pub struct TokenArgs {
    #[command(flatten)]
    pub choice: ChoiceArgs,
    /// Embedding and head to train rows of: names, or a regular expression for full names [default: the
    /// embedding, and the head too when tokens are added to an untied model]
    #[arg(long, value_name = "NAMES|REGEX")]
    pub target_modules: Option<String>,
    /// What rows start from, of all chosen tokens or of one: the row as it is (base), the mean of the trained rows, random
    /// numbers, the mean of the pieces that the token's text was cut into, the same of its description, or the row of another
    /// token (like:TOKEN); may be repeated [default: base for known tokens; for added ones the description if there is one, the
    /// pieces of a word, else the mean]
    #[arg(long, value_name = "[TOKEN=]START", value_parser = clap::value_parser!(Init))]
    pub init: Vec<Init>,
    /// How far rows that would start alike are moved apart, as a share of the embedding's root mean square; 0 for not at all
    #[arg(long, default_value_t = SPREAD, value_name = "X")]
    pub init_spread: f64,
    /// Start from the tokens and rows of this adapter
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = [
            "token_ids", "token", "add_token", "add_special_token", "word", "tokens", "use_reserved", "template_tokens", "chat_template",
            "target_modules", "init", "init_spread",
        ]
    )]
    pub adapter: Option<PathBuf>,
}

/// Low-rank updates of linear layers beside the rows.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "LoRA (off without --lora-r or --lora-target-modules)")]
pub struct LoraArgs {
    /// The rank of the updates [default: 8]
    #[arg(long, value_name = "N", conflicts_with = "adapter")]
    pub lora_r: Option<usize>,
    /// The updates are scaled by this over the rank [default: 8]
    #[arg(long, value_name = "X", conflicts_with = "adapter")]
    pub lora_alpha: Option<f64>,
    /// The share of an update's inputs that a training step leaves out [default: 0]
    #[arg(long, value_name = "X", conflicts_with = "adapter")]
    pub lora_dropout: Option<f64>,
    /// The linear layers to update: names, a regular expression for full names, or all-linear [default: q_proj
    /// and v_proj]
    #[arg(long, value_name = "NAMES|REGEX|all-linear", conflicts_with = "adapter")]
    pub lora_target_modules: Option<String>,
    /// Scale by the root of the rank (rank-stabilised LoRA)
    #[arg(long, conflicts_with = "adapter")]
    pub lora_use_rslora: bool,
}

impl LoraArgs {
    /// The configuration, without tokens; `None` when LoRA is off.
    pub fn config(&self) -> Result<Option<LoraConfig>, String> {
        if self.lora_r.is_none() && self.lora_target_modules.is_none() {
            let alone = [
                ("--lora-alpha", self.lora_alpha.is_some()),
                ("--lora-dropout", self.lora_dropout.is_some()),
                ("--lora-use-rslora", self.lora_use_rslora),
            ];
            return match alone.iter().find(|(_, given)| *given) {
                Some((flag, _)) => Err(format!("{flag} needs LoRA: give --lora-r or --lora-target-modules")),
                None => Ok(None),
            };
        }
        let mut config = LoraConfig::default();
        config.r = self.lora_r.unwrap_or(config.r);
        config.lora_alpha = self.lora_alpha.unwrap_or(config.lora_alpha);
        config.lora_dropout = self.lora_dropout.unwrap_or(config.lora_dropout);
        config.target_modules = self.lora_target_modules.as_deref().map(TargetModules::parse_lora);
        config.use_rslora = self.lora_use_rslora;
        Ok(Some(config))
    }
}

/// The defaults that the help shows; the folder plays no part.
fn defaults() -> TrainingArguments {
    TrainingArguments::new("")
}

/// How the rows are trained.
#[derive(Debug, Args)]
#[command(next_help_heading = "Training")]
pub struct StepArgs {
    /// Sequences of a micro-step
    #[arg(long, default_value_t = defaults().per_device_train_batch_size, value_name = "N", alias = "per-device-train-batch-size")]
    pub batch_size: usize,
    /// Micro-steps of a step
    #[arg(long, default_value_t = defaults().gradient_accumulation_steps, value_name = "N")]
    pub gradient_accumulation_steps: usize,
    /// Passes over the data; may be a fraction
    #[arg(
        long, default_value_t = defaults().num_train_epochs, value_name = "X",
        conflicts_with = "max_steps"
    )]
    pub num_epochs: f64,
    /// Steps, in place of epochs
    #[arg(long, value_name = "N")]
    pub max_steps: Option<u64>,
    /// The learning rate [default: 0.1 x the root mean square of the embedding's entries]
    #[arg(long, value_name = "X", alias = "lr")]
    pub learning_rate: Option<f64>,
    /// The learning rate of LoRA's updates [default: 0.0002]
    #[arg(long, value_name = "X")]
    pub lora_learning_rate: Option<f64>,
    /// What becomes of the learning rate after the warm-up
    #[arg(
        long, default_value = "constant", value_name = "constant|linear|cosine",
        value_parser = lr_scheduler(), hide_possible_values = true
    )]
    pub lr_scheduler: LrScheduler,
    /// Steps over which the learning rate rises from 0
    #[arg(long, default_value_t = defaults().warmup_steps, value_name = "N")]
    pub warmup_steps: u64,
    /// Decoupled weight decay
    #[arg(long, default_value_t = defaults().weight_decay, value_name = "X")]
    pub weight_decay: f64,
    /// Scale gradients down to this norm; 0 for never
    #[arg(long, default_value_t = defaults().max_grad_norm, value_name = "X")]
    pub max_grad_norm: f64,
    /// What becomes of the rows' norms after each step: nothing (free), rows longer than X times the vocabulary's median are
    /// scaled back (clamp:X), or rows keep the norm that they started with (fixed)
    #[arg(long, default_value = "free", value_name = "free|clamp:X|fixed", value_parser = row_norm())]
    pub norm: RowNorm,
    /// A new order in every epoch, or the order of the file
    #[arg(
        long, default_value_t = defaults().shuffle, value_name = "true|false",
        action = clap::ArgAction::Set, hide_possible_values = true
    )]
    pub shuffle: bool,
    /// Of the order of the rows, and of what starts have of chance
    #[arg(long, default_value_t = defaults().seed, value_name = "N")]
    pub seed: u64,
}

/// Which tokens of a text are to be guessed.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Masked language models")]
pub struct MaskArgs {
    /// The probability that a token is chosen [default: 0.15]
    #[arg(long, value_name = "X")]
    pub mlm_probability: Option<f64>,
    /// Choose the trained tokens wherever they are [default: false]
    #[arg(
        long, value_name = "true|false", action = clap::ArgAction::Set, value_parser = clap::value_parser!(bool),
        hide_possible_values = true
    )]
    pub mask_trained_tokens: Option<bool>,
}

impl MaskArgs {
    /// The flag that was given, if any.
    fn given(&self) -> Option<&'static str> {
        match (self.mlm_probability, self.mask_trained_tokens) {
            (Some(_), _) => Some("--mlm-probability"),
            (None, Some(_)) => Some("--mask-trained-tokens"),
            (None, None) => None,
        }
    }

    /// Puts the flags into what makes a model's batches; `trained` are the tokens that are trained.
    pub fn apply(&self, collator: &mut Collator, trained: &[u32]) -> Result<(), String> {
        match (collator, self.given()) {
            (Collator::MaskedLm(masking), _) => {
                masking.probability = self.mlm_probability.unwrap_or(masking.probability);
                if self.mask_trained_tokens == Some(true) {
                    masking.always.extend(trained);
                }
                Ok(())
            }
            (_, None) => Ok(()),
            (other, Some(flag)) => Err(format!("{flag}: the model is {}, which masks nothing", other.kind())),
        }
    }
}

/// What is measured, written and kept on the way.
#[derive(Debug, Args)]
#[command(next_help_heading = "Run")]
pub struct RunArgs {
    /// Held-out rows, evaluated before and after
    #[arg(long, num_args = 1.., value_name = "FILE")]
    pub eval_data: Vec<String>,
    /// Also evaluate every N steps
    #[arg(long, value_name = "N", requires = "eval_data")]
    pub eval_every: Option<u64>,
    /// Keep the rows of the best evaluation in place of the last ones: that with the lowest held-out loss, or that whose tokens the
    /// model writes in most held-out rows, which it goes on with at each evaluation (emission; 8 rows, or --emission-prompts)
    #[arg(
        long, requires = "eval_every", alias = "load-best-model-at-end", value_name = "loss|emission", num_args = 0..=1,
        default_missing_value = "loss", value_parser = metric_for_best_model(), hide_possible_values = true
    )]
    pub keep_best: Option<MetricForBestModel>,
    /// End the run when N evaluations in a row were no better, by the held-out loss or what --keep-best says
    #[arg(long, value_name = "N", requires = "eval_every")]
    pub early_stopping_patience: Option<u64>,
    /// Write a checkpoint every N steps
    #[arg(long, value_name = "N")]
    pub save_every: Option<u64>,
    /// Keep the N newest checkpoints [default: all]
    #[arg(long, value_name = "N", alias = "save-total-limit")]
    pub keep_last: Option<u64>,
    /// Go on although the data hold nothing to learn of some chosen tokens
    #[arg(long)]
    pub allow_unseen: bool,
    /// Go on from the last checkpoint in the output folder
    #[arg(long)]
    pub resume: bool,
    /// Go on with other settings, another model or other data than the run began with, which are named
    #[arg(long)]
    pub resume_anyway: bool,
    /// Store whole embeddings with the adapter: never (the rows and the tokenizer are enough), always, or as
    /// PEFT does, when the model was resized
    #[arg(
        long, default_value = "no", value_name = "auto|yes|no", value_parser = save_embedding_layers(),
        hide_possible_values = true
    )]
    pub save_embedding_layers: SaveEmbeddingLayers,
    /// Keep activations as far as half of the free memory goes (free), up to two fifths of what the weights take (min), or
    /// up to so much memory of the process, as 900MB or 2GB, and compute the rest again; results do not depend on it
    #[arg(long, default_value = "free", value_name = "free|min|SIZE", value_parser = memory_budget())]
    pub memory_budget: MemoryBudget,
    /// Compute rows that examples begin with alike once a batch, and bring such examples together when they are shuffled
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "true|false", hide_possible_values = true)]
    pub share_prefixes: bool,
    /// Keep what does not depend on the trained rows from one step to the next: in memory, or in a temporary file in this
    /// folder; results do not depend on it [default: what examples begin with alike, in memory, up to 512 MB]
    #[arg(long, value_name = "RAM|DIR")]
    pub cache_constants: Option<PathBuf>,
    /// At most so much of it, as 900MB or 2GB
    #[arg(long, default_value = "1GB", value_name = "SIZE", value_parser = size(), requires = "cache_constants")]
    pub cache_limit: u64,
    /// Also write the numbers of the run for TensorBoard, into runs/ of the output folder
    #[arg(long)]
    pub tensorboard: bool,
    /// Write report.html into the output folder: curves, tokens, texts and rows of the data on one page
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "true|false", hide_possible_values = true)]
    pub report: bool,
    /// Tell at the end where the time went
    #[arg(long)]
    pub profile: bool,
    /// Text for people, or JSON objects, one a line
    #[arg(
        long, value_enum, default_value_t = LogFormat::Text, value_name = "text|json",
        hide_possible_values = true
    )]
    pub log_format: LogFormat,
    /// Write a line every N steps [default: 1, none on a terminal, where there is a progress bar]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub log_every: Option<u64>,
}

impl TrainArgs {
    /// The library's settings.
    pub fn training_arguments(&self) -> TrainingArguments {
        let (steps, run) = (&self.steps, &self.run);
        let mut to = TrainingArguments::new(&self.output);
        to.per_device_train_batch_size = steps.batch_size;
        to.gradient_accumulation_steps = steps.gradient_accumulation_steps;
        to.num_train_epochs = steps.num_epochs;
        to.max_steps = steps.max_steps;
        to.learning_rate = steps.learning_rate;
        to.lora_learning_rate = steps.lora_learning_rate;
        to.lr_scheduler_type = steps.lr_scheduler;
        to.warmup_steps = steps.warmup_steps;
        to.weight_decay = steps.weight_decay;
        to.max_grad_norm = steps.max_grad_norm;
        to.norm = steps.norm;
        to.shuffle = steps.shuffle;
        to.seed = steps.seed;
        to.eval_steps = run.eval_every;
        to.load_best_model_at_end = run.keep_best.is_some();
        to.metric_for_best_model = run.keep_best.unwrap_or_default();
        to.emission_prompts = self.emission.emission_prompts.unwrap_or(to.emission_prompts);
        to.early_stopping_patience = run.early_stopping_patience;
        to.save_steps = run.save_every;
        to.save_total_limit = run.keep_last;
        to.resume = run.resume;
        to.resume_anyway = run.resume_anyway;
        to.save_embedding_layers = run.save_embedding_layers;
        to.memory_budget = run.memory_budget;
        to.share_prefixes = run.share_prefixes;
        to.dpo = self.preference.config();
        to.cache_constants = run.cache_constants.as_ref().map(|place| {
            let location = match place.to_str() {
                Some("RAM" | "ram") => CacheLocation::Memory,
                _ => CacheLocation::Folder(place.clone()),
            };
            CacheConstants::new(location, run.cache_limit)
        });
        to
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use toktune::data::Masking;

    #[test]
    fn masks_are_for_masked_models() {
        let masking = Masking {
            mask_token: Some(4),
            probability: Masking::PROBABILITY,
            special: [4].into(),
            always: Default::default(),
            vocab_size: 10,
            seed: 0,
        };
        let applied = |args: MaskArgs| {
            let mut collator = Collator::MaskedLm(masking.clone());
            args.apply(&mut collator, &[7, 8]).expect("for such a model");
            let Collator::MaskedLm(masking) = collator else { panic!("another kind") };
            (masking.probability, masking.always.len())
        };
        let of = |mlm_probability, mask_trained_tokens| MaskArgs { mlm_probability, mask_trained_tokens };
        assert_eq!(applied(of(None, None)), (0.15, 0));
        assert_eq!(applied(of(Some(0.3), Some(false))), (0.3, 0));
        assert_eq!(applied(of(None, Some(true))), (0.15, 2));
        let mut causal = Collator::Causal;
        assert_eq!(of(None, None).apply(&mut causal, &[]), Ok(()));
        for (args, flag) in
            [(of(Some(0.3), None), "--mlm-probability"), (of(None, Some(false)), "--mask-trained-tokens")]
        {
            let problem = args.apply(&mut causal, &[]).expect_err("nothing is masked");
            assert_eq!(problem, format!("{flag}: the model is a causal language model, which masks nothing"));
        }
    }
}
