//! Committed models for tests: read whole, changed, and written again, also as llama.cpp's converter writes them.

mod cases;
mod converter;
pub mod scaled;

pub use cases::{Case, convertible};

use super::{AutoModel, PretrainedModel, TokenRows};
use crate::models::Device;
use crate::trained::Trained;
use candle_core::quantized::GgmlDType;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use toktune_kernels::weight::encode;
use toktune_weights::{Checkpoint, WeightType};

/// A tensor: name, shape, values.
pub type Named = (String, Vec<usize>, Vec<f32>);

/// The folder of a committed model.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../toktune/tests/fixtures").join(name)
}

/// A model of any kind.
pub fn load(path: &Path) -> PretrainedModel {
    AutoModel::from_pretrained(path, &Device::Cpu).expect("a model")
}

/// All tensors of a folder of `F32`.
pub fn tensors(folder: &Path) -> Vec<Named> {
    let checkpoint = Checkpoint::open(folder).expect("a checkpoint");
    checkpoint
        .names()
        .map(|name| {
            let shape = checkpoint.shape(name).expect("a shape").to_vec();
            (name.to_owned(), shape, floats(checkpoint.stored_bytes(name).expect("bytes")))
        })
        .collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// A safetensors file of these tensors.
pub fn safetensors_file(tensors: &[Named], dtype: WeightType) -> Vec<u8> {
    let kind = if dtype == WeightType::F32 { Dtype::F32 } else { Dtype::BF16 };
    let encoded: Vec<Vec<u8>> = tensors.iter().map(|t| encode(dtype, &t.2).expect("a float type")).collect();
    let views = tensors.iter().zip(&encoded).map(|((name, shape, _), bytes)| {
        (name.as_str(), TensorView::new(kind, shape.clone(), bytes).expect("a view"))
    });
    serialize(views, Some(HashMap::from([("format".into(), "pt".into()), ("by".into(), "us".into())])))
        .expect("a file")
}

/// A model as a folder of the Hub holds it.
#[derive(Clone)]
pub struct HubModel {
    /// `config.json`.
    pub config: Map<String, Value>,
    /// Its tensors, in the order of their names.
    pub tensors: Vec<Named>,
}

impl HubModel {
    /// A committed one.
    pub fn read(name: &str) -> Self {
        let text = fs::read(fixture(name).join("config.json")).expect("config.json");
        Self { config: serde_json::from_slice(&text).expect("JSON"), tensors: tensors(&fixture(name)) }
    }

    /// With these keys in its configuration; `null` takes one out.
    pub fn with(mut self, changes: Value) -> Self {
        for (key, value) in changes.as_object().expect("an object") {
            match value {
                Value::Null => self.config.remove(key),
                value => self.config.insert(key.clone(), value.clone()),
            };
        }
        self
    }

    /// With its blocks `times` over.
    pub fn repeated(mut self, times: usize) -> Self {
        let count = self.config["num_hidden_layers"].as_u64().expect("a number") as usize;
        let blocks: Vec<Named> =
            self.tensors.iter().filter(|t| t.0.starts_with("model.layers.")).cloned().collect();
        for (name, shape, values) in blocks {
            let rest = name.strip_prefix("model.layers.").expect("a block's");
            let (block, rest) = rest.split_once('.').expect("a block's");
            let block: usize = block.parse().expect("a number");
            for time in 1..times {
                let name = format!("model.layers.{}.{rest}", block + time * count);
                self.tensors.push((name, shape.clone(), values.clone()));
            }
        }
        self.config.insert("num_hidden_layers".into(), (count * times).into());
        self
    }

    /// Without the tensors whose names hold one of `parts`.
    pub fn without(mut self, parts: &[&str]) -> Self {
        self.tensors.retain(|t| !parts.iter().any(|part| t.0.contains(part)));
        self
    }

    /// As a folder of the Hub.
    pub fn folder(&self) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Value::Object(self.config.clone()).to_string();
        fs::write(folder.path().join("config.json"), config).expect("written");
        let file = safetensors_file(&self.tensors, WeightType::F32);
        fs::write(folder.path().join(toktune_weights::SINGLE), file).expect("written");
        folder
    }

    /// As `model.gguf` in a folder; matrices with rows of whole blocks in `kind`.
    pub fn gguf(&self, kind: GgmlDType) -> TempDir {
        self.gguf_with(|_| kind)
    }

    /// The same with the kind of each matrix told by its name in the file.
    pub fn gguf_with(&self, kind: impl Fn(&str) -> GgmlDType) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let file = converter::convert(self, kind).build();
        fs::write(folder.path().join("model.gguf"), file).expect("written");
        folder
    }
}

/// The logits of the first batch of a committed model's rows, those of [`expected_logits`].
pub fn logits_of_first_batch(model: &PretrainedModel, name: &str) -> Vec<f32> {
    let text = fs::read_to_string(fixture(name).join("rows.jsonl")).expect("rows");
    let expected = fs::read(fixture(name).join("expected.json")).expect("expected.json");
    let expected: Value = serde_json::from_slice(&expected).expect("JSON");
    let (mut ids, mut starts) = (Vec::new(), vec![0]);
    for line in text.lines().take(expected["batch_size"].as_u64().expect("a size") as usize) {
        let row: Value = serde_json::from_str(line).expect("a row");
        ids.extend(serde_json::from_value::<Vec<u32>>(row["input_ids"].clone()).expect("ids"));
        starts.push(ids.len());
    }
    let tokens = TokenRows { ids: &ids, starts: &starts };
    model.runner().logits(tokens, None, &Trained::default()).expect("logits").concat()
}

/// The logits that transformers gives a committed model's first batch.
pub fn expected_logits(name: &str) -> Vec<f32> {
    let bytes = fs::read(fixture(name).join("expected.safetensors")).expect("a file");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    floats(tensors.tensor("logits").expect("logits").data())
}

/// Compares relative to the largest entry.
#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    let scale = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let worst = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(
        found.len() == expected.len() && worst <= tolerance * scale,
        "{what}: off by {} of {scale}",
        worst / scale
    );
}
