//! A file of rows: the ending of its name, a zero, its bytes.

#![no_main]

use toktune::{DataOptions, Dataset};
use toktune_fuzz::{folder, parts};

const ENDINGS: [&str; 8] = ["jsonl", "json", "csv", "tsv", "txt", "jsonl.gz", "jsonl.zst", "json.gz"];

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some([ending, bytes]) = parts(input) else { return };
    let Some(ending) = ENDINGS.iter().find(|known| known.as_bytes() == ending) else { return };
    let name = format!("rows.{ending}");
    let folder = folder(&[(&name, bytes)]);
    let mut options = DataOptions::new(100);
    options.max_length = Some(64);
    let Ok(dataset) = Dataset::read(&[folder.path().join(name)], None, &options) else { return };
    let _ = dataset.example(0);
    let _ = dataset.fingerprint();
});
