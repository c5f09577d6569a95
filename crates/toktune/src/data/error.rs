//! What can be wrong with training data.

use crate::text::TextError;
use crate::weights::WeightsError;
use std::path::PathBuf;
use toktune_engine::EngineError;

use super::form::EXPECTED;
use super::kind::rows;
use super::{ModelKind, Source};

/// The result of everything in this module that can fail.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

/// A fault in a data file; every message begins with the file and the line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A line that is not UTF-8.
    #[error("{at}: not UTF-8 text")]
    NotText {
        /// The line.
        at: Source,
    },
    /// A line that is not JSON.
    #[error("{at}: not JSON: {reason}")]
    NotJson {
        /// The line.
        at: Source,
        /// The parser's reason with the column.
        reason: String,
    },
    /// A line that is JSON but not an object.
    #[error("{at}: found {found}, expected an object with keys")]
    NotObject {
        /// The line.
        at: Source,
        /// What is there.
        found: &'static str,
    },
    /// A row with none of the keys that make a row.
    #[error("{at}: found keys {found}, expected {EXPECTED}{}", did_you_mean(.nearest))]
    UnknownKeys {
        /// The line.
        at: Source,
        /// Its keys.
        found: String,
        /// A key of a known kind that is spelled alike.
        nearest: Option<&'static str>,
        /// Keys that look like a prompt's and a completion's.
        pair: Option<(&'static str, &'static str)>,
    },
    /// A row that could be read in two ways.
    #[error("{at}: found `{first}` and `{second}` in one row, expected {EXPECTED}")]
    MixedKeys {
        /// The line.
        at: Source,
        /// A key of one kind.
        first: &'static str,
        /// A key of another kind.
        second: &'static str,
    },
    /// A row that has one key of a pair.
    #[error("{at}: `{found}` without `{missing}`")]
    MissingKey {
        /// The line.
        at: Source,
        /// The key that is there.
        found: &'static str,
        /// The key that it needs.
        missing: &'static str,
    },
    /// A value of the wrong type.
    #[error("{at}: `{key}` is {found}, expected {expected}")]
    WrongType {
        /// The line.
        at: Source,
        /// The key, with the index where there is one.
        key: String,
        /// What is there.
        found: String,
        /// What would be understood.
        expected: &'static str,
    },
    /// A token id outside the model's vocabulary.
    #[error("{at}: `{key}` is {id}, expected an id below {vocab_size}, the model's number of rows")]
    TokenId {
        /// The line.
        at: Source,
        /// The key with the index.
        key: String,
        /// The id.
        id: i64,
        /// The number of rows.
        vocab_size: usize,
    },
    /// A text with a token that the model has no row for: the tokenizer has grown, the model has not.
    #[error(
        "{at}: token `{token}` has id {id}, but the model has {vocab_size} rows; add it to the \
         tokenizer that the embeddings are resized for"
    )]
    TokenBeyondModel {
        /// The line.
        at: Source,
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// The number of rows.
        vocab_size: usize,
    },
    /// Batches of another kind than a model takes.
    #[error("the rows were read for {}, and the model is one for {}; read them for this model", .made_for.auto_class(), .kind.auto_class())]
    OtherKind {
        /// What they were read for.
        made_for: ModelKind,
        /// What the model is.
        kind: ModelKind,
    },
    /// Labels that do not match the input.
    #[error("{at}: labels {} than input: {labels} labels, {inputs} input_ids", compared(*.labels, *.inputs))]
    LabelLength {
        /// The line.
        at: Source,
        /// The number of labels.
        labels: usize,
        /// The number of input ids.
        inputs: usize,
    },
    /// Padding that would be learnt.
    #[error(
        "{at}: `labels[{index}]` is {found} where `attention_mask` is 0, expected -100: padding is not learnt"
    )]
    PaddingLabel {
        /// The line.
        at: Source,
        /// The place.
        index: usize,
        /// The label.
        found: u32,
    },
    /// Weights that are not as many as the labels they are for.
    #[error("{at}: {weights} `loss_weights`, expected {labels}, one a label")]
    WeightLength {
        /// The line.
        at: Source,
        /// The number of weights.
        weights: usize,
        /// The number of labels.
        labels: usize,
    },
    /// A row without a single token.
    #[error("{at}: `{key}` is empty")]
    EmptyRow {
        /// The line.
        at: Source,
        /// The key.
        key: String,
    },
    /// A file without rows.
    #[error("{path}: no rows")]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// No files at all.
    #[error("no data files given")]
    NoFiles,
    /// A row that must be tokenised, and no tokenizer.
    #[error("{at}: `{key}` needs a tokenizer, and the model has none; expected `input_ids`")]
    NoTokenizer {
        /// The line.
        at: Source,
        /// The key.
        key: &'static str,
    },
    /// Two answers that are one.
    #[error("{at}: `chosen` and `rejected` are the same{with}; expected two answers that differ")]
    EqualAnswers {
        /// The line.
        at: Source,
        /// What they are the same with; nothing where they are as they stand.
        with: &'static str,
    },
    /// Two answers that have no prompt.
    #[error(
        "{at}: no `prompt`, and `chosen` and `rejected` do not begin alike; expected one prompt for both"
    )]
    NoSharedPrompt {
        /// The line.
        at: Source,
    },
    /// An answer of which nothing is left.
    #[error(
        "{at}: a `max_length` of {max_length} leaves nothing to learn of `{side}`: its prompt has {prompt} tokens"
    )]
    AnswerCut {
        /// The line.
        at: Source,
        /// The answer.
        side: &'static str,
        /// The length.
        max_length: usize,
        /// Tokens before the answer.
        prompt: usize,
    },
    /// Rows with two answers among others.
    #[error(
        "{pairs} of {rows} rows have `chosen` and `rejected`, and the others do not: they are learnt in different ways; train on one kind at a time"
    )]
    MixedPreferences {
        /// Rows with two answers.
        pairs: usize,
        /// All rows.
        rows: usize,
    },
    /// Loss on the completion of a row that has none.
    #[error(
        "{at}: `loss_on` is completion, but `{key}` has none; give rows of prompt and completion, or learn all"
    )]
    NoCompletion {
        /// The line.
        at: Source,
        /// The key.
        key: &'static str,
    },
    /// A row that a model of this kind cannot learn from.
    #[error("{at}: a row with `{key}` is not for {kind}; expected {}", rows(*.kind))]
    WrongKind {
        /// The line.
        at: Source,
        /// The key that the row is known by.
        key: &'static str,
        /// The kind of the model.
        kind: ModelKind,
    },
    /// A share of tokens to mask that is none.
    #[error("`mlm_probability` is {found}, expected more than 0 and at most 1")]
    MaskProbability {
        /// The share.
        found: f64,
    },
    /// A row without labels for a masked language model, and nothing to hide its tokens with.
    #[error(
        "{at}: a row with `{key}` and no labels is learnt by hiding some of its tokens, but the tokenizer has no mask token"
    )]
    NoMaskToken {
        /// Where.
        at: Source,
        /// The row's key.
        key: &'static str,
    },
    /// A token that batches are made with, and no row for it.
    #[error("the {what} has id {id}, but the model has {rows} rows")]
    NoSuchRow {
        /// Which token.
        what: &'static str,
        /// Its id.
        id: u32,
        /// The number of rows.
        rows: usize,
    },
    /// A row beyond the model's positions.
    #[error(
        "{at}: {tokens} tokens, but the model has {max_positions} positions; a `max_length` of \
         {max_positions} cuts rows"
    )]
    TooLong {
        /// The line.
        at: Source,
        /// The row's length after cutting.
        tokens: usize,
        /// The model's limit.
        max_positions: usize,
    },
    /// A length to cut at that leaves nothing.
    #[error("`max_length` is {found}, expected at least 1")]
    MaxLength {
        /// The length.
        found: usize,
    },
    /// No row leaves anything to learn.
    #[error("{}, but no label to learn from{}", counted(*.rows), explain_cut(*.cut_rows))]
    NoLabels {
        /// The number of rows.
        rows: usize,
        /// How many of them were cut by the length limit.
        cut_rows: usize,
    },
    /// The chat template failed on the messages of a row.
    #[error("{at}: {source}")]
    Chat {
        /// The line.
        at: Source,
        /// What the template says.
        source: Box<TextError>,
    },
    /// A switch of a message with a value that is none, or one that is not obeyed.
    #[error("{at}: `{key}` is {found}, expected {expected}")]
    MessageSwitch {
        /// The line.
        at: Source,
        /// The switch with its message.
        key: String,
        /// What is there.
        found: String,
        /// What would be understood.
        expected: &'static str,
    },
    /// A message with a switch whose words cannot be told from the text around them.
    #[error(
        "{at}: messages[{message}] has a switch, but its words cannot be found in the text that the chat template \
         writes; leave the switch out, or the message"
    )]
    SwitchedTurn {
        /// The line.
        at: Source,
        /// The message's index, from 0.
        message: usize,
    },
    /// A part of a message's content that is no text.
    #[error("{at}: `{key}` is {found}, expected a part of type `text`: only text is learnt")]
    ContentPart {
        /// The line.
        at: Source,
        /// The part with its message.
        key: String,
        /// What it is.
        found: String,
    },
    /// A saved position outside the data.
    #[error("saved position: row {offset} of an epoch, but the data has {rows} rows; is it the same data?")]
    Position {
        /// The saved offset.
        offset: usize,
        /// The number of rows.
        rows: usize,
    },
    /// A row that is longer than any that means well.
    #[error("{at}: the row is longer than {most} bytes; cut it into several")]
    RowTooLong {
        /// Where it begins.
        at: Source,
        /// The most bytes that a row may have.
        most: usize,
    },
    /// A row of a table with more or fewer cells than its heading.
    #[error("{at}: {found} cells, but the heading has {expected}")]
    CellCount {
        /// The line.
        at: Source,
        /// Cells of the row.
        found: u64,
        /// Cells of the heading.
        expected: u64,
    },
    /// A column of a type that no row of data has.
    #[error(
        "{at}: column `{column}` is of type {found}, expected text, numbers, or lists and structures of these"
    )]
    ColumnType {
        /// The row.
        at: Source,
        /// The column.
        column: String,
        /// Its type.
        found: String,
    },
    /// A file that cannot be unpacked or is not written as its name says.
    #[error("{path}: cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What its reader says.
        reason: String,
    },
    /// A key that the options name and a row lacks.
    #[error("{at}: no key `{missing}`; found keys {found}")]
    NoSuchKey {
        /// The line.
        at: Source,
        /// The key that was named.
        missing: String,
        /// The keys that are there.
        found: String,
    },
    /// Something that a row asks for and cannot have.
    #[error("{at}: `{key}`: {problem}")]
    NotObeyed {
        /// The line.
        at: Source,
        /// The key.
        key: String,
        /// What it asks for, and what would be understood.
        problem: String,
    },
    /// A weight that is none.
    #[error("{source_text}: the weight is {found}, expected more than 0 and at most 1000")]
    Weight {
        /// What was given.
        source_text: String,
        /// The weight in it.
        found: String,
    },
    /// A folder without data.
    #[error(
        "{path}: no data file in it; looked for .jsonl, .json, .csv, .tsv, .txt, .parquet and .arrow, also packed as .gz or .zst"
    )]
    NoDataFiles {
        /// The folder.
        path: PathBuf,
    },
    /// A folder with more files than a set of data has.
    #[error("{path}: more than {most} data files in it")]
    ManyFiles {
        /// The folder.
        path: PathBuf,
        /// The most that are read.
        most: usize,
    },
    /// A split that a folder does not have, or that could be one of several.
    #[error("{path}: no split `{wanted}`; splits found: {found}; name one as {path}:SPLIT")]
    NoSplit {
        /// The folder.
        path: PathBuf,
        /// The split that was looked for.
        wanted: String,
        /// Those that are there.
        found: String,
    },
    /// A folder of several sets, one of which must be meant.
    #[error("{path}: several sets with the same splits: {found}; name the folder of one")]
    ManyConfigurations {
        /// The folder.
        path: PathBuf,
        /// Their folders.
        found: String,
    },
    /// A set in several files, not all of which are there.
    #[error("{path}: {found} of its {all} files are there")]
    MissingShards {
        /// What the files have in common.
        path: PathBuf,
        /// How many there are.
        found: usize,
        /// How many there should be.
        all: usize,
    },
    /// Encoded rows that cannot be kept.
    #[error("{path}: encoded rows cannot be kept: {source}")]
    CacheWrite {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An example that is asked for and not there.
    #[error("example {index} of {examples}: examples are counted from 0")]
    NoSuchExample {
        /// Its index.
        index: usize,
        /// How many there are.
        examples: usize,
    },
    /// Encoded rows that are not as they were written.
    #[error(
        "example {example}: the file of encoded rows was changed since it was written; start again, or remove it"
    )]
    DamagedStore {
        /// The example.
        example: usize,
    },
    /// A batch size that holds no row.
    #[error("`batch_size` is 0, expected at least 1")]
    BatchSize,
    /// A file cannot be read or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A tokenizer or a chat template is at fault.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The engine cannot take it.
    #[error(transparent)]
    Engine(EngineError),
}

impl From<EngineError> for DataError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Weights(error) => error.into(),
            error => Self::Engine(error),
        }
    }
}

fn compared(labels: usize, inputs: usize) -> &'static str {
    if labels > inputs { "longer" } else { "shorter" }
}

fn did_you_mean(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |key| format!("; did you mean `{key}`?"))
}

fn explain_cut(cut_rows: usize) -> String {
    match cut_rows {
        0 => " (every label is -100, no message is the assistant's, or every row has a single token or special ones alone)"
            .to_owned(),
        1 => " (1 row was cut by `max_length` before its first label)".to_owned(),
        rows => format!(" ({rows} rows were cut by `max_length` before their first label)"),
    }
}

fn counted(rows: usize) -> String {
    if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") }
}
