//! Attention against a plain f64 double loop.

use super::*;
use crate::testing::{assert_close, central_differences, each_isa, random};

/// `softmax(scale q kᵀ + mask) v`, one row and head at a time.
fn reference(shape: &Shape, spans: &[Span], x: &Inputs<'_>) -> Vec<f64> {
    let (hd, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let mut out = vec![0f64; x.q.len()];
    for span in spans {
        let past = span.past.len();
        for (i, row) in span.rows.clone().enumerate() {
            for head in 0..shape.heads {
                let q = &x.q[row * shape.q_width() + head * hd..][..hd];
                let of = |at: usize, own: &'_ [f32], gone: &'_ [f32], d: usize| {
                    let (data, line) = if at < past {
                        (gone, span.past.start + at)
                    } else {
                        (own, span.rows.start + at - past)
                    };
                    data[line * shape.kv_width() + head / group * hd + d] as f64
                };
                let at = past + i;
                let first = shape.window.map_or(0, |w| (at + 1).saturating_sub(w));
                let scores: Vec<f64> = (first..=at)
                    .map(|j| {
                        (0..hd).map(|d| q[d] as f64 * of(j, x.k, x.past_k, d)).sum::<f64>()
                            * shape.scale as f64
                    })
                    .collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
                for d in 0..hd {
                    out[row * shape.q_width() + head * hd + d] = scores
                        .iter()
                        .zip(first..)
                        .map(|(s, j)| (s - top).exp() / total * of(j, x.v, x.past_v, d))
                        .sum();
                }
            }
        }
    }
    out
}

fn spans(lengths: &[(usize, usize)]) -> Vec<Span> {
    let (mut row, mut past) = (0, 0);
    lengths
        .iter()
        .map(|&(own, gone)| {
            let span = Span { rows: row..row + own, past: past..past + gone };
            (row, past) = (row + own, past + gone);
            span
        })
        .collect()
}

/// Lengths below, on and above both tiles, empty sequences, and past rows; then windows shorter and longer.
fn cases() -> Vec<(Shape, Vec<Span>)> {
    let base = Shape { heads: 4, kv_heads: 2, head_dim: 8, scale: 0.35, window: None };
    let lengths: [&[(usize, usize)]; 7] = [
        &[],
        &[(1, 0)],
        &[(5, 0), (0, 0), (3, 4)],
        &[(TILE_QUERIES, 0), (TILE_QUERIES + 1, 3)],
        &[(TILE_KEYS - 1, 2)],
        &[(TILE_KEYS + 5, TILE_KEYS + 1)],
        &[(0, 7), (2, TILE_KEYS)],
    ];
    lengths
        .iter()
        .flat_map(|l| [None, Some(1), Some(7), Some(100)].map(|window| (Shape { window, ..base }, spans(l))))
        .chain([(Shape { heads: 1, kv_heads: 1, head_dim: 3, ..base }, spans(&[(70, 0)]))])
        .collect()
}

fn data(shape: &Shape, spans: &[Span]) -> [Vec<f32>; 5] {
    let rows = spans.iter().map(|s| s.rows.len()).sum::<usize>();
    let past = spans.iter().map(|s| s.past.len()).sum::<usize>();
    [
        random(rows * shape.q_width(), 1),
        random(rows * shape.kv_width(), 2),
        random(rows * shape.kv_width(), 3),
        random(past * shape.kv_width(), 4),
        random(past * shape.kv_width(), 5),
    ]
}

fn inputs(data: &[Vec<f32>; 5]) -> Inputs<'_> {
    Inputs { q: &data[0], k: &data[1], v: &data[2], past_k: &data[3], past_v: &data[4] }
}

#[test]
fn forward_matches_the_double_loop() {
    each_isa(|isa| {
        for (shape, spans) in cases() {
            let data = data(&shape, &spans);
            let x = inputs(&data);
            let mut out = vec![f32::NAN; x.q.len()];
            let mut lse = vec![f32::NAN; x.q.len() / shape.head_dim];
            forward(&shape, &spans, &x, &mut out, &mut lse);
            assert_close(&out, &reference(&shape, &spans, &x), 1e-6, &format!("{isa} {shape:?} {spans:?}"));
        }
    });
}

#[test]
fn backward_matches_differences_of_the_double_loop() {
    each_isa(|isa| {
        for (shape, spans) in cases() {
            let rows: usize = spans.iter().map(|s| s.rows.len()).sum();
            if rows > TILE_QUERIES + 10 {
                continue; // differences cost rows² row products; tile bounds are crossed by the next test
            }
            let data = data(&shape, &spans);
            let x = inputs(&data);
            let dout = random(x.q.len(), 9);
            let [dq, dk, dv] = gradients(&shape, &spans, &x, &dout);
            let loss = |x: &Inputs<'_>| -> f64 {
                reference(&shape, &spans, x).iter().zip(&dout).map(|(y, l)| y * *l as f64).sum()
            };
            let what = format!("{isa} {shape:?} {spans:?}");
            if rows <= 10 {
                let expected = central_differences(x.q, |q| loss(&Inputs { q, ..x }));
                assert_close(&dq, &expected, 1e-3, &format!("{what} dq"));
                let expected = central_differences(x.k, |k| loss(&Inputs { k, ..x }));
                assert_close(&dk, &expected, 1e-3, &format!("{what} dk"));
                let expected = central_differences(x.v, |v| loss(&Inputs { v, ..x }));
                assert_close(&dv, &expected, 1e-3, &format!("{what} dv"));
            }
        }
    });
}

/// Directional derivatives: cheap enough for lengths past every tile bound, and no entry can be wrong unseen twice.
#[test]
fn backward_matches_directional_differences_past_the_tiles() {
    for (shape, spans) in cases() {
        let data = data(&shape, &spans);
        let x = inputs(&data);
        let dout = random(x.q.len(), 9);
        let found = gradients(&shape, &spans, &x, &dout);
        for part in 0..3 {
            for seed in [21, 22] {
                let direction = random(data[part].len(), seed);
                let shifted = |sign: f32| {
                    let mut moved = data.clone();
                    moved[part].iter_mut().zip(&direction).for_each(|(x, d)| *x += sign * 1e-3 * d);
                    reference(&shape, &spans, &inputs(&moved))
                        .iter()
                        .zip(&dout)
                        .map(|(y, l)| y * *l as f64)
                        .sum::<f64>()
                };
                let expected = (shifted(1.0) - shifted(-1.0)) / 2e-3;
                let got: f64 = found[part].iter().zip(&direction).map(|(g, d)| *g as f64 * *d as f64).sum();
                assert!(
                    (got - expected).abs() < 2e-3 * expected.abs().max(1.0),
                    "{shape:?} {spans:?} {part}: {got} {expected}"
                );
            }
        }
    }
}

fn gradients(shape: &Shape, spans: &[Span], x: &Inputs<'_>, dout: &[f32]) -> [Vec<f32>; 3] {
    let mut out = vec![f32::NAN; x.q.len()];
    let mut lse = vec![f32::NAN; x.q.len() / shape.head_dim];
    forward(shape, spans, x, &mut out, &mut lse);
    let (mut dq, mut dk, mut dv) =
        (vec![f32::NAN; x.q.len()], vec![f32::NAN; x.k.len()], vec![f32::NAN; x.v.len()]);
    let saved = Saved { out: &out, lse: &lse, dout };
    backward(shape, spans, x, &saved, &mut dq, &mut dk, &mut dv);
    [dq, dk, dv]
}
