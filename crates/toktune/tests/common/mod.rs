//! What the integration tests share: the committed models.

#![allow(dead_code)] // each test file uses its own part

use std::ops::Range;
use std::path::{Path, PathBuf};

/// The folder of a committed model.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The folders of all committed models.
pub fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("the fixtures").map(|e| e.expect("an entry").path()).collect();
    all.sort();
    assert!(all.len() >= 5, "fixtures are missing: {all:?}");
    all
}

/// The training rows of a committed model.
pub fn rows_file(name: &str) -> PathBuf {
    fixture(name).join("rows.jsonl")
}

/// Copies a model into `folder`, letting `change` edit the bytes of the first block's last projection.
pub fn copy_fixture(name: &str, folder: &Path, change: impl FnOnce(&mut [u8], Range<usize>)) {
    std::fs::copy(fixture(name).join("config.json"), folder.join("config.json")).expect("copied");
    let mut bytes = std::fs::read(fixture(name).join("model.safetensors")).expect("read");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let index: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).expect("a header");
    let offsets = &index["model.layers.0.mlp.down_proj.weight"]["data_offsets"];
    let at = |i: usize| 8 + header + offsets[i].as_u64().expect("an offset") as usize;
    change(&mut bytes, at(0)..at(1));
    std::fs::write(folder.join("model.safetensors"), bytes).expect("written");
}
