//! A convolution along a sequence, an entry at a time.

use super::{Sequences, Span, Taps};

/// The rows of a sequence from its first one to the last of `span`: which one each is, and whether of the past.
fn sequence(span: &Span) -> Vec<(usize, bool)> {
    let before = span.before.iter();
    let before = before.flat_map(|stretch| stretch.rows.clone().map(|row| (row, stretch.is_past)));
    before.chain(span.rows.clone().map(|row| (row, false))).collect()
}

/// Calls `work(row, tap, the row that it meets, whether that is of the past)` for every pair that meets.
fn each_pair(of: &Sequences, taps: usize, mut work: impl FnMut(usize, usize, usize, bool)) {
    for span in of.spans.iter() {
        let sequence = sequence(span);
        for at in span.position()..sequence.len() {
            for tap in 0..taps.min(at + 1) {
                let (met, is_past) = sequence[at - tap];
                work(sequence[at].0, tap, met, is_past);
            }
        }
    }
}

pub(super) fn forward(by: &Taps<'_, Vec<f64>>, of: &Sequences, [x, past]: [&[f64]; 2], y: &mut [f64]) {
    for (i, y) in y.iter_mut().enumerate() {
        *y = by.bias.map_or(0.0, |bias| bias[i % by.width]);
    }
    each_pair(of, by.weight.len() / by.width, |row, tap, met, is_past| {
        let from = if is_past { past } else { x };
        for c in 0..by.width {
            y[row * by.width + c] += by.weight[tap * by.width + c] * from[met * by.width + c];
        }
    });
}

pub(super) fn backward(by: &Taps<'_, Vec<f64>>, of: &Sequences, dy: &[f64], dx: &mut [f64]) {
    dx.fill(0.0);
    each_pair(of, by.weight.len() / by.width, |row, tap, met, is_past| {
        for c in (0..by.width).filter(|_| !is_past) {
            dx[met * by.width + c] += by.weight[tap * by.width + c] * dy[row * by.width + c];
        }
    });
}
