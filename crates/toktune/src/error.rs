//! The library's error type: one variant a fault, each saying what was found and what was expected.

use std::path::PathBuf;

/// The result of everything in this library that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong. Every message names the file, tensor, module or option concerned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A folder or file holds no model that can be read.
    #[error("{path}: no model found; looked for {wanted}; there is {found}")]
    NoCheckpoint {
        /// The folder or file.
        path: PathBuf,
        /// What would have been accepted.
        wanted: &'static str,
        /// What is there instead.
        found: String,
    },
    /// A model is of another kind than was asked for.
    #[error("{path}: this is a model for {found}, not for {expected}")]
    WrongModelKind {
        /// The folder or file.
        path: PathBuf,
        /// The class that loads it.
        found: &'static str,
        /// The class that was asked to.
        expected: &'static str,
    },
    /// A batch has the inputs of an encoder, and the model has none, or the other way round.
    #[error(
        "the batch is not one for {expected}: an encoder's inputs belong to an encoder-decoder, and to it alone"
    )]
    WrongBatch {
        /// The class that loads the model.
        expected: &'static str,
    },
    /// A sequence has more rows than a model has learnt positions for.
    #[error("a sequence needs row {position} of the learnt positions, of which there are {rows}")]
    PositionOutOfRange {
        /// The row it needs.
        position: usize,
        /// The rows there are.
        rows: usize,
    },
    /// A file ends before what it announces.
    #[error("{path}: truncated or damaged: {what} needs {needed} bytes, {available} are left")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The part being read.
        what: String,
        /// The bytes that the part needs.
        needed: u64,
        /// The bytes there are.
        available: u64,
    },
    /// A header or index is larger than any real one.
    #[error("{path}: a header of {found} bytes; at most {limit} are read")]
    HeaderTooLarge {
        /// The file.
        path: PathBuf,
        /// The announced length.
        found: u64,
        /// The longest accepted.
        limit: u64,
    },
    /// Text that should be JSON of a certain form is not.
    #[error("{path}: {what}: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        what: &'static str,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A file lists the same tensor twice.
    #[error("{path}: tensor '{tensor}' is listed twice")]
    DuplicateTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor is said to lie outside of the file.
    #[error("{path}: tensor '{tensor}' is said to lie at bytes {start}..{end} of {available}")]
    TensorOffsets {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its first byte, counted from the start of the data.
        start: u64,
        /// The byte after its last.
        end: u64,
        /// The bytes of data in the file.
        available: u64,
    },
    /// Two tensors share bytes.
    #[error("{path}: tensors '{tensor}' and '{other}' overlap")]
    TensorOverlap {
        /// The file.
        path: PathBuf,
        /// The one that begins later.
        tensor: String,
        /// The one that begins first.
        other: String,
    },
    /// A tensor does not begin where the file's alignment wants it.
    #[error(
        "{path}: tensor '{tensor}' begins at byte {offset}, which is no multiple of the alignment {alignment}"
    )]
    TensorAlignment {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its first byte, counted from the start of the data.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A safetensors file has data that belong to no tensor.
    #[error("{path}: bytes {start}..{end} of the data belong to no tensor")]
    UnusedBytes {
        /// The file.
        path: PathBuf,
        /// The first such byte.
        start: u64,
        /// The byte after the last.
        end: u64,
    },
    /// A shape has more entries than can be counted.
    #[error("{path}: tensor '{tensor}' has the impossible shape {shape:?}")]
    ShapeOverflow {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape.
        shape: Vec<u64>,
    },
    /// The stored bytes of a tensor do not fit its shape and type.
    #[error("{path}: tensor '{tensor}': {dtype} of shape {shape:?} does not fit {found} bytes")]
    TensorSize {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The bytes it is said to have.
        found: u64,
    },
    /// A row of a tensor does not consist of whole blocks of its type.
    #[error("{path}: tensor '{tensor}': rows of {cols} are no whole number of {dtype} blocks")]
    TensorBlocks {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
        /// The length of its rows.
        cols: usize,
    },
    /// A tensor has more dimensions than the format knows.
    #[error("{path}: tensor '{tensor}' has {found} dimensions; at most {limit} are allowed")]
    TensorDimensions {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its number of dimensions.
        found: u32,
        /// The most allowed.
        limit: u32,
    },
    /// A tensor is stored in a type that cannot be read.
    #[error("{path}: tensor '{tensor}' is stored as {found}; supported are {supported}")]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
        /// The types that can be read.
        supported: String,
    },
    /// A checkpoint lacks a tensor.
    #[error("{path}: there is no tensor '{tensor}'{}", did_you_mean(.nearest))]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor looked for.
        tensor: String,
        /// The nearest name there is.
        nearest: Option<String>,
    },
    /// A tensor has another shape than the model needs.
    #[error("{path}: tensor '{tensor}' has shape {found:?}, expected {expected:?}")]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape the model needs.
        expected: Vec<usize>,
        /// The shape stored.
        found: Vec<usize>,
    },
    /// A tensor holds a NaN or an infinity.
    #[error("{path}: tensor '{tensor}' holds {value} at entry {index}")]
    NonFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The first such entry.
        index: usize,
        /// What it holds.
        value: f32,
    },
    /// Bytes are not the matrix they are said to be.
    #[error("matrix '{tensor}': {source}")]
    Matrix {
        /// The matrix.
        tensor: String,
        /// What does not fit.
        source: toktune_kernels::WeightError,
    },
    /// An index of shards names a file outside of its own folder.
    #[error(
        "{path}: tensor '{tensor}' is said to be in '{file}', which is not inside the folder of the index"
    )]
    ShardOutside {
        /// The index.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file it names.
        file: String,
    },
    /// An index of shards names a file that is not there.
    #[error("{path}: tensor '{tensor}' is said to be in '{file}', and there is no such file")]
    MissingShard {
        /// The index.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file it names.
        file: String,
    },
    /// An index of shards names a tensor that its file does not hold.
    #[error("{path}: tensor '{tensor}' is said to be in '{file}', which does not hold it")]
    MissingInShard {
        /// The index.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file it names.
        file: String,
    },
    /// A file named `.bin` is no archive of `torch.save`.
    #[error(
        "{path}: it begins with '{found}' instead of 'PK', so it is no file of torch 1.6 or later; if an earlier torch \
         wrote it, convert it: python -c \"import torch; f = 'pytorch_model.bin'; torch.save(torch.load(f, \
         map_location='cpu', weights_only=True), f)\""
    )]
    PytorchFormat {
        /// The file.
        path: PathBuf,
        /// Its first bytes, escaped.
        found: String,
    },
    /// An archive of `torch.save` is damaged or holds something else than a dictionary of tensors.
    #[error("{path}: {problem}")]
    PytorchArchive {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// The program that builds a dictionary of tensors is damaged or does something else.
    #[error("{path}: data.pkl, byte {at}: {problem}")]
    Pickle {
        /// The file.
        path: PathBuf,
        /// Where the instruction begins.
        at: u64,
        /// What was found.
        problem: String,
    },
    /// A file named `.gguf` is something else.
    #[error("{path}: not a GGUF file: it begins with '{found}' instead of 'GGUF'")]
    GgufMagic {
        /// The file.
        path: PathBuf,
        /// Its first bytes, escaped.
        found: String,
    },
    /// A GGUF file of a version that cannot be read.
    #[error("{path}: GGUF version {found}; versions 2 and 3, little-endian, are read")]
    GgufVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// One part of a model that is spread over several GGUF files.
    #[error("{path}: one of {parts} parts of a split model; join them first (llama-gguf-split --merge)")]
    GgufSplit {
        /// The file.
        path: PathBuf,
        /// How many parts there are.
        parts: u64,
    },
    /// A GGUF alignment that is no power of two.
    #[error("{path}: alignment {found}; a power of two is expected")]
    GgufAlignment {
        /// The file.
        path: PathBuf,
        /// The alignment.
        found: u64,
    },
    /// A name in a GGUF file is not text.
    #[error("{path}: {what} is not valid UTF-8")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The part being read.
        what: String,
    },
    /// A GGUF metadata value is of no known type.
    #[error("{path}: {what} has the unknown type {found}; types are 0 to 12")]
    MetadataUnknownType {
        /// The file.
        path: PathBuf,
        /// The part being read.
        what: String,
        /// The number found.
        found: u32,
    },
    /// GGUF metadata arrays within arrays, too deep.
    #[error("{path}: {what} holds arrays nested deeper than {limit}")]
    MetadataNesting {
        /// The file.
        path: PathBuf,
        /// The part being read.
        what: String,
        /// The deepest accepted.
        limit: usize,
    },
    /// A GGUF truth value that is neither 0 nor 1.
    #[error("{path}: {what} holds the truth value {found}; 0 or 1 is expected")]
    MetadataBool {
        /// The file.
        path: PathBuf,
        /// The part being read.
        what: String,
        /// The byte found.
        found: u8,
    },
    /// A GGUF file has the same metadata key twice.
    #[error("{path}: metadata '{key}' is there twice")]
    DuplicateMetadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A GGUF file lacks a metadata key.
    #[error("{path}: there is no metadata '{key}'{}", did_you_mean(.nearest))]
    MissingMetadata {
        /// The file.
        path: PathBuf,
        /// The key looked for.
        key: String,
        /// The nearest key there is.
        nearest: Option<String>,
    },
    /// A GGUF metadata value is of another type than needed.
    #[error("{path}: metadata '{key}' is {found}, expected {expected}")]
    MetadataType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is needed.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A key of a configuration is missing or cannot be used.
    #[error("{path}: {key}: {problem}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What was found and what was expected.
        problem: String,
    },
    /// The model belongs to no supported family.
    #[error("{path}: {found} is not supported{}; supported: {}", did_you_mean(.nearest), .supported.join(", "))]
    UnsupportedModel {
        /// The configuration or GGUF file.
        path: PathBuf,
        /// What the file says it is.
        found: String,
        /// The nearest supported name.
        nearest: Option<String>,
        /// Every supported name.
        supported: Vec<String>,
    },
    /// A token id has no row.
    #[error("token id {id} is out of range: the embedding has {rows} rows (0 to {})", .rows.saturating_sub(1))]
    TokenOutOfRange {
        /// The id.
        id: i64,
        /// Rows of the embedding.
        rows: usize,
    },
    /// No token was chosen.
    #[error("no token to train: token_indices is empty")]
    NoTokens,
    /// A token was chosen twice.
    #[error("token id {id} is in token_indices twice")]
    DuplicateToken {
        /// The id.
        id: u32,
    },
    /// `target_modules` is no valid regular expression.
    #[error("target_modules '{pattern}': {problem}")]
    Pattern {
        /// The expression.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// `target_modules` matches nothing.
    #[error("target_modules '{target}' matches no module; the model's embedding and head are {}", .matrices.join(", "))]
    NoTarget {
        /// The target.
        target: String,
        /// What could be targeted.
        matrices: Vec<String>,
    },
    /// `target_modules` matches a module that has no token rows.
    #[error("target_modules matches '{module}', which is no embedding or output head; those are {}", .matrices.join(", "))]
    NotATokenMatrix {
        /// The module.
        module: String,
        /// What could be targeted.
        matrices: Vec<String>,
    },
    /// A number that must be finite is not.
    #[error("not a finite number: {what}")]
    NotFinite {
        /// Where.
        what: String,
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
    /// A setting is outside its range.
    #[error("{name}: expected {expected}, found {found}")]
    Argument {
        /// The setting.
        name: &'static str,
        /// The range.
        expected: &'static str,
        /// The value.
        found: String,
    },
    /// A checkpoint belongs to a run with other settings or data.
    #[error("{path}: cannot resume: {name} was {found}, is {expected} now")]
    ResumeMismatch {
        /// The checkpoint's state.
        path: PathBuf,
        /// The setting.
        name: &'static str,
        /// Its value in the checkpoint.
        found: String,
        /// Its value now.
        expected: String,
    },
    /// Training left the finite numbers.
    #[error("step {step}: {source}; the last rows that gave a finite loss are in {folder}")]
    Diverged {
        /// The step that failed.
        step: u64,
        /// Where the last good rows were saved.
        folder: PathBuf,
        /// What was not finite.
        source: Box<Error>,
    },
    /// The output folder is in use.
    #[error("{folder} is not empty: it holds {}{}", .holds.join(", "),
        if *.is_run { "; go on with that run by --resume, or choose another folder" } else { "" })]
    OutputNotEmpty {
        /// The folder.
        folder: PathBuf,
        /// Whether it holds an earlier run.
        is_run: bool,
        /// Some of what is in it.
        holds: Vec<String>,
    },
    /// A generation option is out of range.
    #[error("{option} is {found}; expected {expected}")]
    GenerationOption {
        /// The option, as transformers names it.
        option: &'static str,
        /// Its value.
        found: f32,
        /// What would have been accepted.
        expected: &'static str,
    },
    /// There is nothing to continue.
    #[error("the prompt has no token; expected at least one, such as the beginning-of-text token")]
    EmptyPrompt,
    /// A prompt has more tokens than the model has positions.
    #[error("the prompt has {found} tokens; the model has {limit} positions (max_position_embeddings)")]
    PromptTooLong {
        /// Tokens of the prompt.
        found: usize,
        /// Positions of the model.
        limit: usize,
    },
    /// A model could not be had from the Hub.
    #[error("{id}: {problem}")]
    Hub {
        /// The model's id.
        id: String,
        /// What went wrong.
        problem: String,
    },
    /// `TOKTUNE_ISA` cannot be honoured.
    #[error(transparent)]
    Isa(#[from] toktune_kernels::isa::IsaError),
    /// The threads could not be set.
    #[error("cannot run on {threads} threads: {problem}")]
    Threads {
        /// The number asked for.
        threads: usize,
        /// What stands against it.
        problem: String,
    },
    /// A folder to be written holds something already.
    #[error("{path}: {found}; expected a new or empty folder")]
    OutputInUse {
        /// The folder.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// A model is to be merged into the folder it is read from.
    #[error("{path}: the model is read from this folder; expected another one to merge it into")]
    MergeOntoSource {
        /// The folder.
        path: PathBuf,
    },
    /// Something could not be put into its file format.
    #[error("cannot serialise: {0}")]
    Serialise(String),
    /// A tokenizer or a chat template is at fault.
    #[error(transparent)]
    Text(#[from] crate::text::TextError),
    /// An adapter is at fault.
    #[error(transparent)]
    Tuner(#[from] crate::tuners::TunerError),
    /// Training data is at fault.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// A tensor library call failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// For `map_err` on a file operation: the system's reason with the file's name.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}

/// The end of a message about a missing name.
fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean '{name}'?")).unwrap_or_default()
}

/// The name among `names` that is nearest to `wanted`, when it is near enough to be meant.
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wanted, name), name))
        .filter(|(distance, name)| *distance <= name.len().max(wanted.len()).div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
