//! A causal convolution of each column along its sequence, and its gradient.
//!
//! A row reads itself and the few rows before it, wherever in a forest of shared prefixes those lie: among the rows of the pass
//! or among the past ones, which get no gradient.

use crate::Isa;
use crate::attention::Span;
use crate::isa::multiversion;
use rayon::prelude::*;

#[cfg(test)]
mod tests;

/// What a convolution multiplies with.
#[derive(Clone, Copy, Debug)]
pub struct Taps<'a> {
    /// `[taps, width]`: first the factors of a row itself, then those of the row before it, and so on.
    pub weight: &'a [f32],
    /// What is added to every row, `[width]`, or nothing.
    pub bias: &'a [f32],
    /// The columns.
    pub width: usize,
}

/// Where a row lies that another one reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Among the rows of the pass.
    Own(usize),
    /// Among the past ones.
    Past(usize),
}

/// The rows that row `row` of the span reads, itself first, at most `taps`; fewer where its sequence begins.
pub fn sources(span: &Span, row: usize, taps: usize) -> impl Iterator<Item = Source> {
    let own = (span.rows.start..=row).rev().map(Source::Own);
    let before = span.before.iter().rev().flat_map(|stretch| {
        let is_past = stretch.is_past;
        stretch.rows.clone().rev().map(move |row| if is_past { Source::Past(row) } else { Source::Own(row) })
    });
    own.chain(before).take(taps)
}

/// `y[t] = bias + Σ_j weight[j] x[t - j]`, for the rows `x [rows, width]` of all spans; `y` is overwritten.
///
/// Panics when the lengths do not fit together.
pub fn forward(isa: Isa, of: &Taps<'_>, spans: &[Span], [x, past]: [&[f32]; 2], y: &mut [f32]) {
    let width = of.width.max(1);
    let taps = of.weight.len() / width;
    assert!(of.weight.len() == taps * width && x.len() == y.len(), "{} {}", x.len(), y.len());
    assert!(of.bias.is_empty() || of.bias.len() == width, "a bias of {}", of.bias.len());
    let spans_of = span_of_rows(spans, x.len() / width);
    y.par_chunks_exact_mut(width).zip(spans_of.par_iter().enumerate()).for_each(|(y, (row, &span))| {
        match of.bias {
            [] => y.fill(0.0),
            bias => y.copy_from_slice(bias),
        }
        let Some(span) = spans.get(span) else { return };
        for (source, weight) in sources(span, row, taps).zip(of.weight.chunks_exact(width)) {
            let x = match source {
                Source::Own(at) => &x[at * width..][..width],
                Source::Past(at) => &past[at * width..][..width],
            };
            add_product(isa, y, weight, x);
        }
    });
}

/// The gradient of `x [rows, width]` from that of the result, `dy`; `dx` is overwritten. A row that several sequences share
/// gets the sum over them, in the order of the rows that read it.
///
/// Panics when the lengths do not fit together.
pub fn backward(isa: Isa, of: &Taps<'_>, spans: &[Span], dy: &[f32], dx: &mut [f32]) {
    let width = of.width.max(1);
    let taps = of.weight.len() / width;
    assert!(of.weight.len() == taps * width && dx.len() == dy.len(), "{} {}", dx.len(), dy.len());
    // who reads which row, by that row: the other way round each row is written by one thread
    let mut reads: Vec<(usize, usize, usize)> = Vec::with_capacity(taps * (dy.len() / width));
    for span in spans {
        for row in span.rows.clone() {
            for (tap, source) in sources(span, row, taps).enumerate() {
                if let Source::Own(at) = source {
                    reads.push((at, row, tap));
                }
            }
        }
    }
    reads.sort_unstable();
    dx.par_chunks_exact_mut(width).enumerate().for_each(|(at, dx)| {
        dx.fill(0.0);
        let first = reads.partition_point(|read| read.0 < at);
        for &(_, row, tap) in reads[first..].iter().take_while(|read| read.0 == at) {
            add_product(isa, dx, &of.weight[tap * width..][..width], &dy[row * width..][..width]);
        }
    });
}

/// The span of each row; no span's number for a row of none.
fn span_of_rows(spans: &[Span], rows: usize) -> Vec<usize> {
    let mut of = vec![usize::MAX; rows];
    for (number, span) in spans.iter().enumerate() {
        of[span.rows.clone()].fill(number);
    }
    of
}

multiversion! {
    fn add_product(isa: Isa, y: &mut [f32], a: &[f32], b: &[f32]) {
        for (y, (a, b)) in y.iter_mut().zip(a.iter().zip(b)) {
            *y += a * b;
        }
    }
}
