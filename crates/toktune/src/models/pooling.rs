//! One vector a sequence from its rows: the mean, then of length 1, as sentence-transformers takes it.

/// Lengths below are taken as this, as torch's `normalize` does.
const LEAST_LENGTH: f64 = 1e-12;

/// The mean of `rows [n, d]`.
pub(crate) fn mean(rows: &[f32], d: usize) -> Vec<f64> {
    let mut sum = vec![0f64; d];
    for row in rows.chunks_exact(d.max(1)) {
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    let count = (rows.len() / d.max(1)).max(1) as f64;
    sum.into_iter().map(|x| x / count).collect()
}

/// `x` with length 1, and the length that it had.
pub(crate) fn normalised(x: &[f64]) -> (Vec<f64>, f64) {
    let length = x.iter().map(|x| x * x).sum::<f64>().sqrt().max(LEAST_LENGTH);
    (x.iter().map(|x| x / length).collect(), length)
}
