//! What the integration tests share: the committed models.

#![allow(dead_code)] // each test file uses its own part

use std::ops::Range;
use std::path::{Path, PathBuf};
use toktune::data::{Collator, DataOptions, Dataset, Masking, ModelKind, RaggedBatch};
use toktune::models::PretrainedModel;

/// Settings with some fields set: `with!(LoraConfig::default(); r: 4, lora_alpha: 8.0)`. The library's own may get more fields,
/// so that they cannot be written out here.
macro_rules! with {
    ($base:expr; $($field:ident $(: $value:expr)?),* $(,)?) => {{
        let mut of = $base;
        $(of.$field = with!(@value $field $(, $value)?);)*
        of
    }};
    (@value $field:ident, $value:expr) => { $value };
    (@value $field:ident) => { $field };
}

/// The folder of a committed model.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The folders of all committed models.
pub fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("the fixtures").map(|e| e.expect("an entry").path()).collect();
    all.retain(|folder| folder.join("expected.json").is_file());
    all.sort();
    assert!(all.len() >= 50, "fixtures are missing: {all:?}");
    all
}

/// The folders of the committed decoders.
pub fn decoders() -> Vec<PathBuf> {
    let is_decoder = |folder: &PathBuf| {
        let expected = std::fs::read_to_string(folder.join("expected.json")).expect("expected.json");
        let expected: serde_json::Value = serde_json::from_str(&expected).expect("JSON");
        expected.get("kind").is_none_or(|kind| kind == "causal")
    };
    fixtures().into_iter().filter(is_decoder).collect()
}

/// The training rows of a committed model.
pub fn rows_file(name: &str) -> PathBuf {
    fixture(name).join("rows.jsonl")
}

/// The training rows of a committed model, for batches.
pub fn dataset(name: &str, model: &PretrainedModel) -> Dataset {
    let options = with!(DataOptions::new(model.vocabulary()); collator: collator(model));
    Dataset::read(&[rows_file(name)], None, &options).expect("rows")
}

/// What makes the batches of a model whose rows are ids with labels.
fn collator(model: &PretrainedModel) -> Collator {
    match model.kind() {
        ModelKind::Causal => Collator::Causal,
        ModelKind::SentencePairs => Collator::SentencePairs,
        ModelKind::Seq2Seq => Collator::Seq2Seq(model.decoder_inputs().expect("a decoder's inputs")),
        ModelKind::MaskedLm => Collator::MaskedLm(Masking::none()),
    }
}

/// A row of a committed model: ids and labels.
pub type Row = (Vec<u32>, Vec<i64>);

/// The rows of a committed model, as they stand.
pub fn fixture_rows(name: &str) -> Vec<Row> {
    let text = std::fs::read_to_string(rows_file(name)).expect("rows.jsonl");
    text.lines()
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).expect("a row");
            let list = |key: &str| serde_json::from_value::<Vec<i64>>(row[key].clone()).expect("numbers");
            (list("input_ids").into_iter().map(|id| id as u32).collect(), list("labels"))
        })
        .collect()
}

/// Rows as a batch for a decoder: labels are shifted by one.
pub fn batch_of(rows: &[Row]) -> RaggedBatch {
    let mut batch = with!(RaggedBatch::default(); starts: vec![0]);
    for (ids, labels) in rows {
        batch.ids.extend(ids);
        let shifted = labels[1..].iter().map(|&l| u32::try_from(l).ok()).chain([None]);
        batch.targets.extend(shifted);
        batch.starts.push(batch.ids.len());
    }
    batch
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
