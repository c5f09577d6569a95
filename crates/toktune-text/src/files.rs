//! The files of a tokenizer's folder: text and JSON objects, read if they are there and written whole.

use crate::{Result, TextError};
use serde_json::{Map, Value};
use std::fs;
use std::io::Write;
use std::path::Path;
use toktune_weights::write_atomically;

/// A text file, or `None` when it does not exist.
pub fn read_text(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TextError::io(path)(error)),
    }
}

/// A JSON file with an object, or `None` when it does not exist.
pub fn read_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    let wrong = |reason: String| TextError::JsonFile { path: path.to_owned(), reason };
    match serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))? {
        Value::Object(object) => Ok(Some(object)),
        other => Err(wrong(format!("found {}", other.to_string().chars().take(60).collect::<String>()))),
    }
}

pub fn write_object(path: &Path, object: Map<String, Value>) -> Result<()> {
    // `{:#}` is serde_json's indented form, which cannot fail on a value.
    write(path, &format!("{:#}\n", Value::Object(object)))
}

/// Writes a file so that a reader sees the old one or the new one, never half of it.
pub fn write(path: &Path, text: &str) -> Result<()> {
    write_atomically(path, |file| file.write_all(text.as_bytes()).map_err(TextError::io(path)))
}

/// The error of a field that holds something else than it should.
pub fn field_error(path: &Path, field: &str, found: &Value, expected: &'static str) -> TextError {
    let found: String = found.to_string().chars().take(60).collect();
    TextError::ConfigField { path: path.to_owned(), field: field.to_owned(), found, expected }
}
