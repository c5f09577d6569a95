//! What was chosen to be trained, and the data that it is looked for in.

use crate::data::Sources;
use std::collections::{HashMap, HashSet};
use toktune::data::DataOptions;
use toktune::text::AutoTokenizer;

/// The chosen tokens.
#[derive(Debug, Default)]
pub struct Chosen {
    /// Their ids, in the order of the adapter's rows.
    pub ids: Vec<u32>,
    /// Those that the tokenizer did not have, or had in reserve.
    pub added: HashSet<u32>,
    /// Whether the tokenizer is another one now, and so belongs to the adapter.
    pub changed_tokenizer: bool,
    /// The tokenizer as it was before tokens were added, where some were asked for.
    pub before: Option<AutoTokenizer>,
    /// Those that were added for `--word`.
    pub words: HashSet<u32>,
    /// Those of the chat template that the tokenizer has and the model never learnt.
    pub unlearnt: HashSet<u32>,
    /// Those of the chat template that are no label in the data: the model is to read them, and never to say them.
    pub only_read: HashSet<u32>,
    /// What a list says that tokens start from.
    pub listed_inits: HashMap<u32, String>,
}

/// What is looked at for tokens that the data decide.
#[derive(Clone, Copy)]
pub struct Texts<'t> {
    /// The data.
    pub sources: &'t Sources,
    /// How they are read.
    pub options: &'t DataOptions,
}
