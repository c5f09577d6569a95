//! The keys that rows are known by, and what a row of a text file is.

/// Keys of a user's own for what rows hold: `question` for the prompt, say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowKeys {
    /// The key of the prompt, in the place of `prompt`.
    pub prompt: Option<String>,
    /// The key of the completion, in the place of `completion`.
    pub completion: Option<String>,
    /// The key of the text, in the place of `text`.
    pub text: Option<String>,
}

/// What a row of a plain text file is; `datasets` calls it so too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SampleBy {
    /// A line.
    #[default]
    Line,
    /// What stands between blank lines.
    Paragraph,
    /// The whole file.
    Document,
}

impl SampleBy {
    /// Every way with its name.
    pub const NAMES: [(&'static str, SampleBy); 3] =
        [("line", Self::Line), ("paragraph", Self::Paragraph), ("document", Self::Document)];
}
