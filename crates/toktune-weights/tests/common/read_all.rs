//! Reading all of a checkpoint that may be damaged: for the tests and for the fuzz targets.

use toktune_weights::{Checkpoint, RowOrder};

/// Reads everything there is in a checkpoint; whether it opens.
pub fn read_all(checkpoint: toktune_weights::Result<Checkpoint>) -> bool {
    let Ok(checkpoint) = checkpoint else { return false };
    checkpoint.total_bytes();
    checkpoint.total_parameters();
    for name in checkpoint.names() {
        match checkpoint.shape(name) {
            Some([len]) => drop(checkpoint.vector(name, *len)),
            Some([rows, cols]) => {
                for order in [RowOrder::Plain, RowOrder::Interleaved { head_dim: 2 }] {
                    if let Ok(matrix) = checkpoint.matrix(name, *rows, *cols, order) {
                        // A row of no bytes may be repeated any number of times.
                        matrix.decode_rows(0..matrix.rows().min(8));
                    }
                }
            }
            _ => {}
        }
    }
    true
}
