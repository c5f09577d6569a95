//! A model's `config.json`, read key by key with errors that name the file and the key.

use crate::error::{EngineError, Result};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The configuration of a model, as the JSON object that transformers writes.
///
/// A GGUF file's metadata is translated into the same object, so that a family reads one form only.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    path: PathBuf,
    object: Map<String, Value>,
}

impl ModelConfig {
    /// Reads `config.json` of a model's folder.
    ///
    /// # Errors
    /// The file cannot be read or holds no JSON object.
    pub fn read(folder: &Path) -> Result<Self> {
        Self::read_file(&folder.join("config.json"))
    }

    /// Reads a file of the same form.
    pub(super) fn read_file(path: &Path) -> Result<Self> {
        let path = path.to_path_buf();
        let text = std::fs::read_to_string(&path).map_err(EngineError::io(&path))?;
        match serde_json::from_str(&text) {
            Ok(Value::Object(object)) => Ok(Self { path, object }),
            Ok(_) => Err(EngineError::Config {
                path,
                key: "(top level)".into(),
                problem: "expected an object".into(),
            }),
            Err(e) => Err(EngineError::Config { path, key: "(top level)".into(), problem: e.to_string() }),
        }
    }

    /// A configuration that was made from `path` in some other way.
    pub fn from_object(path: impl Into<PathBuf>, object: Map<String, Value>) -> Self {
        Self { path: path.into(), object }
    }

    /// The object itself, to be written with a merged model.
    pub fn object(&self) -> &Map<String, Value> {
        &self.object
    }

    /// The file it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `model_type`, empty when there is none.
    pub fn model_type(&self) -> &str {
        self.get("model_type").and_then(Value::as_str).unwrap_or("")
    }

    /// The class that `architectures` names first, if any.
    pub fn architecture(&self) -> Option<&str> {
        self.get("architectures")?.get(0)?.as_str()
    }

    /// A value that is there and not `null`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    /// A nested object as a configuration of its own.
    pub fn section(&self, key: &str) -> Option<ModelConfig> {
        let object = self.get(key)?.as_object()?.clone();
        Some(Self { path: self.path.clone(), object })
    }

    /// What describes the text part: the section `text_config` of a model that reads images too, else the whole.
    pub fn text_part(&self) -> ModelConfig {
        self.section("text_config").unwrap_or_else(|| self.clone())
    }

    /// An error about one key.
    pub fn error(&self, key: &str, problem: impl Into<String>) -> EngineError {
        EngineError::Config { path: self.path.clone(), key: key.to_string(), problem: problem.into() }
    }

    fn typed<T>(&self, key: &str, kind: &str, read: impl FnOnce(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(self.error(key, format!("expected {kind}, found {value}"))),
            },
        }
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(key, "missing"))
    }

    /// A size: an integer between 1 and 2^31, so that products of a few cannot overflow.
    ///
    /// # Errors
    /// It is missing or no such integer.
    pub fn size(&self, key: &str) -> Result<usize> {
        let value = self.optional_size(key)?;
        self.required(key, value)
    }

    /// A size that may be missing.
    ///
    /// # Errors
    /// It is there and no integer between 1 and 2^31.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "an integer between 1 and 2147483648", |v| {
            v.as_u64().filter(|n| (1..=1 << 31).contains(n)).map(|n| n as usize)
        })
    }

    /// A finite number that may be missing.
    ///
    /// # Errors
    /// It is there and no finite number.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    /// A finite number.
    ///
    /// # Errors
    /// It is missing or no finite number.
    pub fn number(&self, key: &str) -> Result<f64> {
        let value = self.optional_number(key)?;
        self.required(key, value)
    }

    /// Whether the key is there, even as `null`.
    pub fn has(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// A flag, `default` when missing.
    ///
    /// # Errors
    /// It is there and neither true nor false.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// A text that may be missing.
    ///
    /// # Errors
    /// It is there and no string.
    pub fn optional_text(&self, key: &str) -> Result<Option<String>> {
        self.typed(key, "a string", |v| v.as_str().map(str::to_string))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(value: Value) -> ModelConfig {
        let Value::Object(object) = value else { panic!("an object") };
        ModelConfig::from_object("folder/config.json", object)
    }

    #[test]
    fn values_are_read_and_faults_name_file_and_key() {
        let config =
            config(json!({"a": 3, "b": null, "c": "x", "d": 1.5, "e": true, "f": 0, "g": -1, "h": 1e300}));
        assert_eq!(config.size("a").expect("a size"), 3);
        assert_eq!(config.optional_size("b").expect("null is missing"), None);
        assert_eq!(config.number("d").expect("a number"), 1.5);
        assert!(config.flag("e", false).expect("a flag") && config.flag("z", true).expect("the default"));
        assert_eq!(config.optional_text("c").expect("a text").as_deref(), Some("x"));
        for (key, expected) in [
            ("f", "expected an integer"),
            ("g", "found -1"),
            ("h", "found"),
            ("c", "found"),
            ("b", "missing"),
        ] {
            let message = config.size(key).expect_err("no size").to_string();
            assert!(
                message.contains("folder/config.json") && message.contains(key) && message.contains(expected),
                "{message}"
            );
        }
        assert!(
            config.flag("a", true).is_err()
                && config.optional_text("a").is_err()
                && config.number("c").is_err()
        );
    }

    #[test]
    fn a_folder_without_a_valid_config_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(matches!(ModelConfig::read(folder.path()), Err(EngineError::Io { .. })));
        for text in ["[1]", "{", ""] {
            std::fs::write(folder.path().join("config.json"), text).expect("written");
            assert!(matches!(ModelConfig::read(folder.path()), Err(EngineError::Config { .. })), "{text:?}");
        }
    }
}
