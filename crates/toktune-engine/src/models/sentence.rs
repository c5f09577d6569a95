//! How a sentence encoder makes a vector of a sequence: `modules.json` of sentence-transformers and what it names.
//!
//! Owns the reading of those files; the maths is in the engine.

use super::config::ModelConfig;
use super::{PoolingMode, SentenceSpec};
use crate::error::{EngineError, Result};
use serde_json::Value;
use std::path::{Component, Path, PathBuf};

/// The file that lists what a sentence encoder consists of.
pub const MODULES: &str = "modules.json";

/// Files with the options of the first module, by the names that they had.
const TRANSFORMER_CONFIGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

impl SentenceSpec {
    /// Reads `modules.json` of a model's folder and what it names; the default where there is none.
    ///
    /// # Errors
    /// A file cannot be read or is no such file; a module is of a kind that is not computed here (`Dense`, `LSTM`, …), a
    /// pooling is of an unknown mode, or the path of a module leads out of the folder.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(MODULES);
        if !path.is_file() {
            return Ok(Self::default());
        }
        let problem =
            |key: &str, problem: String| EngineError::Config { path: path.clone(), key: key.into(), problem };
        let (mut spec, mut kinds) = (Self { normalise: false, ..Self::default() }, Vec::new());
        for module in modules(folder)? {
            match module.kind.as_str() {
                "Transformer" if kinds.is_empty() => {
                    spec.max_seq_length = transformer(folder, &module.folder)?
                }
                "Pooling" if kinds == ["Transformer"] => {
                    spec.pooling = pooling(&module.folder.join("config.json"))?
                }
                "Normalize" if kinds.len() >= 2 => spec.normalise = true,
                kind => {
                    let expected = "expected a Transformer, then a Pooling, then a Normalize or nothing";
                    return Err(problem(
                        "type",
                        format!("the module {kind} is not computed here; {expected}"),
                    ));
                }
            }
            kinds.push(module.kind);
        }
        match kinds.len() {
            0 | 1 => Err(problem("type", "there is no Pooling".into())),
            _ => Ok(spec),
        }
    }

    /// The modes as people read them.
    pub fn describe(&self) -> String {
        let modes: Vec<&str> = self.pooling.iter().map(|mode| mode.name()).collect();
        format!("{}{}", modes.join(" and "), if self.normalise { ", of length 1" } else { "" })
    }
}

/// One entry of `modules.json`.
struct Module {
    /// The last part of its class.
    kind: String,
    folder: PathBuf,
}

/// The folders that `modules.json` names beneath `folder`, but for the folder itself; none where there is no such file.
///
/// # Errors
/// The file cannot be read or is no such file, or the path of a module leads out of the folder.
pub fn module_folders(folder: &Path) -> Result<Vec<PathBuf>> {
    match folder.join(MODULES).is_file() {
        true => {
            Ok(modules(folder)?.into_iter().map(|module| module.folder).filter(|of| of != folder).collect())
        }
        false => Ok(Vec::new()),
    }
}

fn modules(folder: &Path) -> Result<Vec<Module>> {
    let path = folder.join(MODULES);
    let problem =
        |key: &str, problem: String| EngineError::Config { path: path.clone(), key: key.into(), problem };
    let text = std::fs::read(&path).map_err(EngineError::io(&path))?;
    let list: Value = serde_json::from_slice(&text).map_err(|e| problem("(top level)", e.to_string()))?;
    let list = list.as_array().ok_or_else(|| problem("(top level)", "expected a list of modules".into()))?;
    let module = |entry: &Value| {
        let text = |key: &str| {
            let value = entry.get(key).and_then(Value::as_str);
            value.ok_or_else(|| problem(key, "expected a string in every module".into()))
        };
        let kind = text("type")?.rsplit('.').next().unwrap_or_default().to_owned();
        let inner = Path::new(text("path")?);
        match inner.components().all(|part| matches!(part, Component::Normal(_))) {
            true if inner.as_os_str().is_empty() => Ok(Module { kind, folder: folder.to_path_buf() }),
            true => Ok(Module { kind, folder: folder.join(inner) }),
            false => Err(problem("path", format!("'{}' leads out of the folder", inner.display()))),
        }
    };
    list.iter().map(module).collect()
}

/// Checks the options of the transformer; how many tokens of a sequence are read.
fn transformer(root: &Path, folder: &Path) -> Result<Option<usize>> {
    if folder != root {
        let problem = format!("the Transformer is in {}; expected it in the folder itself", folder.display());
        return Err(EngineError::Config { path: root.join(MODULES), key: "path".into(), problem });
    }
    let Some(path) = TRANSFORMER_CONFIGS.iter().map(|name| folder.join(name)).find(|path| path.is_file())
    else {
        return Ok(None);
    };
    let config = ModelConfig::read_file(&path)?;
    let lowered = || {
        let path = folder.join("tokenizer_config.json");
        path.is_file()
            && ModelConfig::read_file(&path).is_ok_and(|of| of.flag("do_lower_case", false).unwrap_or(false))
    };
    if config.flag("do_lower_case", false)? && !lowered() {
        let problem =
            "true beside a tokenizer that keeps capitals is not supported; set its own do_lower_case";
        return Err(config.error("do_lower_case", problem));
    }
    config.optional_size("max_seq_length")
}

/// The modes of a pooling, as sentence-transformers writes them now (`pooling_mode`) or did before 6 (a flag for each).
fn pooling(path: &Path) -> Result<Vec<PoolingMode>> {
    let config = ModelConfig::read_file(path)?;
    let named = |value: &Value| {
        let name = value.as_str();
        let found = PoolingMode::NAMES.iter().find(|(known, _, _)| Some(*known) == name);
        found.map(|(_, _, mode)| *mode).ok_or_else(|| {
            let known: Vec<&str> = PoolingMode::NAMES.iter().map(|(name, _, _)| *name).collect();
            config.error("pooling_mode", format!("expected {}, found {value}", known.join(", ")))
        })
    };
    match config.get("pooling_mode") {
        Some(Value::Array(modes)) if !modes.is_empty() => modes.iter().map(named).collect(),
        Some(mode) => Ok(vec![named(mode)?]),
        None => {
            let mut modes = Vec::new();
            for (_, flag, mode) in PoolingMode::NAMES {
                if config.flag(flag, false)? {
                    modes.push(mode);
                }
            }
            Ok(if modes.is_empty() { vec![PoolingMode::Mean] } else { modes })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const TRANSFORMER: &str =
        r#"{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}"#;
    const POOLING: &str =
        r#"{"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}"#;
    const NORMALIZE: &str =
        r#"{"path": "2_Normalize", "type": "sentence_transformers.base.modules.normalize.Normalize"}"#;

    fn folder(modules: &[&str], pooling: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(MODULES), format!("[{}]", modules.join(","))).expect("written");
        fs::create_dir(folder.path().join("1_Pooling")).expect("made");
        fs::write(folder.path().join("1_Pooling/config.json"), pooling).expect("written");
        folder
    }

    #[test]
    fn both_forms_of_a_pooling_are_read() {
        let bare = tempfile::tempdir().expect("a folder");
        assert_eq!(SentenceSpec::read(bare.path()).expect("the default"), SentenceSpec::default());
        for (pooling, normalise, expected) in [
            (r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#, false, "cls"),
            (r#"{"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true}"#, false, "max and mean"),
            (
                r#"{"pooling_mode": "lasttoken", "pooling_mode_mean_tokens": true}"#,
                true,
                "lasttoken, of length 1",
            ),
            (r#"{"pooling_mode": ["weightedmean", "cls"]}"#, false, "weightedmean and cls"),
            (r#"{"pooling_mode_mean_sqrt_len_tokens": true}"#, false, "mean_sqrt_len_tokens"),
            (r#"{"word_embedding_dimension": 8}"#, false, "mean"),
        ] {
            let modules = [TRANSFORMER, POOLING, NORMALIZE];
            let folder = folder(&modules[..if normalise { 3 } else { 2 }], pooling);
            fs::write(folder.path().join("sentence_bert_config.json"), r#"{"max_seq_length": 77}"#)
                .expect("written");
            let spec = SentenceSpec::read(folder.path()).expect("read");
            assert_eq!((spec.describe().as_str(), spec.max_seq_length), (expected, Some(77)));
        }
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        let dense = r#"{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}"#;
        let outside = r#"{"path": "../x", "type": "sentence_transformers.models.Pooling"}"#;
        let plain = "{}";
        for (modules, pooling, expected) in [
            (vec![TRANSFORMER, POOLING, dense], plain, "the module Dense"),
            (vec![TRANSFORMER], plain, "no Pooling"),
            (vec![TRANSFORMER, outside], plain, "leads out of the folder"),
            (vec![TRANSFORMER, POOLING], r#"{"pooling_mode": "attention"}"#, "found \"attention\""),
            (vec!["3"], plain, "expected a string"),
        ] {
            let folder = folder(&modules, pooling);
            let message = SentenceSpec::read(folder.path()).expect_err("refused").to_string();
            assert!(message.contains(expected), "{message}");
        }
        let folder = folder(&[TRANSFORMER, POOLING], plain);
        fs::write(folder.path().join("sentence_bert_config.json"), r#"{"do_lower_case": true}"#)
            .expect("written");
        assert!(SentenceSpec::read(folder.path()).is_err());
        fs::write(folder.path().join("tokenizer_config.json"), r#"{"do_lower_case": true}"#)
            .expect("written");
        assert!(SentenceSpec::read(folder.path()).is_ok());
    }
}
