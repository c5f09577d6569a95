//! Models and sets of data named by their id of the HuggingFace Hub, kept in the cache that HuggingFace's own tools use.
//!
//! A model that the cache holds is used as it lies there, without asking the network: a run does not change
//! because somebody changed the model. Delete its folder in the cache to have it fetched anew. `HF_HOME` says
//! where the cache is,
//! `HF_ENDPOINT` where models come from, and `HF_TOKEN` (or the token that `hf auth login` stored) opens
//! gated ones.

use crate::data::{DataError, DataSource};
use crate::weights::WeightsError;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// The result of everything in this module that can fail.
pub type Result<T, E = HubError> = std::result::Result<T, E>;

/// Why something could not be had from the Hub.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The Hub, or the cache of what came from it.
    #[error("{id}: {problem}")]
    Hub {
        /// The id of the model or of the set of data.
        id: String,
        /// What went wrong.
        problem: String,
    },
    /// A file in the cache is at fault.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The files that were asked for are not there.
    #[error(transparent)]
    Data(#[from] DataError),
}

const CONFIG: &str = "config.json";
/// Weights, the best kind first: a single file, the index of several, how those end.
const WEIGHTS: [(&str, &str, &str); 2] = [
    ("model.safetensors", "model.safetensors.index.json", ".safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", ".bin"),
];
/// What is fetched beside configuration and weights, where it is there.
const BESIDE: [&str; 19] = [
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "preprocessor_config.json",
    "processor_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "added_tokens.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// Whether `name` is written as the Hub's ids are: `organisation/model`.
pub fn is_id(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    name.split_once('/').is_some_and(|(organisation, model)| part(organisation) && part(model))
}

/// The folder of model `id` in the cache. What is missing there is fetched; `tell` is told the name of each
/// file before.
///
/// # Errors
/// The Hub cannot be reached, knows no such model or does not open it, or the model has no weights that are read.
pub fn snapshot(id: &str, tell: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let cache = Cache::from_env();
    let repo = Repo::model(id.to_string());
    if let Some(folder) = in_cache(&cache, &repo) {
        return Ok(folder);
    }
    let fault = |problem: String| HubError::Hub { id: id.to_string(), problem };
    let api = client(&cache, id)?.repo(repo.clone());
    let info = api.info().map_err(|e| fault(described(&e, &cache)))?;
    let there: BTreeSet<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
    if !there.contains(CONFIG) {
        return Err(fault(format!("it has no {CONFIG}, so it is no model of transformers")));
    }
    let mut fetch =
        |name: &str| fetch(&Snapshot { api: &api, cache: &cache, repo: &repo, sha: &info.sha }, name, tell);
    // the configuration last: a cache that has it has the rest
    for name in BESIDE.into_iter().filter(|name| there.contains(name)) {
        fetch(name)?;
    }
    match WEIGHTS.into_iter().find(|(single, index, _)| there.contains(single) || there.contains(index)) {
        Some((single, _, _)) if there.contains(single) => drop(fetch(single)?),
        Some((_, index, ending)) => {
            for shard in shards(&fetch(index)?, ending)? {
                if !there.contains(shard.as_str()) {
                    return Err(fault(format!("{index} names {shard}, which is not there")));
                }
                fetch(&shard)?;
            }
        }
        None => {
            let weights =
                |name: &&str| [".bin", ".gguf", ".h5", ".msgpack"].iter().any(|e| name.ends_with(e));
            let weights: Vec<&str> = there.iter().copied().filter(weights).collect();
            let found = if weights.is_empty() { "no weights at all".to_string() } else { weights.join(", ") };
            let wanted = WEIGHTS.map(|(single, _, _)| single).join(" nor ");
            return Err(fault(format!("it has neither {wanted}, whole or in parts; there is {found}")));
        }
    }
    let config = fetch(CONFIG)?;
    Ok(config.parent().unwrap_or(Path::new(".")).to_path_buf())
}

/// The model's folder in the cache, when configuration, weights and tokenizer are all there.
fn in_cache(cache: &Cache, repo: &Repo) -> Option<PathBuf> {
    let files = cache.repo(repo.clone());
    let folder = files.get(CONFIG)?.parent()?.to_path_buf();
    // the tokenizer as a whole, or the vocabulary that one is built from
    let tokenizers = [
        "tokenizer.json",
        "vocab.txt",
        "merges.txt",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "spm.model",
    ];
    tokenizers.into_iter().find_map(|name| files.get(name))?;
    let whole = |(single, index, ending): (&str, &str, &str)| match files.get(index) {
        _ if files.get(single).is_some() => true,
        Some(index) => {
            shards(&index, ending).is_ok_and(|shards| shards.iter().all(|shard| folder.join(shard).exists()))
        }
        None => false,
    };
    WEIGHTS.into_iter().any(whole).then_some(folder)
}

/// The files that an index names, all of them in its own folder and of this ending.
fn shards(index: &Path, ending: &str) -> Result<BTreeSet<String>> {
    let text = std::fs::read(index).map_err(WeightsError::io(index))?;
    let value: Value = serde_json::from_slice(&text).map_err(|source| WeightsError::Json {
        path: index.to_path_buf(),
        what: "the index",
        source,
    })?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let mut shards = BTreeSet::new();
    for (tensor, file) in map.into_iter().flatten() {
        let file = file.as_str().unwrap_or_default();
        if file.contains(['/', '\\']) || !file.ends_with(ending) {
            let (path, tensor, file) = (index.to_path_buf(), tensor.clone(), file.to_string());
            return Err(HubError::Weights(WeightsError::ShardOutside { path, tensor, file }));
        }
        shards.insert(file.to_string());
    }
    Ok(shards)
}

/// The client, with the user's token.
fn client(cache: &Cache, id: &str) -> Result<Api> {
    let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.trim().is_empty()).or(cache.token());
    ApiBuilder::from_env()
        .with_token(token.map(|token| token.trim().to_string()))
        .with_progress(false)
        .build()
        .map_err(|e| HubError::Hub { id: id.to_string(), problem: described(&e, cache) })
}

/// The files of a set of data, in the cache that HuggingFace's own tools use. `name` is `ORGANISATION/NAME`, or with a folder
/// of it behind; only the files of the split that `source` asks for are fetched, `tell` told the name of each before. Its
/// path becomes that of the set's folder.
///
/// # Errors
/// The Hub cannot be reached, knows no such set or does not open it; the set has no such split.
pub fn data_set(name: &str, source: DataSource, tell: &mut dyn FnMut(&str)) -> Result<DataSource> {
    let mut parts = name.splitn(3, '/');
    let id = parts.by_ref().take(2).collect::<Vec<_>>().join("/");
    let below = parts.next().unwrap_or_default();
    let fault = |problem: String| HubError::Hub { id: id.clone(), problem };
    if !is_id(&id) {
        return Err(fault("expected ORGANISATION/NAME of a set of data".into()));
    }
    let (cache, repo) = (Cache::from_env(), Repo::dataset(id.clone()));
    let api = client(&cache, &id)?.repo(repo.clone());
    let shown = DataSource { name: Some(format!("hf:{name}")), ..source };
    let folder = |sha: &str| cache.repo(repo.clone()).pointer_path(sha).join(below);
    let info = match api.info() {
        Ok(info) => info,
        // what was fetched before is used where there is no network; whether it is whole is told when it is read
        Err(error) => {
            let last = cache.path().join(repo.folder_name()).join("refs").join(repo.revision());
            let path = std::fs::read_to_string(last).map(|sha| folder(sha.trim()));
            return match path {
                Ok(path) if !is_answer(&error) && path.is_dir() => Ok(DataSource { path, ..shown }),
                _ => Err(fault(described(&error, &cache))),
            };
        }
    };
    let listing = info.siblings.iter().map(|file| PathBuf::from(&file.rfilename));
    let within: Vec<PathBuf> = listing
        .filter(|path| path.components().all(|part| matches!(part, Component::Normal(_))))
        .filter_map(|path| path.strip_prefix(below).map(Path::to_path_buf).ok())
        .collect();
    let snapshot = Snapshot { api: &api, cache: &cache, repo: &repo, sha: &info.sha };
    for file in crate::data::choose_files(within, &shown)? {
        let file = Path::new(below).join(file);
        fetch(&snapshot, &file.to_string_lossy(), tell)?;
    }
    Ok(DataSource { path: folder(&info.sha), ..shown })
}

/// Whether the Hub was reached and said no.
fn is_answer(error: &ApiError) -> bool {
    matches!(error, ApiError::RequestError(error) if matches!(**error, ureq::Error::StatusCode(_)))
}

/// One commit of a repository of the Hub.
struct Snapshot<'s> {
    api: &'s ApiRepo,
    cache: &'s Cache,
    repo: &'s Repo,
    sha: &'s str,
}

/// A file of a commit, from the cache or the network.
fn fetch(of: &Snapshot<'_>, name: &str, tell: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let kept = of.cache.repo(of.repo.clone()).pointer_path(of.sha).join(name);
    if kept.exists() {
        return Ok(kept);
    }
    tell(name);
    let fault = |problem: String| HubError::Hub { id: of.repo.folder_name(), problem };
    let path = of.api.download(name).map_err(|e| fault(format!("{name}: {}", described(&e, of.cache))))?;
    if path != kept {
        return Err(fault("it was changed while it was being fetched; try again".into()));
    }
    Ok(path)
}

/// What went wrong, and what can be done about it.
fn described(error: &ApiError, cache: &Cache) -> String {
    let status = match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(code) => Some(code),
            _ => None,
        },
        _ => None,
    };
    match (status, error) {
        (Some(401 | 403), _) => {
            "no access; accept its terms on its page if it has some, and set HF_TOKEN to a token that may \
             read it"
                .into()
        }
        (Some(404), _) => "there is no such model or file (or it is private, and HF_TOKEN is not set)".into(),
        (Some(code), _) => format!("the Hub answers with status {code}"),
        (None, ApiError::RequestError(error)) => format!(
            "cannot reach the Hub: {error}; the cache in {} does not hold the whole model; fetch it where \
             there is a network, or give the folder of a model",
            cache.path().display()
        ),
        (None, other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        for id in ["HuggingFaceTB/SmolLM2-135M", "a/b.c_d"] {
            assert!(is_id(id), "{id}");
        }
        for other in ["model", "./model", "../model", "/a/b", "a/b/c", "a/", "a b/c", "a/.b", "~/model"] {
            assert!(!is_id(other), "{other}");
        }
    }

    #[test]
    fn an_index_cannot_name_files_elsewhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let index = folder.path().join(WEIGHTS[0].1);
        let write = |text: &str| std::fs::write(&index, text).expect("written");
        write(r#"{"weight_map": {"a": "x-1.safetensors", "b": "x-1.safetensors", "c": "x-2.safetensors"}}"#);
        assert_eq!(shards(&index, ".safetensors").expect("sound").len(), 2);
        write(r#"{"weight_map": {"a": "../x.safetensors"}}"#);
        assert!(matches!(
            shards(&index, ".safetensors"),
            Err(HubError::Weights(WeightsError::ShardOutside { .. }))
        ));
        write(r#"{"weight_map": {"a": "x.bin"}}"#);
        assert!(matches!(
            shards(&index, ".safetensors"),
            Err(HubError::Weights(WeightsError::ShardOutside { .. }))
        ));
        assert!(shards(&index, ".bin").is_ok());
        write("[");
        assert!(matches!(shards(&index, ".safetensors"), Err(HubError::Weights(WeightsError::Json { .. }))));
    }
}
