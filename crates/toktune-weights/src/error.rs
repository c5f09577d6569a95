//! What can be wrong with the files of a model's weights.

use crate::nearest::did_you_mean;
use std::path::PathBuf;

/// The result of everything in this crate that can fail.
pub type Result<T, E = WeightsError> = std::result::Result<T, E>;

/// A fault in a file of weights, in what an index says of several, or at writing one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
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
    /// A name in a file is not text.
    #[error("{path}: {what} is not valid UTF-8")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The part being read.
        what: String,
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
    /// A folder to be written holds something already.
    #[error("{path}: {found}; expected a new or empty folder")]
    OutputInUse {
        /// The folder.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// Something could not be put into its file format.
    #[error("cannot serialise: {0}")]
    Serialise(String),
    /// Rows or entries to be written into a copy of a file do not fit what is there.
    #[error("{path}: '{what}': {found}; expected {expected}")]
    Patch {
        /// The file that is copied.
        path: PathBuf,
        /// The tensor or key.
        what: String,
        /// What was to be written.
        found: String,
        /// What would fit.
        expected: String,
    },
    /// A range of bytes does not lie in the memory that it is said to be of.
    #[error("matrix '{tensor}' is said to lie at bytes {start}..{end} of {available}")]
    MatrixRange {
        /// The matrix.
        tensor: String,
        /// Its first byte.
        start: usize,
        /// The byte after its last.
        end: usize,
        /// The bytes there are.
        available: usize,
    },
    /// Memory that a matrix borrows does not begin where its type wants it.
    #[error(
        "matrix '{tensor}' begins at an address that is {found} beyond a multiple of {expected}, the alignment of {dtype}"
    )]
    MatrixAlignment {
        /// The matrix.
        tensor: String,
        /// Its type.
        dtype: &'static str,
        /// The alignment of the type, in bytes.
        expected: usize,
        /// How many bytes it begins behind a multiple of that.
        found: usize,
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
    /// A file lists the same tensor twice.
    #[error("{path}: tensor '{tensor}' is listed twice")]
    DuplicateTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// Two tensors that a model has one matrix for hold different rows.
    #[error(
        "{path}: '{tensor}' and '{other}' hold different rows; a model in which they are two matrices is not supported"
    )]
    DifferentCopies {
        /// The file.
        path: PathBuf,
        /// One of them.
        tensor: String,
        /// The other.
        other: String,
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
    /// The weights are quantised in a way that is not read.
    #[error(
        "{path}: the weights are quantised by {method} ({evidence}), which is not read; take the model of 16 bits that \
         they were made from, or a GGUF file of it"
    )]
    Quantised {
        /// The file that says so.
        path: PathBuf,
        /// The method.
        method: String,
        /// By what it is known.
        evidence: String,
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
    /// A file named `.bin` is none of `torch.save`.
    #[error("{path}: it begins with '{found}', so it is no file that torch saved")]
    PytorchFormat {
        /// The file.
        path: PathBuf,
        /// Its first bytes, escaped.
        found: String,
    },
    /// A tar archive: what `torch.save` wrote before torch 0.1.10.
    #[error("{path}: a tar archive, as torch wrote before 0.1.10; save it again with a later torch")]
    PytorchTar {
        /// The file.
        path: PathBuf,
    },
    /// A file of `torch.save` is damaged or holds something else than a dictionary of tensors.
    #[error("{path}: {problem}")]
    PytorchArchive {
        /// The file.
        path: PathBuf,
        /// What was found.
        problem: String,
    },
    /// The program that builds a dictionary of tensors is damaged or does something else.
    #[error("{path}: pickle, byte {at}: {problem}")]
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
    /// One part of a model that is spread over several GGUF files, whose name does not lead to the others.
    #[error(
        "{path}: one of {parts} parts of a model; they are found by its file's name, which must be as it was given: \
         name-00001-of-{parts:05}.gguf"
    )]
    GgufSplit {
        /// The file.
        path: PathBuf,
        /// How many parts there are.
        parts: u64,
    },
    /// A part of a model that is spread over several GGUF files is not there.
    #[error("{path}: one of several parts of a model, and there is no '{}' beside it", .part.display())]
    GgufMissingPart {
        /// The file that was opened.
        path: PathBuf,
        /// The missing one.
        part: PathBuf,
    },
    /// A part of a model that is spread over several GGUF files says something else of itself than the others do.
    #[error("{path}: '{key}' is {found}, and by the other parts of the model it is {expected}")]
    GgufPart {
        /// The file.
        path: PathBuf,
        /// What is compared.
        key: &'static str,
        /// What the file has.
        found: u64,
        /// What it should have.
        expected: u64,
    },
    /// A GGUF alignment that is no power of two.
    #[error("{path}: alignment {found}; a power of two is expected")]
    GgufAlignment {
        /// The file.
        path: PathBuf,
        /// The alignment.
        found: u64,
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
}

impl WeightsError {
    /// For `map_err` on a file operation: the system's reason with the file's name.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> WeightsError {
        let path = path.into();
        move |source| WeightsError::Io { path, source }
    }
}
