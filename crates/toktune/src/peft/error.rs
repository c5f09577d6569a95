//! What can go wrong with adapters: one variant a fault.

use crate::config::ConfigError;
use crate::text::TextError;
use crate::weights::WeightsError;
use std::path::PathBuf;
use toktune_engine::EngineError;

/// The result of everything in this module that can fail.
pub type Result<T, E = PeftError> = std::result::Result<T, E>;

/// A fault of an adapter, its configuration or its files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeftError {
    /// There is no adapter of this name.
    #[error("there is no adapter '{name}'{}; there are {}", near(.nearest), listed(.adapters))]
    NoSuchAdapter {
        /// The name asked for.
        name: String,
        /// The nearest name there is.
        nearest: Option<String>,
        /// The adapters there are.
        adapters: Vec<String>,
    },
    /// An adapter of this name is there already.
    #[error("there is an adapter '{name}' already; delete it first or choose another name")]
    AdapterExists {
        /// The name.
        name: String,
    },
    /// A name that cannot be given to an adapter.
    #[error("an adapter cannot be called '{name}': {problem}")]
    AdapterName {
        /// The name.
        name: String,
        /// What stands against it.
        problem: &'static str,
    },
    /// A weight of 8-bit floats with scales is to be written with an adapter in it.
    #[error(
        "'{tensor}' is stored as 8-bit floats with scales, and an adapter changes it; merge into the model of 16 bits \
         that it was made from"
    )]
    MergeIntoScaled {
        /// The tensor.
        tensor: String,
    },
    /// What a row starts from is said of a token that is not trained.
    #[error("`inits` says what token {token} starts from, which is not among the tokens to train")]
    StartOfOther {
        /// The token.
        token: u32,
    },
    /// A row is to start from the mean of no rows.
    #[error("token {token} is to start from `{rule}`, and no tokens are given for that")]
    StartOfNothing {
        /// The token.
        token: u32,
        /// The rule.
        rule: &'static str,
    },
    /// A row is to start from one that the model does not have.
    #[error(
        "token {token} is to start from `{rule}`, and the model has no row {from} for that: it has {rows}"
    )]
    StartFromNoRow {
        /// The token.
        token: u32,
        /// The rule.
        rule: &'static str,
        /// The row that is not there.
        from: u32,
        /// The rows there are.
        rows: usize,
    },
    /// A row is to start from that of a token which means nothing yet itself.
    #[error("token {token} is to start from `{rule}`, and token {from} of that is added itself")]
    StartFromAdded {
        /// The token.
        token: u32,
        /// The rule.
        rule: &'static str,
        /// The added token.
        from: u32,
    },
    /// No adapter was named.
    #[error("no adapter named; expected at least one of {}", listed(.adapters))]
    NoAdapterNamed {
        /// The adapters there are.
        adapters: Vec<String>,
    },
    /// Two adapters replace the same row.
    #[error(
        "adapter '{adapter}' replaces rows of {layer} that adapter '{other}' replaces already: tokens {}; only adapters \
         with different tokens can act together or be merged one after the other", ids(.tokens)
    )]
    OverlappingTokens {
        /// The adapter that comes second.
        adapter: String,
        /// The adapter that comes first.
        other: String,
        /// The layer.
        layer: String,
        /// The tokens of both.
        tokens: Vec<u32>,
    },
    /// Training was asked for with several adapters active.
    #[error("one adapter is trained at a time; active are {}", listed(.adapters))]
    SeveralActive {
        /// The active adapters.
        adapters: Vec<String>,
    },
    /// Something was asked for that needs an active adapter.
    #[error("no adapter is active; set one of {}", listed(.adapters))]
    NoneActive {
        /// The adapters there are.
        adapters: Vec<String>,
    },
    /// Something was asked for that merged adapters stand against.
    #[error("{what} needs adapters that are not merged; merged are {}: unmerge them first", listed(.merged))]
    Merged {
        /// What was asked for.
        what: &'static str,
        /// The merged adapters.
        merged: Vec<String>,
    },
    /// A mixed batch with another number of adapter names than sequences.
    #[error("{sequences} sequences and {names} adapter names; expected a name for each sequence")]
    MixedBatch {
        /// The sequences.
        sequences: usize,
        /// The names.
        names: usize,
    },
    /// A merged weight would hold a NaN or an infinity.
    #[error("merging adapter '{adapter}' would put {value} into {layer}, row {row}; nothing was merged")]
    MergeNotFinite {
        /// The adapter.
        adapter: String,
        /// The layer.
        layer: String,
        /// The row of the layer's weight.
        row: usize,
        /// What it would hold.
        value: f32,
    },
    /// The rows of a tied head differ from its embedding's, so that one matrix cannot hold both.
    #[error(
        "adapter '{adapter}' has rows of its own for {layer}, which is one matrix with {source_layer}: merging would \
         change both; train both with the same tokens (ensure_weight_tying) or keep the adapter"
    )]
    SeparateRowsOfTied {
        /// The adapter.
        adapter: String,
        /// The layer that shares a matrix.
        layer: String,
        /// The layer it shares it with.
        source_layer: String,
    },
    /// `ensure_weight_tying` with different tokens for layers that are one matrix.
    #[error("cannot ensure weight tying: different token indices for tied layers: {}", .layers.join(", "))]
    DifferentTokens {
        /// The layers with their tokens.
        layers: Vec<String>,
    },
    /// Two keys of `trainable_token_indices` mean the same layer.
    #[error("trainable_token_indices names {layer} twice: as '{first}' and as '{second}'")]
    TargetedTwice {
        /// The layer.
        layer: String,
        /// One key.
        first: String,
        /// The other.
        second: String,
    },
    /// LoRA was to be put on a layer that has token rows.
    #[error(
        "`target_modules` matches '{layer}', a token matrix; LoRA is for linear layers, rows of tokens are trained by \
         trainable_token_indices"
    )]
    LoraOnTokenMatrix {
        /// The layer.
        layer: String,
    },
    /// LoRA's `target_modules` matches a linear layer outside the blocks.
    #[error(
        "LoRA on {layer}, which is outside the blocks, is not supported; give names that match layers of blocks alone"
    )]
    LoraOutsideBlocks {
        /// The layer.
        layer: String,
    },
    /// LoRA without `target_modules` for a model that has no usual ones.
    #[error("give `target_modules`: for a {model_type} PEFT knows no default; there are {}", listed(.layers))]
    NoDefaultTargets {
        /// The model's type.
        model_type: String,
        /// Endings of the names of linear layers.
        layers: Vec<String>,
    },
    /// LoRA's `target_modules` matches no linear layer.
    #[error("`target_modules` '{target}' matches no linear layer{}; there are {}", near(.nearest), listed(.layers))]
    NoLinear {
        /// The target.
        target: String,
        /// The nearest ending of a layer's name.
        nearest: Option<String>,
        /// Endings of the names of linear layers.
        layers: Vec<String>,
    },
    /// The updates would have more numbers than can be meant.
    #[error(
        "r = {r} gives {numbers} trained numbers; expected at most {most}, which is what the model has itself, or 1 GiB"
    )]
    TooManyNumbers {
        /// The rank of most layers.
        r: usize,
        /// The numbers of all updates.
        numbers: u64,
        /// What is accepted.
        most: u64,
    },
    /// Biases or whole modules were to be trained and stored.
    #[error(
        "{field} is {found}: an adapter with it is loaded, computed with and merged, but neither trained nor saved; expected none"
    )]
    NotTrained {
        /// The field of the configuration.
        field: &'static str,
        /// Its value.
        found: String,
    },
    /// A field of an adapter's file cannot be honoured, as the source says.
    #[error("{path}: {source}")]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with the field.
        source: Box<PeftError>,
    },
    /// A folder of the model has more in it than is copied.
    #[error(
        "{path}: a module of modules.json with thousands of files, or folders seven deep; nothing was merged"
    )]
    FolderTooLarge {
        /// The folder.
        path: PathBuf,
    },
    /// An adapter brings whole modules that the base cannot take.
    #[error("{field} brings '{tensor}', {problem}")]
    WholeModule {
        /// The field of the configuration that asks for it.
        field: &'static str,
        /// The tensor in the adapter's file.
        tensor: String,
        /// What stands against it.
        problem: &'static str,
    },
    /// An adapter's tokens are past the base's rows.
    #[error(
        "the adapter has token {token}, but {layer} has {rows} rows: the adapter was trained on a model that had been \
         resized for added tokens. Give the base its rows first (`resize_token_embeddings` to at least {}), or \
         keep the adapter's tokenizer beside it: AutoPeftModel resizes by it", .token + 1
    )]
    TooFewRows {
        /// The first such token.
        token: u32,
        /// The layer.
        layer: String,
        /// Its rows.
        rows: usize,
    },
    /// A file lacks tensors of the adapter.
    #[error("{path}: the adapter's tensors {} are missing", listed(.keys))]
    MissingKeys {
        /// The file.
        path: PathBuf,
        /// The tensors.
        keys: Vec<String>,
    },
    /// A stored tensor is not of the adapter's shape.
    #[error("'{key}' has shape {found:?}; expected {expected:?}")]
    Shape {
        /// The tensor.
        key: String,
        /// Its shape.
        found: Vec<usize>,
        /// The adapter's.
        expected: Vec<usize>,
    },
    /// An adapter does not say what it was trained on.
    #[error("{path}: base_model_name_or_path is not there; name the base model")]
    NoBase {
        /// The configuration.
        path: PathBuf,
    },
    /// The model that an adapter names is not there.
    #[error("{path}: the base model '{base}' is not a folder or file here{}", if *.hub { "" } else { " (and this build has no Hub)" })]
    BaseNotFound {
        /// The configuration.
        path: PathBuf,
        /// The base it names.
        base: String,
        /// Whether the Hub was asked.
        hub: bool,
    },
    /// Variables were read back into an adapter that they were not made from.
    #[error(
        "the variables have values of {layer}, which adapter '{adapter}' does not have so; bind the active adapter"
    )]
    NotBound {
        /// The layer.
        layer: String,
        /// The active adapter.
        adapter: String,
    },
    /// A model has no layer of this name.
    #[error("the model has no layer '{layer}'{}", near(.nearest))]
    NoSuchLayer {
        /// The name.
        layer: String,
        /// The nearest there is.
        nearest: Option<String>,
    },
    /// `target_modules` matches nothing.
    #[error("`target_modules` '{target}' matches no module; the model's embedding and head are {}", .matrices.join(", "))]
    NoTarget {
        /// The target.
        target: String,
        /// What could be targeted.
        matrices: Vec<String>,
    },
    /// `target_modules` matches a module that has no token rows.
    #[error("`target_modules` matches '{module}', which is no embedding or output head; those are {}", .matrices.join(", "))]
    NotATokenMatrix {
        /// The module.
        module: String,
        /// What could be targeted.
        matrices: Vec<String>,
    },
    /// An adapter's file holds a tensor that its configuration does not explain.
    #[error("{path}: unexpected tensor '{name}'; expected {}", .expected.join(", "))]
    UnexpectedTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The tensors that should be there.
        expected: Vec<String>,
    },
    /// A model is to be merged into the folder it is read from.
    #[error("{path}: the model is read from this folder; expected another one to merge it into")]
    MergeOntoSource {
        /// The folder.
        path: PathBuf,
    },
    /// A merged folder is not what it should be.
    #[error("{path}: {what}")]
    MergeDiffers {
        /// The folder.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// A base model of the caller's own failed.
    #[error("the base model: {0}")]
    Model(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A configuration is at fault.
    #[error(transparent)]
    Config(ConfigError),
    /// A model's files are at fault, or the file of an adapter.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The engine cannot do it.
    #[error(transparent)]
    Engine(EngineError),
    /// A tokenizer is at fault.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The base cannot be had from the Hub.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
}

impl From<ConfigError> for PeftError {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Weights(error) => error.into(),
            ConfigError::Engine(error) => error.into(),
            error => Self::Config(error),
        }
    }
}

impl From<EngineError> for PeftError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Weights(error) => error.into(),
            error => Self::Engine(error),
        }
    }
}

impl PeftError {
    /// The fault, said of the file at `path` where it is about a field of a configuration; fields may also be given by hand.
    pub(crate) fn in_file(self, path: PathBuf) -> Self {
        match self {
            Self::Config(error) => error.in_file(path).into(),
            Self::NoTarget { .. }
            | Self::NotATokenMatrix { .. }
            | Self::NoLinear { .. }
            | Self::NoDefaultTargets { .. }
            | Self::LoraOnTokenMatrix { .. }
            | Self::LoraOutsideBlocks { .. }
            | Self::TooManyNumbers { .. }
            | Self::TargetedTwice { .. } => Self::InFile { path, source: Box::new(self) },
            other => other,
        }
    }
}

fn near(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean '{name}'?")).unwrap_or_default()
}

/// Names for a message, the first of them.
fn listed(names: &[String]) -> String {
    const LISTED: usize = 8;
    match names {
        [] => "none".into(),
        few if few.len() <= LISTED => format!("'{}'", few.join("', '")),
        many => format!("'{}' and {} more", many[..LISTED].join("', '"), many.len() - LISTED),
    }
}

fn ids(tokens: &[u32]) -> String {
    let shown: Vec<String> = tokens.iter().take(16).map(u32::to_string).collect();
    let more = if tokens.len() > shown.len() { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}
