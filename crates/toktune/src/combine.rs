//! One adapter of several: the trained rows of all, their tokens put together by what they are called.
//!
//! Two adapters that added tokens to one model gave them the same ids. Their tokenizers say what each id is called, so that the
//! tokens of the second and later ones get new ids where they need them. A token that several have with different rows is a conflict.
//! Files alone are read: the model is not needed.

use crate::config::{CONFIG_FILE, ConfigError, PeftConfig, TrainableTokensConfig};
use crate::peft::{ADAPTER_FILE, StateDict, adapter_file};
use crate::text::{AutoTokenizer, TextError};
use crate::weights::{
    Checkpoint, RowOrder, TensorHeader, WeightsError, write_atomically, write_folder_atomically,
    write_safetensors,
};
use serde_json::Map;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The end of the keys that trained rows have.
const ROWS: &str = ".trainable_tokens_delta";

/// What becomes of a token that several adapters have with different rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// Nothing is written.
    #[default]
    Error,
    /// The first adapter's row counts.
    First,
    /// The mean of all.
    Mean,
}

/// The result of what can fail here.
type Result<T, E = CombineError> = std::result::Result<T, E>;

/// Why adapters cannot be combined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CombineError {
    /// There are not two.
    #[error("expected at least two adapters, found {found}")]
    TooFew {
        /// How many there are.
        found: usize,
    },
    /// An adapter has more than trained rows.
    #[error("{folder}: expected an adapter of trained rows alone, found {found}")]
    Kind {
        /// The adapter's folder.
        folder: PathBuf,
        /// What it has.
        found: String,
    },
    /// A tensor is not that of the tokens that the configuration names.
    #[error("{folder}: {key} has {found} rows, and {CONFIG_FILE} names {expected} tokens")]
    Rows {
        /// The adapter's folder.
        folder: PathBuf,
        /// The tensor.
        key: String,
        /// Its rows.
        found: usize,
        /// The tokens.
        expected: usize,
    },
    /// Adapters train other matrices, or of other widths.
    #[error("{folder}: trains {found}, and {first} trains {expected}")]
    Layers {
        /// The adapter's folder.
        folder: PathBuf,
        /// The first one's.
        first: PathBuf,
        /// Its matrices.
        found: String,
        /// Those of the first.
        expected: String,
    },
    /// Their tokenizers are of different vocabularies.
    #[error(
        "{folder}: token {id} is `{found}`, and `{expected}` in {first}: these are adapters of different models"
    )]
    Vocabulary {
        /// The adapter's folder.
        folder: PathBuf,
        /// The first one's.
        first: PathBuf,
        /// The token.
        id: u32,
        /// What it is called.
        found: String,
        /// What the first calls it.
        expected: String,
    },
    /// An adapter without a tokenizer has a token that another one added.
    #[error(
        "{folder}: has no tokenizer that names token {id}, which {other} calls `{name}`: expected the tokenizer that it was trained with"
    )]
    Unnamed {
        /// The adapter's folder.
        folder: PathBuf,
        /// The token.
        id: u32,
        /// The adapter that has a name for it.
        other: PathBuf,
        /// The name.
        name: String,
    },
    /// Tokens that several adapters have with different rows.
    #[error("several adapters have other rows for {}", .tokens.join(", "))]
    Conflicts {
        /// What they are called.
        tokens: Vec<String>,
    },
    /// A fault of a configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A fault of a tokenizer.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A fault of a file.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// What adapters were combined to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Combined {
    /// The tokens of the new adapter, in the order of its rows.
    pub tokens: Vec<u32>,
    /// Tokens that got another id: their name, the adapter, the id that they had there and the one they have now.
    pub renumbered: Vec<(String, PathBuf, u32, u32)>,
    /// Tokens that several adapters had with different rows.
    pub conflicts: Vec<String>,
    /// The bases that the adapters name, if they name different ones.
    pub bases: Vec<String>,
}

/// An adapter as its files have it.
struct Part {
    folder: PathBuf,
    config: TrainableTokensConfig,
    rows: StateDict,
    tokenizer: Option<AutoTokenizer>,
}

impl Part {
    fn read(folder: &Path) -> Result<Self> {
        let kind = |found: String| CombineError::Kind { folder: folder.to_path_buf(), found };
        let config = match PeftConfig::from_pretrained(folder)? {
            PeftConfig::TrainableTokens(config) => config,
            other => return Err(kind(other.peft_type().to_owned())),
        };
        let stored = Checkpoint::open(&adapter_file(folder))?;
        let mut rows = StateDict::new();
        for key in stored.names() {
            // a whole embedding that is stored beside them is the base's
            if key.ends_with(".base_layer.weight") {
                continue;
            }
            let Some(&[count, width]) = stored.shape(key).filter(|_| key.ends_with(ROWS)) else {
                return Err(kind(key.to_owned()));
            };
            let expected = config.token_indices.len();
            if count != expected {
                let (folder, key) = (folder.to_path_buf(), key.to_owned());
                return Err(CombineError::Rows { folder, key, found: count, expected });
            }
            rows.insert(key.to_owned(), stored.matrix(key, count, width, RowOrder::Plain)?);
        }
        let tokenizer = match AutoTokenizer::from_pretrained(folder) {
            Ok(tokenizer) => Some(tokenizer),
            Err(TextError::NoTokenizerFile { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { folder: folder.to_path_buf(), config, rows, tokenizer })
    }

    /// The matrices that are trained, with their widths.
    fn layers(&self) -> String {
        let of = |(key, rows): (&String, &crate::weights::FrozenMatrix)| {
            format!("{} (width {})", key.trim_end_matches(ROWS), rows.cols())
        };
        self.rows.iter().map(of).collect::<Vec<_>>().join(", ")
    }

    fn name(&self, id: u32) -> String {
        self.tokenizer.as_ref().and_then(|tokenizer| tokenizer.id_to_token(id)).unwrap_or(id.to_string())
    }
}

/// Rows by their keys, for each token; `counts` says of how many adapters each is the sum.
#[derive(Default)]
struct Union {
    tokens: Vec<u32>,
    rows: HashMap<u32, BTreeMap<String, Vec<f64>>>,
    counts: HashMap<u32, usize>,
}

/// Writes the adapter that has the rows of all `folders` into the new folder `output`.
///
/// # Errors
/// There are fewer than two; one has more than trained rows, or is of another model or other matrices than the first; tokens conflict
/// and `on_conflict` allows none; a file cannot be read or written. Then nothing is written.
pub fn combine_adapters(folders: &[PathBuf], output: &Path, on_conflict: OnConflict) -> Result<Combined> {
    if folders.len() < 2 {
        return Err(CombineError::TooFew { found: folders.len() });
    }
    let parts: Vec<Part> = folders.iter().map(|folder| Part::read(folder)).collect::<Result<_>>()?;
    let first = &parts[0];
    parts[1..].iter().try_for_each(|part| check(first, part))?;
    parts.iter().try_for_each(|part| check_names(part, &parts))?;
    let mut tokenizer = parts.iter().find_map(|part| part.tokenizer.clone());
    let (mut union, mut combined) = (Union::default(), Combined::default());
    for part in &parts {
        for (at, &id) in part.config.token_indices.iter().enumerate() {
            let now = place(part, id, tokenizer.as_mut())?;
            if now != id {
                combined.renumbered.push((part.name(id), part.folder.clone(), id, now));
            }
            let row = |(key, rows): (&String, &crate::weights::FrozenMatrix)| {
                (key.clone(), rows.decode_rows(at..at + 1).into_iter().map(f64::from).collect::<Vec<f64>>())
            };
            if union.add(now, part.rows.iter().map(row).collect(), on_conflict) {
                combined.conflicts.push(part.name(id));
            }
        }
    }
    combined.conflicts.sort();
    combined.conflicts.dedup();
    if on_conflict == OnConflict::Error && !combined.conflicts.is_empty() {
        return Err(CombineError::Conflicts { tokens: combined.conflicts });
    }
    let bases = parts.iter().filter_map(|part| part.config.common.base_model_name_or_path.clone());
    combined.bases = bases.collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    if combined.bases.len() < 2 {
        combined.bases.clear();
    }
    combined.tokens = union.tokens.clone();
    write_folder_atomically(output, |folder| write(folder, first, &union, tokenizer.as_ref()))?;
    Ok(combined)
}

/// Whether two adapters are of one model and one kind.
fn check(first: &Part, part: &Part) -> Result<()> {
    let folders = || (part.folder.clone(), first.folder.clone());
    if part.layers() != first.layers() {
        let (folder, first_folder) = folders();
        let (found, expected) = (part.layers(), first.layers());
        return Err(CombineError::Layers { folder, first: first_folder, found, expected });
    }
    let (Some(of_part), Some(of_first)) = (&part.tokenizer, &first.tokenizer) else { return Ok(()) };
    let own: HashSet<u32> =
        part.config.token_indices.iter().chain(&first.config.token_indices).copied().collect();
    let known = of_part.required_rows().min(of_first.required_rows()) as u32;
    for id in (0..known).filter(|id| !own.contains(id)) {
        if let (Some(found), Some(expected)) = (of_part.id_to_token(id), of_first.id_to_token(id))
            && found != expected
        {
            let (folder, first) = folders();
            return Err(CombineError::Vocabulary { folder, first, id, found, expected });
        }
    }
    Ok(())
}

/// Whether an adapter without a tokenizer has tokens that another one added: its own are called otherwise, and nobody knows how.
fn check_names(part: &Part, parts: &[Part]) -> Result<()> {
    if part.tokenizer.is_some() {
        return Ok(());
    }
    for other in parts {
        let Some(tokenizer) = &other.tokenizer else { continue };
        for &id in &part.config.token_indices {
            let token = tokenizer.new_token(id).filter(|_| other.config.token_indices.contains(&id));
            if let Some(token) = token {
                let (folder, other) = (part.folder.clone(), other.folder.clone());
                return Err(CombineError::Unnamed { folder, id, other, name: token.content });
            }
        }
    }
    Ok(())
}

/// The id of a part's token among the tokens of all, to which it is added where they lack it; one that is special in any part is
/// special.
fn place(part: &Part, id: u32, all: Option<&mut AutoTokenizer>) -> Result<u32> {
    let (Some(own), Some(all)) = (&part.tokenizer, all) else { return Ok(id) };
    let Some(name) = own.id_to_token(id) else { return Ok(id) };
    let token = match (own.new_token(id), all.token_to_id(&name)) {
        (None, Some(known)) => return Ok(known),
        (None, None) => crate::text::NewToken::new(name),
        (Some(token), _) => token,
    };
    Ok(all.add_new_tokens(&[token])?.first().copied().unwrap_or(id))
}

impl Union {
    /// Adds a token's rows; whether it had others.
    fn add(&mut self, id: u32, rows: BTreeMap<String, Vec<f64>>, on_conflict: OnConflict) -> bool {
        let Some(known) = self.rows.get_mut(&id) else {
            self.tokens.push(id);
            self.counts.insert(id, 1);
            self.rows.insert(id, rows);
            return false;
        };
        let count = self.counts.entry(id).or_insert(1);
        let is_other = rows.iter().any(|(key, row)| {
            known.get(key).is_none_or(|sum| sum.iter().zip(row).any(|(sum, x)| *sum != x * *count as f64))
        });
        if on_conflict == OnConflict::Mean {
            *count += 1;
            for (key, row) in rows {
                let sum = known.entry(key).or_insert_with(|| vec![0.0; row.len()]);
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
        }
        is_other
    }

    /// The rows under a key, as they are stored.
    fn bytes(&self, key: &str) -> Vec<u8> {
        let row = |id: &u32| {
            let count = self.counts.get(id).copied().unwrap_or(1) as f64;
            let row = self.rows.get(id).and_then(|rows| rows.get(key)).cloned().unwrap_or_default();
            row.into_iter().map(move |x| (x / count) as f32)
        };
        self.tokens.iter().flat_map(row).flat_map(f32::to_le_bytes).collect()
    }
}

fn write(folder: &Path, first: &Part, union: &Union, tokenizer: Option<&AutoTokenizer>) -> Result<()> {
    let tensors: Vec<(TensorHeader, Vec<u8>)> = first
        .rows
        .iter()
        .map(|(key, rows)| {
            let bytes = union.bytes(key);
            let shape = vec![union.tokens.len(), rows.cols()];
            (TensorHeader { name: key.clone(), dtype: "F32".into(), shape, bytes: bytes.len() as u64 }, bytes)
        })
        .collect();
    let headers: Vec<TensorHeader> = tensors.iter().map(|(header, _)| header.clone()).collect();
    let metadata = Map::from_iter([("format".to_owned(), "pt".into())]);
    let path = folder.join(ADAPTER_FILE);
    write_safetensors(&path, &metadata, &headers, |at, out| out.put(&tensors[at].1))?;
    let mut config = first.config.clone();
    config.token_indices = union.tokens.clone();
    config.common.inference_mode = true;
    let (path, json) = (folder.join(CONFIG_FILE), PeftConfig::from(config).to_json()?);
    let write = |file: &mut File| file.write_all(json.as_bytes()).map_err(WeightsError::io(&path));
    write_atomically(&path, write)?;
    tokenizer.map_or(Ok(()), |tokenizer| Ok(tokenizer.save_pretrained(folder)?))
}
