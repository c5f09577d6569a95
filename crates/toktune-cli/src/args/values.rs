//! The values that flags take beyond numbers, texts and paths.

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::fmt;
use std::str::FromStr;
use toktune::OnConflict;
use toktune::data::{LossOn, SampleBy};
use toktune::engine::objective::DistillationWeights;
use toktune::export::MergedType;
use toktune::peft::SaveEmbeddingLayers;
use toktune::train::{DpoLoss, LrScheduler, MemoryBudget, MetricForBestModel, RowNorm};

/// How output is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// The type of the matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// The best the machine has.
    Auto,
    /// Single precision.
    F32,
    /// bfloat16 with sums in single precision.
    Bf16,
}

/// The type of a merged model's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MergeType {
    /// `float32`.
    F32,
    /// `float16`.
    F16,
    /// `bfloat16`.
    Bf16,
}

impl From<MergeType> for MergedType {
    fn from(dtype: MergeType) -> Self {
        match dtype {
            MergeType::F32 => MergedType::F32,
            MergeType::F16 => MergedType::F16,
            MergeType::Bf16 => MergedType::Bf16,
        }
    }
}

/// What becomes of tokens that several adapters have with different rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConflictChoice {
    /// Nothing is written.
    Error,
    /// The first one's row.
    First,
    /// The mean of all.
    Mean,
}

impl From<ConflictChoice> for OnConflict {
    fn from(choice: ConflictChoice) -> Self {
        match choice {
            ConflictChoice::Error => OnConflict::Error,
            ConflictChoice::First => OnConflict::First,
            ConflictChoice::Mean => OnConflict::Mean,
        }
    }
}

/// Which of a chat template's tokens are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TemplateChoice {
    /// Those that the model never learnt.
    Unlearnt,
    /// All of them.
    All,
}

/// A form in which an adapter is written for other programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportForm {
    /// PEFT's files for trainable tokens.
    Peft,
    /// PEFT's files for LoRA.
    LoraOnehot,
    /// A copy of a GGUF file.
    Gguf,
    /// A GGUF file of LoRA.
    GgufLora,
}

/// What a row starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The row as it is.
    Base,
    /// Normal numbers as large as the matrix's entries.
    Random,
    /// The mean of the trained rows.
    Mean,
    /// The mean of the rows of the token's text, as it was cut before.
    Pieces,
    /// The mean of the rows of the token's description.
    Description,
    /// The row of another token.
    Like(String),
}

/// What rows start from: those of all tokens, or of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Init {
    /// The token.
    pub token: Option<String>,
    /// The start.
    pub start: Start,
}

/// What `--init` takes.
const STARTS: &str = "base, mean, random, pieces, description or like:TOKEN";

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match (text, text.strip_prefix("like:")) {
            ("base", _) => Self::Base,
            ("random", _) => Self::Random,
            ("mean", _) => Self::Mean,
            ("pieces", _) => Self::Pieces,
            ("description", _) => Self::Description,
            (_, Some(token)) if !token.is_empty() => Self::Like(token.to_owned()),
            _ => return Err(format!("expected {STARTS}")),
        })
    }
}

impl FromStr for Init {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(start) = text.parse() {
            return Ok(Init { token: None, start });
        }
        // a token may hold the sign itself, and so may the one that it is like
        let mut signs = text.match_indices('=').map(|(at, _)| (&text[..at], &text[at + 1..]));
        let found = signs.find_map(|(token, start)| Some((token, start.parse().ok()?)));
        match found {
            Some((token, start)) if !token.is_empty() => Ok(Init { token: Some(token.to_owned()), start }),
            _ => Err(format!("expected {STARTS}, for all tokens or for one (TOKEN=mean)")),
        }
    }
}

/// Where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU, by its number.
    Cuda(usize),
    /// Apple's GPU.
    Metal,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            None if text == "metal" => Ok(Self::Metal),
            Some(("cuda", number)) => {
                number.parse().map(Self::Cuda).map_err(|_| format!("'{number}' is no number of a GPU"))
            }
            _ => Err("expected cpu, cuda, cuda:N or metal".into()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

/// One of a few names, each with what it stands for.
fn named<T: Clone + Send + Sync + 'static>(
    names: impl IntoIterator<Item = (&'static str, T)>,
) -> impl TypedValueParser<Value = T> {
    let names: Vec<(&'static str, T)> = names.into_iter().collect();
    let parser = PossibleValuesParser::new(names.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    parser.try_map(move |text| {
        let found = names.iter().find(|(name, _)| *name == text);
        found.map(|(_, value)| value.clone()).ok_or("no such name")
    })
}

/// A schedule by its name.
pub fn lr_scheduler() -> impl TypedValueParser<Value = LrScheduler> {
    named(LrScheduler::NAMES)
}

/// The loss of a pair, by TRL's name.
pub fn dpo_loss() -> impl TypedValueParser<Value = DpoLoss> {
    named(DpoLoss::NAMES)
}

/// Whether whole embeddings are stored, by its name.
pub fn save_embedding_layers() -> impl TypedValueParser<Value = SaveEmbeddingLayers> {
    use SaveEmbeddingLayers::{Auto, No, Yes};
    named([("auto", Auto), ("yes", Yes), ("no", No)])
}

/// What the loss is on, by its name.
pub fn loss_on() -> impl TypedValueParser<Value = LossOn> {
    named([("all", LossOn::All), ("completion", LossOn::Completion)])
}

/// What a row of a text file is, by its name.
pub fn sample_by() -> impl TypedValueParser<Value = SampleBy> {
    named(SampleBy::NAMES)
}

/// What of a distillation counts how much: `mse`, `kl` and `ce`, each with a factor before it if need be, joined by `+`.
pub fn distillation_weights() -> impl TypedValueParser<Value = DistillationWeights> {
    clap::builder::StringValueParser::new()
        .try_map(|text| weights_of(&text).ok_or("expected mse, kl, ce or a sum of them, as mse+0.5ce"))
}

fn weights_of(text: &str) -> Option<DistillationWeights> {
    let mut weights = DistillationWeights { mse: 0.0, kl: 0.0, ce: 0.0 };
    for part in text.split('+') {
        let name = part.trim().trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let factor = part.trim().strip_suffix(name)?;
        let factor: f32 = if factor.is_empty() { 1.0 } else { factor.parse().ok()? };
        let weight = match name {
            "mse" => &mut weights.mse,
            "kl" => &mut weights.kl,
            "ce" => &mut weights.ce,
            _ => return None,
        };
        if *weight != 0.0 || factor <= 0.0 || !factor.is_finite() {
            return None;
        }
        *weight = factor;
    }
    Some(weights)
}

/// A number of bytes.
pub fn size() -> impl TypedValueParser<Value = u64> {
    clap::builder::StringValueParser::new()
        .try_map(|text| bytes_of(&text).ok_or("expected a size as 900MB or 2GB"))
}

/// Digits, with a fraction if need be, and a decimal unit.
fn bytes_of(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1.0,
        "KB" | "K" => 1e3,
        "MB" | "M" => 1e6,
        "GB" | "G" => 1e9,
        "TB" | "T" => 1e12,
        _ => return None,
    };
    let number = digits.parse::<f64>().ok()?;
    (number > 0.0 && number.is_finite()).then_some((number * unit) as u64)
}

/// What becomes of the norms of rows.
pub fn row_norm() -> impl TypedValueParser<Value = RowNorm> {
    clap::builder::StringValueParser::new().try_map(|text| text.parse::<RowNorm>())
}

/// What the best rows are found by.
pub fn metric_for_best_model() -> impl TypedValueParser<Value = MetricForBestModel> {
    clap::builder::StringValueParser::new().try_map(|text| text.parse::<MetricForBestModel>())
}

/// How much of a step is kept.
pub fn memory_budget() -> impl TypedValueParser<Value = MemoryBudget> {
    clap::builder::StringValueParser::new().try_map(|text| match text.as_str() {
        "free" => Ok(MemoryBudget::Free),
        "min" => Ok(MemoryBudget::Min),
        size => {
            let bytes = bytes_of(size).map(MemoryBudget::Bytes);
            bytes.ok_or("expected free, min, or a size as 900MB or 2GB")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for device in [DeviceChoice::Cpu, DeviceChoice::Cuda(3), DeviceChoice::Metal] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for wrong in ["gpu", "cuda:x", "cpu:1", ""] {
            assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_distillation_is_a_sum_of_parts() {
        let of = |mse, kl, ce| Some(DistillationWeights { mse, kl, ce });
        assert_eq!(weights_of("mse"), of(1.0, 0.0, 0.0));
        assert_eq!(weights_of("2mse + .5ce"), of(2.0, 0.0, 0.5));
        assert_eq!(weights_of("kl+ce"), of(0.0, 1.0, 1.0));
        for wrong in ["", "mae", "mse+mse", "0kl", "-1kl", "1.2.3ce", "mse+", "1e999ce"] {
            assert_eq!(weights_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn starts_are_for_all_tokens_or_for_one() {
        let of = |token: Option<&str>, start| Ok(Init { token: token.map(str::to_owned), start });
        let like = |token: &str| Start::Like(token.to_owned());
        for (text, expected) in [
            ("mean", of(None, Start::Mean)),
            ("like:a=b", of(None, like("a=b"))),
            ("<calc>=pieces", of(Some("<calc>"), Start::Pieces)),
            ("a=b=like:c=d", of(Some("a=b"), like("c=d"))),
            ("===base", of(Some("=="), Start::Base)),
            (" x=description", of(Some(" x"), Start::Description)),
        ] {
            assert_eq!(text.parse::<Init>(), expected, "{text}");
        }
        for wrong in ["", "median", "<calc>=", "=mean", "<calc>=median", "like:", "<calc>=like:"] {
            assert!(wrong.parse::<Init>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_a_number_and_a_unit() {
        for (text, bytes) in [("900MB", 900_000_000), ("1.5k", 1500), ("7", 7), ("2tb", 2_000_000_000_000)] {
            assert_eq!(bytes_of(text), Some(bytes), "{text}");
        }
        for wrong in ["", "MB", "0", "-1GB", "nan", "inf", "1 GB", "1e400", "2XB", "Free"] {
            assert_eq!(bytes_of(wrong), None, "{wrong}");
        }
    }
}
