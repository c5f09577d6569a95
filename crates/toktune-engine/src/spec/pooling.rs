//! One vector a sequence from its rows, as the `Pooling` module of sentence-transformers takes it, and back.

/// Lengths below are taken as this, as torch's `normalize` does.
const LEAST_LENGTH: f64 = 1e-12;

/// What of a sequence's rows its vector is: `pooling_mode` of sentence-transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolingMode {
    /// The first row (`cls`).
    Cls,
    /// The largest of each entry (`max`).
    Max,
    /// The mean (`mean`).
    Mean,
    /// The sum divided by the root of the number of rows (`mean_sqrt_len_tokens`).
    MeanSqrtLen,
    /// The mean with weights 1, 2, 3, … (`weightedmean`).
    WeightedMean,
    /// The last row (`lasttoken`).
    LastToken,
}

impl PoolingMode {
    /// The modes by their names, with those of the flags that stood for them before sentence-transformers 6, in the order in
    /// which the vectors of several are joined.
    pub const NAMES: [(&'static str, &'static str, PoolingMode); 6] = [
        ("cls", "pooling_mode_cls_token", PoolingMode::Cls),
        ("max", "pooling_mode_max_tokens", PoolingMode::Max),
        ("mean", "pooling_mode_mean_tokens", PoolingMode::Mean),
        ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", PoolingMode::MeanSqrtLen),
        ("weightedmean", "pooling_mode_weightedmean_tokens", PoolingMode::WeightedMean),
        ("lasttoken", "pooling_mode_lasttoken", PoolingMode::LastToken),
    ];

    /// Its name in sentence-transformers.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, _, mode)| *mode == self).map_or("", |(name, _, _)| name)
    }

    /// The share of row `row` of `rows` in the vector; `None` where entries are chosen one by one.
    fn share(self, row: usize, rows: usize) -> Option<f64> {
        let n = rows as f64;
        match self {
            Self::Max => None,
            Self::Cls => Some(f64::from(u8::from(row == 0))),
            Self::LastToken => Some(f64::from(u8::from(row + 1 == rows))),
            Self::Mean => Some(1.0 / n),
            Self::MeanSqrtLen => Some(1.0 / n.sqrt()),
            Self::WeightedMean => Some(2.0 * (row + 1) as f64 / (n * (n + 1.0))),
        }
    }

    /// The vector of `rows [n, d]`.
    fn pool(self, rows: &[f32], d: usize) -> Vec<f64> {
        let (mut vector, count) = (vec![0f64; d], rows.len() / d.max(1));
        if self == Self::Max {
            let at = |col: usize, row: usize| f64::from(rows[row * d + col]);
            return largest(rows, d).into_iter().enumerate().map(|(col, row)| at(col, row)).collect();
        }
        for (at, row) in rows.chunks_exact(d.max(1)).enumerate() {
            let share = self.share(at, count).filter(|share| *share != 0.0);
            let Some(share) = share else { continue };
            vector.iter_mut().zip(row).for_each(|(sum, x)| *sum += share * f64::from(*x));
        }
        vector
    }

    /// Adds to `drows [n, d]` what the gradient `upstream [d]` of the vector is for the rows.
    fn pull(self, rows: &[f32], d: usize, upstream: &[f64], drows: &mut [f32]) {
        if self == Self::Max {
            let chosen = largest(rows, d).into_iter().enumerate();
            return chosen.for_each(|(col, row)| drows[row * d + col] += upstream[col] as f32);
        }
        let count = rows.len() / d.max(1);
        for (at, drow) in drows.chunks_exact_mut(d.max(1)).enumerate() {
            let share = self.share(at, count).filter(|share| *share != 0.0);
            let Some(share) = share else { continue };
            drow.iter_mut().zip(upstream).for_each(|(x, g)| *x += (g * share) as f32);
        }
    }
}

/// The row with the largest entry of each column, the first of equals.
fn largest(rows: &[f32], d: usize) -> Vec<usize> {
    let count = rows.len() / d.max(1);
    let of = |col: usize| {
        (0..count).fold(0, |best, row| if rows[row * d + col] > rows[best * d + col] { row } else { best })
    };
    if count == 0 { Vec::new() } else { (0..d).map(of).collect() }
}

/// The vectors of `rows [n, d]` by each of `modes`, one after the other.
pub(crate) fn pool(modes: &[PoolingMode], rows: &[f32], d: usize) -> Vec<f64> {
    modes.iter().flat_map(|mode| mode.pool(rows, d)).collect()
}

/// Adds to `drows [n, d]` what the gradient `upstream` of [`pool`]'s result is for the rows.
pub(crate) fn pull(modes: &[PoolingMode], rows: &[f32], d: usize, upstream: &[f64], drows: &mut [f32]) {
    let parts = modes.iter().zip(upstream.chunks_exact(d.max(1)));
    parts.for_each(|(mode, upstream)| mode.pull(rows, d, upstream, drows));
}

/// `x` with length 1, and the length that it had.
pub(crate) fn normalised(x: &[f64]) -> (Vec<f64>, f64) {
    let length = x.iter().map(|x| x * x).sum::<f64>().sqrt().max(LEAST_LENGTH);
    (x.iter().map(|x| x / length).collect(), length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [f32; 6] = [1.0, 9.0, 4.0, -2.0, 7.0, 5.0];

    #[test]
    fn vectors_are_those_of_sentence_transformers() {
        let root = 3f64.sqrt();
        for (mode, expected) in [
            (PoolingMode::Cls, [1.0, 9.0]),
            (PoolingMode::Max, [7.0, 9.0]),
            (PoolingMode::Mean, [4.0, 4.0]),
            (PoolingMode::MeanSqrtLen, [12.0 / root, 12.0 / root]),
            (PoolingMode::WeightedMean, [(1.0 + 8.0 + 21.0) / 6.0, (9.0 - 4.0 + 15.0) / 6.0]),
            (PoolingMode::LastToken, [7.0, 5.0]),
        ] {
            let vector = pool(&[mode], &ROWS, 2);
            assert!(vector.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-12), "{mode:?}: {vector:?}");
        }
        assert_eq!(pool(&[PoolingMode::LastToken, PoolingMode::Cls], &ROWS, 2), [7.0, 5.0, 1.0, 9.0]);
    }

    #[test]
    fn gradients_are_those_of_differences() {
        let modes = PoolingMode::NAMES.map(|(_, _, mode)| mode);
        let weights: Vec<f64> = (0..12).map(|i| ((i * 5) as f64 * 0.7).sin()).collect();
        let value =
            |rows: &[f32]| -> f64 { pool(&modes, rows, 2).iter().zip(&weights).map(|(x, w)| x * w).sum() };
        let mut gradient = vec![0f32; 6];
        pull(&modes, &ROWS, 2, &weights, &mut gradient);
        for (at, gradient) in gradient.iter().enumerate() {
            let shifted = |by: f32| {
                let mut rows = ROWS;
                rows[at] += by;
                value(&rows)
            };
            let expected = (shifted(0.25) - shifted(-0.25)) / 0.5;
            assert!((f64::from(*gradient) - expected).abs() < 1e-6, "{at}: {gradient} {expected}");
        }
    }
}
