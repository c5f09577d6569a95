//! What can be wrong with a tokenizer or a chat template.

use std::path::PathBuf;
use toktune_weights::WeightsError;

/// The result of everything in this crate that can fail.
pub type Result<T, E = TextError> = std::result::Result<T, E>;

/// A fault in a tokenizer's files, a GGUF file's tokenizer metadata, an added token or a chat template.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A tokenizer is to go into a GGUF file that has another one.
    #[error(
        "the tokenizer is not the file's with more tokens: id {id} is {found:?}, in the file it is {expected:?}"
    )]
    OtherTokenizer {
        /// The first id that differs.
        id: u32,
        /// The tokenizer's spelling.
        found: String,
        /// The file's spelling.
        expected: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A GGUF file is at fault, or a file could not be put in its place.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A folder without a tokenizer.
    #[error(
        "{dir}: no tokenizer.json, and no vocabulary file of another kind (vocab.json, vocab.txt, tokenizer.model)"
    )]
    NoTokenizerFile {
        /// The folder.
        dir: PathBuf,
    },
    /// A token that is not in the vocabulary.
    #[error("`{token}` is no token of this tokenizer{}", did_you_mean(.nearest))]
    NoToken {
        /// What was asked for.
        token: String,
        /// The nearest token there is.
        nearest: Option<String>,
    },
    /// A `tokenizer.json` that the tokenizers crate cannot read.
    #[error("{path}: not a tokenizer: {reason}")]
    TokenizerFile {
        /// The file.
        path: PathBuf,
        /// The crate's reason.
        reason: String,
    },
    /// A file that is not JSON, or not a JSON object.
    #[error("{path}: not a JSON object: {reason}")]
    JsonFile {
        /// The file.
        path: PathBuf,
        /// What the parser met.
        reason: String,
    },
    /// A field of `tokenizer_config.json` (or a file beside it) with a value of the wrong type.
    #[error("{path}: field `{field}` is {found}, expected {expected}")]
    ConfigField {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What is there, shortened.
        found: String,
        /// What would be understood.
        expected: &'static str,
    },
    /// A token that the configuration places at one id and the tokenizer at another.
    #[error("{path}: token `{token}` is said to be id {expected}, but the tokenizer gives it id {found}")]
    AddedTokenId {
        /// The file.
        path: PathBuf,
        /// The token.
        token: String,
        /// The id the tokenizer gives.
        found: u32,
        /// The id the file states.
        expected: u64,
    },
    /// A vocabulary whose highest id is out of proportion to the number of its tokens.
    #[error(
        "{path}: a token has the id {id}, and the vocabulary has {tokens} tokens; expected ids up to {most}"
    )]
    IdTooHigh {
        /// The file.
        path: PathBuf,
        /// The highest id.
        id: u64,
        /// How many tokens there are.
        tokens: u64,
        /// The highest id that would be taken.
        most: u64,
    },
    /// More tokens than the vocabulary has reserved ones.
    #[error(
        "the vocabulary has {found} reserved tokens (as `<|reserved_special_token_0|>`, `<unused0>` or `[unused0]`), \
         and {wanted} are to be renamed"
    )]
    TooFewReserved {
        /// How many there are.
        found: usize,
        /// How many are wanted.
        wanted: usize,
    },
    /// A word for which no token can be found or added.
    #[error("no token for the word `{word}`: {reason}")]
    Word {
        /// The word.
        word: String,
        /// Why not.
        reason: String,
    },
    /// A vocabulary file of an older kind, or a list of tokens, that cannot be understood.
    #[error("{path}: {reason}")]
    VocabularyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder whose tokenizer is of a class that is not built here from its vocabulary files.
    #[error(
        "{dir}: no tokenizer.json, and {class} is not built from {}; save the tokenizer once with transformers' \
         save_pretrained to get tokenizer.json", .found.join(", ")
    )]
    TokenizerClass {
        /// The folder.
        dir: PathBuf,
        /// transformers' class.
        class: String,
        /// The vocabulary files that are there.
        found: Vec<&'static str>,
    },
    /// A language that the tokenizer has no token for.
    #[error("the tokenizer has no token for the language `{found}`{}; its languages are {known}", did_you_mean(.nearest))]
    Language {
        /// What was asked for.
        found: String,
        /// The nearest language there is.
        nearest: Option<String>,
        /// Those there are, shortened.
        known: String,
    },
    /// A language for a tokenizer whose frame has none.
    #[error("the tokenizer ({class}) has no languages; those of NLLB, mBART and M2M100 have")]
    NoLanguages {
        /// transformers' class.
        class: String,
    },
    /// An empty string among the tokens to add.
    #[error("cannot add an empty token (number {index} of the list)")]
    EmptyToken {
        /// Its place in the list, from 1.
        index: usize,
    },
    /// The tokenizers crate failed at encoding, decoding, adding or writing.
    #[error("tokenizer: cannot {action}: {reason}")]
    Tokenizer {
        /// What was tried.
        action: &'static str,
        /// The crate's reason.
        reason: String,
    },
    /// GGUF: a kind of tokenizer that is not built here.
    #[error("GGUF: tokenizer.ggml.model is `{found}`; supported: {supported}")]
    GgufModel {
        /// The kind in the file.
        found: String,
        /// The kinds known here.
        supported: String,
    },
    /// GGUF: a rule for splitting text that is not known here.
    #[error("GGUF: tokenizer.ggml.pre is `{found}`{}; supported: {supported}", did_you_mean(.nearest))]
    GgufPreTokenizer {
        /// The rule in the file.
        found: String,
        /// The nearest known name.
        nearest: Option<String>,
        /// The rules known here.
        supported: String,
    },
    /// GGUF: no tokens at all.
    #[error("GGUF: tokenizer.ggml.tokens is empty")]
    GgufNoTokens,
    /// GGUF: an array that must have one entry a token has another length.
    #[error("GGUF: {array} has {found} entries, expected {expected} (one a token)")]
    GgufLength {
        /// The array's key.
        array: &'static str,
        /// Its length.
        found: usize,
        /// The number of tokens.
        expected: usize,
    },
    /// GGUF: the id of a named token lies outside the vocabulary.
    #[error("GGUF: {key} is {id}, but the vocabulary has {tokens} tokens")]
    GgufTokenId {
        /// The key that holds the id.
        key: &'static str,
        /// The id.
        id: u32,
        /// The number of tokens.
        tokens: usize,
    },
    /// GGUF: a token type outside llama.cpp's list.
    #[error("GGUF: token {index} (`{token}`) has type {found}, expected 0 to 6")]
    GgufTokenType {
        /// The token's id.
        index: usize,
        /// The token.
        token: String,
        /// The type in the file.
        found: i32,
    },
    /// GGUF: one spelling with two ids.
    #[error("GGUF: tokens {first} and {second} are both spelled `{token}`")]
    GgufDuplicateToken {
        /// The spelling.
        token: String,
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// GGUF: a merge that is not two tokens of the vocabulary whose concatenation is one too.
    #[error("GGUF: merge {index} (`{merge}`): {reason}")]
    GgufMerge {
        /// The merge's place in the list, from 0.
        index: usize,
        /// The merge as the file has it.
        merge: String,
        /// What is wrong with it.
        reason: String,
    },
    /// GGUF: a byte-level vocabulary without merges, which no text can be encoded with.
    #[error("GGUF: tokenizer.ggml.merges is empty; a `gpt2` tokenizer needs its merges")]
    GgufNoMerges,
    /// Messages were given, but the tokenizer has no chat template.
    #[error(
        "the tokenizer has no chat template; expected chat_template.jinja or `chat_template` in \
         tokenizer_config.json"
    )]
    NoChatTemplate,
    /// A chat template that cannot be parsed.
    #[error("chat template: {reason}")]
    TemplateSyntax {
        /// The parser's reason with the line.
        reason: String,
    },
    /// A chat template that failed on these messages.
    #[error("chat template: {reason}")]
    TemplateRender {
        /// The engine's reason with the line.
        reason: String,
    },
    /// A chat template that refused the messages by `raise_exception`.
    #[error("the chat template refuses the messages: {reason}")]
    TemplateRefused {
        /// The template's own words.
        reason: String,
    },
    /// A chat template that ran too long or wrote too much, by a fault or on purpose.
    #[error("chat template: stopped: {reason}")]
    TemplateLimit {
        /// Which bound was met.
        reason: String,
    },
}

/// ", did you mean `x`?" when there is a near name.
fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}

impl TextError {
    /// For `map_err` on a file operation: the system's reason with the file's name.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> TextError {
        let path = path.into();
        move |source| TextError::Io { path, source }
    }

    /// For `map_err` on a call of the tokenizers crate.
    pub(crate) fn tokenizer(action: &'static str) -> impl FnOnce(tokenizers::Error) -> TextError {
        move |reason| TextError::Tokenizer { action, reason: reason.to_string() }
    }
}
