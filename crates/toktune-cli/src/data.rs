//! Data: what its flags name, where that lies, and how far reading it has come.

use crate::args::DataArgs;
use crate::failure::{Failure, Outcome, usage};
use crate::load::Tokenizer;
use crate::report;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use toktune::data::{Collator, DataCache, DataError, DataOptions, DataSource, Dataset, RowKeys};
use toktune::models::PretrainedModel;

/// Data of fewer bytes are encoded in a moment, and a cache would only leave files behind.
const CACHED_FROM: u64 = 4_000_000;

/// What the flags say of reading for a model with `rows` rows.
pub fn options(args: &DataArgs, collator: &Collator, rows: usize) -> DataOptions {
    let (prompt, completion) = (args.prompt_key.clone(), args.completion_key.clone());
    let mut options = DataOptions::new(rows);
    options.collator = collator.clone();
    options.loss_on = args.loss_on;
    options.max_length = args.max_length;
    options.keys = RowKeys { prompt, completion, text: args.text_key.clone() };
    options.sample_by = args.sample_by;
    options.cache = cache(args.data_cache.as_deref());
    options
}

/// Where encoded rows are kept.
fn cache(folder: Option<&Path>) -> Option<DataCache> {
    match folder {
        Some(none) if none == Path::new("none") => None,
        Some(folder) => Some(DataCache { folder: folder.to_path_buf(), least_bytes: 0 }),
        None => Some(DataCache { folder: users_cache()?.join("toktune/rows"), least_bytes: CACHED_FROM }),
    }
}

/// The user's cache folder, as the system has it.
fn users_cache() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || set("HOME");
    set("XDG_CACHE_HOME").or_else(|| match std::env::consts::OS {
        "macos" => Some(home()?.join("Library/Caches")),
        "windows" => set("LOCALAPPDATA"),
        _ => Some(home()?.join(".cache")),
    })
}

/// The sources of data flags, once they lie on this machine.
#[derive(Debug, Default)]
pub struct Sources {
    /// What is read.
    pub list: Vec<DataSource>,
    /// What can be read once (the standard input, pipes), in files that are kept for as long as this is.
    kept: Vec<(PathBuf, NamedTempFile)>,
}

impl Sources {
    /// Finds what `named` names: files and folders, `-`, and sets of the Hub. `weighted` is whether rows may have weights.
    pub fn find(named: &[String], weighted: bool) -> Outcome<Self> {
        let mut sources = Sources::default();
        for text in named {
            let source = sources.one(text)?;
            if !weighted && source.weight != 1.0 {
                return usage(format!("{text}: rows are weighted for training alone"));
            }
            sources.list.push(source);
        }
        Ok(sources)
    }

    fn one(&mut self, text: &str) -> Outcome<DataSource> {
        let failed = |error: DataError| Failure::Usage(format!("--data {error}"));
        if let Some(named) = text.strip_prefix("hf:").filter(|_| !Path::new(text).exists()) {
            return from_hub(DataSource::parse(named).map_err(failed)?);
        }
        let source = DataSource::parse(text).map_err(failed)?;
        let is_input = source.path == Path::new("-");
        if !is_input && (source.path.is_file() || source.path.is_dir() || !source.path.exists()) {
            return Ok(source);
        }
        let shown = if is_input { "standard input".to_owned() } else { source.shown() };
        let path = self.keep(&source.path, is_input, &shown)?;
        Ok(DataSource { path, name: Some(shown), ..source })
    }

    /// A file with what can be read once of `path`: rows are read more than once.
    fn keep(&mut self, path: &Path, is_input: bool, shown: &str) -> Outcome<PathBuf> {
        if let Some((_, file)) = self.kept.iter().find(|(kept, _)| kept == path) {
            return Ok(file.path().to_path_buf());
        }
        let copied = || -> std::io::Result<NamedTempFile> {
            let mut file = NamedTempFile::new()?;
            match is_input {
                true => std::io::copy(&mut std::io::stdin().lock(), &mut file)?,
                false => std::io::copy(&mut std::fs::File::open(path)?, &mut file)?,
            };
            file.flush()?;
            Ok(file)
        };
        let file = copied().map_err(|error| Failure::Failed(format!("{shown}: {error}")))?;
        let kept = file.path().to_path_buf();
        self.kept.push((path.to_path_buf(), file));
        Ok(kept)
    }
}

/// The Hub's copy of a set of data.
#[cfg(feature = "hub")]
fn from_hub(source: DataSource) -> Outcome<DataSource> {
    let name = source.path.to_string_lossy().into_owned();
    let mut tell = |file: &str| report::note(&format!("fetching {file} of {name}"));
    Ok(toktune::hub::data_set(&name, source, &mut tell)?)
}

/// Without the client nothing can be fetched.
#[cfg(not(feature = "hub"))]
fn from_hub(source: DataSource) -> Outcome<DataSource> {
    let name = source.path.display();
    Err(Failure::Failed(format!("hf:{name}: this toktune was built without the Hub (--features hub)")))
}

/// Reads sources for `model`, to be made into batches by `collator`.
pub fn read(
    sources: &Sources,
    tokenizer: &Tokenizer,
    args: &DataArgs,
    model: &PretrainedModel,
    collator: &Collator,
) -> Outcome<Dataset> {
    let of_model = DataOptions::for_model(model, tokenizer.as_ref().ok());
    let mut options = options(args, collator, model.vocabulary());
    options.max_length = args.max_length.or(of_model.max_length);
    options.max_positions = of_model.max_positions;
    options.usual_positions = of_model.usual_positions;
    let data = read_sources(sources, tokenizer, &options)?;
    if let (long @ 1.., Some(most)) = (data.notes().long, model.max_positions()) {
        let are = if long == 1 { "is" } else { "are" };
        report::warning(&format!(
            "{} {are} longer than the {most} positions that the model was made for; --max-length {most} cuts them",
            report::plural(long, "sequence")
        ));
    }
    Ok(data)
}

/// Reads sources, with a bar where that takes time and somebody looks.
pub fn read_sources(sources: &Sources, tokenizer: &Tokenizer, options: &DataOptions) -> Outcome<Dataset> {
    let mut bar = report::ReadingBar::new();
    let mut read = |options: &DataOptions| {
        Dataset::read_with(&sources.list, tokenizer.as_ref().ok(), options, &mut |progress| {
            bar.show(progress)
        })
    };
    let mut result = read(options);
    // a cache that nobody asked for must not stand in the way
    if let (Err(problem @ DataError::CacheWrite { .. }), Some(cache)) = (&result, &options.cache)
        && cache.least_bytes > 0
    {
        report::warning(&format!("{problem}; they are kept in memory (--data-cache DIR for another place)"));
        let mut uncached = options.clone();
        uncached.cache = None;
        result = read(&uncached);
    }
    bar.finish();
    let data = result.map_err(|error| match (&error, tokenizer) {
        // the data's error cannot know why there is no tokenizer
        (DataError::NoTokenizer { .. }, Err(reason)) => Failure::Failed(format!("{error} ({reason})")),
        _ => error.into(),
    })?;
    report::chats(&data.notes().chat);
    Ok(data)
}
