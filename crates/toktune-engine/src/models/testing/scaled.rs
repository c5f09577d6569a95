//! Folders of weights in 8 bits with their scales.

use super::fixture;
use serde_json::{Value, json};
use toktune_kernels::weight::encode;
use toktune_weights::testing::safetensors;
use toktune_weights::{Checkpoint, WeightType};

/// A tensor to be written: its name, type, shape and bytes.
pub type Entry = (String, &'static str, Vec<usize>, Vec<u8>);

/// The fixture with a field in its configuration and other tensors.
pub fn folder(field: Option<(&str, Value)>, change: impl FnOnce(&mut Vec<Entry>)) -> tempfile::TempDir {
    let (source, folder) = (fixture("llama_untied"), tempfile::tempdir().expect("a folder"));
    let config = std::fs::read(source.join("config.json")).expect("a configuration");
    let mut config: Value = serde_json::from_slice(&config).expect("JSON");
    if let Some((field, value)) = field {
        config[field] = value;
    }
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("written");
    let stored = Checkpoint::open(&source).expect("a checkpoint");
    let entry = |name: &str| -> Entry {
        let shape = stored.shape(name).expect("a shape").to_vec();
        (name.to_owned(), "F32", shape, stored.stored_bytes(name).expect("bytes").to_vec())
    };
    let mut entries: Vec<Entry> = stored.names().map(entry).collect();
    change(&mut entries);
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in entries {
        let start = data.len();
        data.extend(bytes);
        header.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let file = safetensors(&Value::from(header).to_string(), &data);
    std::fs::write(folder.path().join("model.safetensors"), file).expect("written");
    folder
}

/// The linear layer that is stored so.
pub const WEIGHT: &str = "model.layers.0.mlp.up_proj.weight";

/// Makes 8-bit floats of the linear layer: 1.0 and 2.0 in turns, with scales that count up.
pub fn to_fp8(entries: &mut Vec<Entry>, ending: &str, scales: &[usize], kind: &'static str) {
    let entry = entries.iter_mut().find(|entry| entry.0 == WEIGHT).expect("there");
    let count: usize = entry.2.iter().product();
    (entry.1, entry.3) = ("F8_E4M3", (0..count).map(|i| if i % 2 == 0 { 0x38 } else { 0x40 }).collect());
    let count: usize = scales.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i as f32 + 1.0) / 64.0).collect();
    let bytes = match kind {
        "U8" => (0..count).map(|i| 121 + i as u8).collect(),
        "BF16" => encode(WeightType::BF16, &values).expect("encoded"),
        _ => encode(WeightType::F32, &values).expect("encoded"),
    };
    entries.push((format!("{WEIGHT}{ending}"), kind, scales.to_vec(), bytes));
}

/// The field of the configuration that says so, with the sizes of its blocks.
pub fn fp8(block: Value) -> Option<(&'static str, Value)> {
    Some(("quantization_config", json!({"quant_method": "fp8", "weight_block_size": block})))
}
