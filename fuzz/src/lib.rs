//! What the targets share.

use std::path::Path;
use toktune::weights::{Checkpoint, RowOrder};

/// Reads everything there is in a checkpoint, if it opened.
pub fn read_all(opened: toktune::Result<Checkpoint>) {
    let Ok(checkpoint) = opened else { return };
    checkpoint.total_bytes();
    checkpoint.total_parameters();
    for name in checkpoint.names() {
        match checkpoint.shape(name) {
            Some([len]) => drop(checkpoint.vector(name, *len)),
            Some([rows, cols]) => {
                for order in [RowOrder::Plain, RowOrder::Interleaved { head_dim: 2 }] {
                    if let Ok(matrix) = checkpoint.matrix(name, *rows, *cols, order) {
                        // a row of no bytes may be repeated any number of times
                        matrix.decode_rows(0..matrix.rows().min(8));
                    }
                }
            }
            _ => {}
        }
    }
}

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
