//! Blocks of 32 4-bit floats with an exponent each, as GPT-OSS is published (MXFP4): bytes and exponents in two tensors.
//!
//! A GGUF file has the same numbers in one: an exponent, then the bytes, whose low halves are the first 16 floats and not every
//! second one. The kernels read these, so the blocks are put so in memory, where they take what they take in the file.

use crate::table::{StoredTensor, TensorTable, unsupported};
use crate::{Bytes, FrozenMatrix, Result, WeightsError};
use rayon::prelude::*;
use toktune_kernels::{RowOrder, WeightType};

/// Floats in a block.
const BLOCK: usize = 32;

/// Bytes of the floats of a block.
const HALF: usize = BLOCK / 2;

/// What the names of the two tensors end with.
const ENDINGS: [&str; 2] = ["_blocks", "_scales"];

impl TensorTable {
    /// Whether a tensor is stored as blocks.
    pub(super) fn is_microscaled(&self, name: &str) -> bool {
        ENDINGS.iter().all(|ending| self.get(&format!("{name}{ending}")).is_some())
    }

    /// The matrices `[rows, cols]` of a tensor `[count, rows, cols]` that is stored as blocks along its rows.
    pub(super) fn microscaled(
        &self,
        name: &str,
        count: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Vec<FrozenMatrix>> {
        let across = cols.div_ceil(BLOCK);
        let blocks = self.unsigned(&format!("{name}{}", ENDINGS[0]), &[count, rows, across, HALF])?;
        let scales = self.unsigned(&format!("{name}{}", ENDINGS[1]), &[count, rows, across])?;
        let mut bytes = vec![0u8; scales.bytes.len() * (1 + HALF)];
        let of_blocks = blocks.bytes.par_chunks_exact(HALF).zip(scales.bytes.par_iter());
        bytes.par_chunks_exact_mut(1 + HALF).zip(of_blocks).for_each(|(to, (block, scale))| {
            to[0] = *scale;
            to[1..].copy_from_slice(&put_in_halves(block));
        });
        let refused = || WeightsError::Serialise(format!("{name}: {count} matrices [{rows}, {cols}]"));
        let all = count.checked_mul(rows).ok_or_else(refused)?;
        let whole =
            FrozenMatrix::new(name, Bytes::owned(bytes), WeightType::Mxfp4, all, cols, RowOrder::Plain)?;
        (0..count).map(|at| whole.part(at * rows..(at + 1) * rows).ok_or_else(refused)).collect()
    }

    /// A tensor of bytes of this shape.
    fn unsigned(&self, name: &str, expected: &[usize]) -> Result<&StoredTensor> {
        let Some(tensor) = self.get(name) else {
            return Err(WeightsError::MissingTensor {
                path: self.path().to_path_buf(),
                tensor: name.to_owned(),
                nearest: None,
            });
        };
        if tensor.type_name != "U8" {
            return Err(unsupported(&tensor.file, name, &tensor.type_name, &[WeightType::Mxfp4]));
        }
        if tensor.shape != expected {
            return Err(WeightsError::TensorShape {
                path: tensor.file.to_path_buf(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: tensor.shape.clone(),
            });
        }
        Ok(tensor)
    }
}

/// The 4-bit floats of a block, of which neighbours share a byte, so that those 16 apart share one.
fn put_in_halves(block: &[u8]) -> [u8; HALF] {
    let float = |at: usize| block[at / 2] >> (4 * (at % 2)) & 15;
    std::array::from_fn(|at| float(at) | float(at + HALF) << 4)
}

#[cfg(test)]
mod tests {
    use crate::Checkpoint;
    use crate::testing::safetensors;

    /// What the 4-bit floats are, as transformers' `integrations/mxfp4.py` lists them.
    const FLOATS: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

    fn checkpoint(kind: &str, blocks: &[u8], scales: &[u8]) -> (tempfile::TempDir, Checkpoint) {
        let folder = tempfile::tempdir().expect("a folder");
        let (end, all) = (blocks.len(), blocks.len() + scales.len());
        let header = format!(
            r#"{{"w_blocks": {{"dtype": "{kind}", "shape": [2, 3, 2, 16], "data_offsets": [0, {end}]}},
                "w_scales": {{"dtype": "U8", "shape": [2, 3, 2], "data_offsets": [{end}, {all}]}}}}"#
        );
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, safetensors(&header, &[blocks, scales].concat())).expect("written");
        let checkpoint = Checkpoint::open(&path).expect("a checkpoint");
        (folder, checkpoint)
    }

    #[test]
    fn each_matrix_has_its_blocks() {
        let blocks: Vec<u8> = (0..2 * 3 * 2 * 16).map(|i| (i * 37 % 256) as u8).collect();
        let scales: Vec<u8> = (0..12).map(|i| 120 + i).collect();
        let (_folder, checkpoint) = checkpoint("U8", &blocks, &scales);
        assert!(checkpoint.is_microscaled("w") && !checkpoint.is_microscaled("v"));
        let matrices = checkpoint.matrices("w", 2, 3, 64).expect("matrices");
        assert_eq!(matrices.len(), 2);
        for (number, matrix) in matrices.iter().enumerate() {
            for (i, found) in matrix.decode_rows(0..3).into_iter().enumerate() {
                let at = number * 3 * 64 + i;
                let float = blocks[at / 2] >> (4 * (at % 2)) & 15;
                let size = FLOATS[usize::from(float & 7)] * 2f32.powi(i32::from(scales[at / 32]) - 127);
                assert_eq!(found, if float & 8 == 0 { size } else { -size }, "{number} {i}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let (blocks, scales) = ([0u8; 192], [0u8; 12]);
        let (_folder, good) = checkpoint("U8", &blocks, &scales);
        for (count, rows, cols) in [(2, 3, 32), (1, 6, 64), (usize::MAX, 3, 64)] {
            let message = good.matrices("w", count, rows, cols).expect_err("another shape").to_string();
            assert!(message.contains("w_blocks"), "{message}");
        }
        let (_folder, other) = checkpoint("I8", &blocks, &scales);
        assert!(other.matrices("w", 2, 3, 64).expect_err("another type").to_string().contains("I8"));
    }
}
