//! What the rows of a token matrix are like together, and which of them a given row is near.
//!
//! A block of rows is decoded at a time, so that no copy of the matrix exists; blocks are worked on by all threads and put
//! together in their order, so that the result does not depend on how many there are.

use super::TokenMatrix;
use super::token_matrix::norm;
use rayon::prelude::*;
use std::collections::HashMap;

/// Rows that are decoded at a time.
const BLOCK: usize = 1024;
/// A row shorter than this share of the median was left to weight decay.
const SHORT: f64 = 0.01;

/// What the rows of a token matrix are like together; those that a resize appended play no part.
///
/// Vocabularies have rows that no text has ever moved: padding, and tokens in reserve. A row counts as untrained if it is all
/// zeros, if another row has exactly its numbers (a trained row never has another's), or if it is shorter than a hundredth of
/// the median row. The first two signs are those of Unsloth's `fix_untrained_tokens`, which leaves such rows out of its mean
/// too; `resize_token_embeddings` of transformers takes the mean of all rows. Where nothing would be left every row counts.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MatrixSurvey {
    /// The mean of the trained rows, `[width]`, summed in `f64`.
    pub mean: Vec<f32>,
    /// The root mean square of all entries of the matrix.
    pub rms: f32,
    /// The rows that were never trained, in ascending order.
    pub untrained: Vec<u32>,
    /// The norms of the trained rows, in ascending order.
    norms: Vec<f32>,
}

/// What is known of one block.
struct Block {
    sums: Vec<f64>,
    squares: f64,
    /// Of each row: its norm, a hash of its numbers, whether it is all zeros.
    rows: Vec<(f32, u64, bool)>,
}

impl MatrixSurvey {
    /// An entry of a row of zeros is at most so large: the bound that Unsloth takes (`fix_untrained_tokens`).
    pub const ZERO: f32 = 1e-16;

    /// The norm that half of the trained rows have at least.
    pub fn median_norm(&self) -> f64 {
        self.norms.get(self.norms.len() / 2).map_or(0.0, |norm| f64::from(*norm))
    }

    /// How many of a hundred trained rows are shorter than `norm`.
    pub fn percentile(&self, norm: f64) -> f64 {
        let shorter = self.norms.partition_point(|other| f64::from(*other) < norm);
        100.0 * shorter as f64 / self.norms.len().max(1) as f64
    }
}

impl TokenMatrix {
    /// Surveys the rows that come from the checkpoint.
    pub fn survey(&self) -> MatrixSurvey {
        let (rows, width) = (self.frozen().rows(), self.width());
        let blocks: Vec<Block> = self.blocks().map(|(_, block)| Block::of(&block, width)).collect();
        let mut sums = vec![0f64; width];
        let mut squares = 0f64;
        for block in &blocks {
            sums.iter_mut().zip(&block.sums).for_each(|(sum, of)| *sum += of);
            squares += block.squares;
        }
        let of_rows: Vec<(f32, u64, bool)> = blocks.into_iter().flat_map(|block| block.rows).collect();
        let mut untrained = untrained(&of_rows);
        if untrained.len() == rows {
            untrained.clear();
        }
        for few in untrained.chunks(BLOCK) {
            for row in self.gather(few).chunks_exact(width.max(1)) {
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum -= f64::from(*x));
            }
        }
        let left = (rows - untrained.len()).max(1) as f64;
        let is_trained = |at: &usize| untrained.binary_search(&(*at as u32)).is_err();
        let mut norms: Vec<f32> = (0..rows).filter(is_trained).map(|at| of_rows[at].0).collect();
        norms.sort_unstable_by(f32::total_cmp);
        MatrixSurvey {
            mean: sums.iter().map(|sum| (sum / left) as f32).collect(),
            rms: (squares / (rows * width).max(1) as f64).sqrt() as f32,
            untrained,
            norms,
        }
    }

    /// For each of some rows the `n` rows of the checkpoint that it is nearest to by cosine, the nearest first; rows that `skip`
    /// names are passed over.
    pub fn nearest(
        &self,
        rows: &[&[f32]],
        n: usize,
        skip: impl Fn(u32) -> bool + Sync,
    ) -> Vec<Vec<(u32, f32)>> {
        let width = self.width().max(1);
        let sizes: Vec<f32> = rows.iter().map(|row| norm(row) as f32).collect();
        let of_block = |(start, block): (usize, Vec<f32>)| {
            let mut found = vec![Vec::new(); rows.len()];
            for (at, other) in block.chunks_exact(width).enumerate() {
                let id = (start + at) as u32;
                let size = dot(other, other).sqrt();
                if size == 0.0 || skip(id) {
                    continue;
                }
                for ((row, own), found) in rows.iter().zip(&sizes).zip(&mut found) {
                    if *own > 0.0 {
                        keep(found, n, (id, dot(row, other) / (own * size)));
                    }
                }
            }
            found
        };
        let blocks: Vec<Vec<Vec<(u32, f32)>>> = self.blocks().map(of_block).collect();
        let mut nearest = vec![Vec::new(); rows.len()];
        for (of, found) in blocks.into_iter().flat_map(|block| block.into_iter().enumerate()) {
            found.into_iter().for_each(|one| keep(&mut nearest[of], n, one));
        }
        nearest
    }

    /// The Euclidean distance of each of the checkpoint's rows to a point, `[rows]`.
    ///
    /// Panics when the point has another width than the rows.
    pub fn distances_to(&self, point: &[f32]) -> Vec<f32> {
        assert_eq!(point.len(), self.width(), "a point of another width");
        let distance = |row: &[f32]| {
            let squares = row.iter().zip(point).map(|(x, y)| f64::from(x - y).powi(2));
            squares.sum::<f64>().sqrt() as f32
        };
        let of_block = |(_, block): (usize, Vec<f32>)| {
            block.chunks_exact(self.width().max(1)).map(distance).collect::<Vec<f32>>()
        };
        let blocks: Vec<Vec<f32>> = self.blocks().map(of_block).collect();
        blocks.concat()
    }

    /// The checkpoint's rows a block at a time, each with the number of its first row.
    fn blocks(&self) -> impl IndexedParallelIterator<Item = (usize, Vec<f32>)> + '_ {
        let rows = self.frozen().rows();
        (0..rows.div_ceil(BLOCK)).into_par_iter().map(move |block| {
            let start = block * BLOCK;
            (start, self.frozen().decode_rows(start..(start + BLOCK).min(rows)))
        })
    }
}

impl Block {
    fn of(values: &[f32], width: usize) -> Self {
        let mut block = Block { sums: vec![0f64; width], squares: 0.0, rows: Vec::new() };
        for row in values.chunks_exact(width.max(1)) {
            let (mut hash, mut square, mut is_zero) = (0u64, 0f64, true);
            for (sum, x) in block.sums.iter_mut().zip(row) {
                *sum += f64::from(*x);
                square += f64::from(*x) * f64::from(*x);
                is_zero &= x.abs() <= MatrixSurvey::ZERO;
                // FxHash: each step can be undone, so that rows which differ in one place never agree
                hash = (hash.rotate_left(5) ^ u64::from(x.to_bits())).wrapping_mul(0x517c_c1b7_2722_0a95);
            }
            block.squares += square;
            block.rows.push((square.sqrt() as f32, hash, is_zero));
        }
        block
    }
}

/// Which rows nothing has moved.
fn untrained(rows: &[(f32, u64, bool)]) -> Vec<u32> {
    let mut counts: HashMap<u64, u32> = HashMap::new();
    rows.iter().for_each(|(_, hash, _)| *counts.entry(*hash).or_default() += 1);
    let mut norms: Vec<f32> = rows.iter().map(|row| row.0).collect();
    norms.sort_unstable_by(f32::total_cmp);
    let short = SHORT * norms.get(norms.len() / 2).map_or(0.0, |median| f64::from(*median));
    let is_untrained = |row: &(f32, u64, bool)| {
        row.2 || f64::from(row.0) < short || counts.get(&row.1).is_some_and(|n| *n > 1)
    };
    rows.iter().zip(0..).filter(|(row, _)| is_untrained(row)).map(|(_, id)| id).collect()
}

/// Puts a row among the nearest `n`; of two that are equally near the one that was there first stays first.
fn keep(nearest: &mut Vec<(u32, f32)>, n: usize, one: (u32, f32)) {
    if nearest.len() == n && nearest.last().is_none_or(|last| last.1 >= one.1) {
        return;
    }
    let at = nearest.partition_point(|other| other.1 >= one.1);
    nearest.insert(at, one);
    nearest.truncate(n);
}

/// In eight sums, so that the compiler can take several products at a time.
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let (x, y) = (x.chunks_exact(8), y.chunks_exact(8));
    let rest: f32 = x.remainder().iter().zip(y.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in x.zip(y) {
        sums.iter_mut().zip(x.iter().zip(y)).for_each(|(sum, (x, y))| *sum += x * y);
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use toktune_weights::FrozenMatrix;

    fn matrix(rows: &[[f32; 2]]) -> TokenMatrix {
        let values = rows.iter().flatten().copied().collect();
        TokenMatrix::new("m", FrozenMatrix::from_f32("m", rows.len(), 2, values).expect("valid"))
    }

    #[test]
    fn rows_that_nothing_has_moved_are_left_out_of_the_mean() {
        let rows = [[3.0, 4.0], [0.0, 0.0], [7.0, 7.0], [1.0, 0.0], [7.0, 7.0], [5.0, 2.0], [1e-3, 0.0]];
        let survey = matrix(&rows).survey();
        assert_eq!(survey.untrained, [1, 2, 4, 6]);
        assert_eq!(survey.mean, [3.0, 2.0]);
        assert!((survey.median_norm() - 5.0).abs() < 1e-6);
        assert_eq!(
            [0.5, 1.5, 5.1, 9.0].map(|norm| survey.percentile(norm).round()),
            [0.0, 33.0, 67.0, 100.0]
        );
        assert!(
            (f64::from(survey.rms) - (25.0 + 98.0 + 1.0 + 98.0 + 29.0f64 + 1e-6).sqrt() / 14f64.sqrt()).abs()
                < 1e-6
        );
        assert_eq!(matrix(&rows).distances_to(&[0.0, 0.0])[..4], [5.0, 0.0, 98f32.sqrt(), 1.0]);
        // where no row differs from another there is nothing to tell them by
        let survey = matrix(&[[1.0, 2.0], [1.0, 2.0]]).survey();
        assert_eq!((survey.mean, survey.untrained), (vec![1.0, 2.0], vec![]));
    }

    #[test]
    fn blocks_give_what_one_loop_gives_for_any_number_of_threads() {
        let width = 9;
        let value = |i: usize| ((i * 7919 + i / 9 * 31) % 1013) as f32 / 500.0 - 1.0;
        let values: Vec<f32> = (0..2500 * width).map(value).collect();
        let frozen = FrozenMatrix::from_f32("m", 2500, width, values.clone()).expect("valid");
        let matrix = TokenMatrix::new("m", frozen);
        let wanted = [&values[..width], &values[2400 * width..2401 * width]];
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| (matrix.survey().mean, matrix.nearest(&wanted, 3, |id| id == 2400)))
        };
        let (mean, nearest) = on(1);
        assert_eq!((mean.clone(), nearest.clone()), on(3));
        let survey = matrix.survey();
        let left = (0..2500).filter(|row| !survey.untrained.contains(&(*row as u32)));
        let sum: f64 = left.clone().map(|row| f64::from(values[row * width + 4])).sum();
        assert!((f64::from(mean[4]) - sum / left.count() as f64).abs() < 1e-6);
        // the row itself, and not the one that is passed over
        assert_eq!(nearest[0][0].0, 0);
        assert!((nearest[0][0].1 - 1.0).abs() < 1e-6);
        let cosine = |row: usize| {
            let other = &values[row * width..][..width];
            let product: f64 = wanted[1].iter().zip(other).map(|(x, y)| f64::from(x * y)).sum();
            product / (norm(wanted[1]) * norm(other))
        };
        let mut all: Vec<(usize, f64)> =
            (0..2500).filter(|row| *row != 2400).map(|row| (row, cosine(row))).collect();
        all.sort_by(|x, y| y.1.total_cmp(&x.1));
        for (found, expected) in nearest[1].iter().zip(&all) {
            assert!((f64::from(found.1) - expected.1).abs() < 1e-5, "{found:?} {expected:?}");
        }
        assert_eq!(nearest[1].len(), 3);
    }
}
