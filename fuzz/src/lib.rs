//! What the targets share.

use std::path::Path;

#[path = "../../crates/toktune-weights/tests/common/read_all.rs"]
mod read_all;

pub use read_all::read_all;

/// The parts of an input, which are divided by bytes of zero; the last one may hold any.
pub fn parts<const N: usize>(input: &[u8]) -> Option<[&[u8]; N]> {
    let parts: Vec<&[u8]> = input.splitn(N, |byte| *byte == 0).collect();
    parts.try_into().ok()
}

/// A folder with these files.
pub fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("a written file");
    }
    folder
}

/// The folder of a small model.
pub fn model() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/toktune/tests/fixtures/llama_tied"))
}
