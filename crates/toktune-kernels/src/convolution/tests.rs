use super::*;
use crate::attention::Stretch;
use crate::testing::{assert_close, each_isa, random};

/// A node of 5 rows that two others, one of them through past rows, begin with; and rows shorter than the convolution.
fn forest() -> Vec<Span> {
    let stretch = |rows, is_past| Stretch { rows, is_past };
    let own = |rows: std::ops::Range<usize>, before| Span { keys: rows.clone(), rows, before };
    vec![
        own(0..5, vec![stretch(1..7, true)]),
        own(5..6, vec![stretch(1..7, true), stretch(0..5, false)]),
        own(6..13, vec![stretch(1..7, true), stretch(0..5, false), stretch(5..6, false)]),
        own(13..15, Vec::new()),
    ]
}

/// One entry at a time: the rows before are walked to from the first one on.
fn plain(of: &Taps<'_>, spans: &[Span], [x, past]: [&[f32]; 2]) -> Vec<f64> {
    let (width, taps) = (of.width, of.weight.len() / of.width);
    let mut y = vec![0.0; x.len()];
    for span in spans {
        let mut seen: Vec<&[f32]> = Vec::new();
        for stretch in &span.before {
            let from = if stretch.is_past { past } else { x };
            seen.extend(stretch.rows.clone().map(|row| &from[row * width..][..width]));
        }
        for row in span.rows.clone() {
            seen.push(&x[row * width..][..width]);
            for c in 0..width {
                let mut sum = of.bias.get(c).map_or(0.0, |b| f64::from(*b));
                for tap in 0..taps.min(seen.len()) {
                    sum += f64::from(of.weight[tap * width + c]) * f64::from(seen[seen.len() - 1 - tap][c]);
                }
                y[row * width + c] = sum;
            }
        }
    }
    y
}

#[test]
fn it_is_the_plain_sum_and_its_gradient_that_of_differences() {
    let spans = forest();
    for (taps, width, has_bias) in [(3, 5, false), (4, 32, true), (1, 17, true), (9, 7, false)] {
        let [x, past] = [(15, 1), (8, 2)].map(|(rows, seed)| random(rows * width, seed));
        let [weight, bias, dy] = [(taps, 3), (1, 4), (15, 5)].map(|(rows, seed)| random(rows * width, seed));
        let of = Taps { weight: &weight, bias: if has_bias { &bias } else { &[] }, width };
        let expected = plain(&of, &spans, [&x, &past]);
        let loss = |x: &[f32]| -> f64 {
            plain(&of, &spans, [x, &past]).iter().zip(&dy).map(|(y, d)| y * f64::from(*d)).sum()
        };
        let slopes: Vec<f64> = (0..x.len())
            .map(|at| {
                let moved = |by: f32| {
                    let mut x = x.clone();
                    x[at] += by;
                    (loss(&x), f64::from(x[at]))
                };
                let ((above, right), (below, left)) = (moved(0.125), moved(-0.125));
                (above - below) / (right - left)
            })
            .collect();
        each_isa(|isa| {
            let [mut y, mut dx] = [(); 2].map(|()| vec![f32::NAN; x.len()]);
            forward(isa, &of, &spans, [&x, &past], &mut y);
            assert_close(&y, &expected, 1e-6, &format!("forward, {taps} taps"));
            backward(isa, &of, &spans, &dy, &mut dx);
            assert_close(&dx, &slopes, 1e-6, &format!("backward, {taps} taps"));
        });
    }
}
