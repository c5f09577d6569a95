//! Attention against a plain f64 double loop.

use super::*;
use crate::Isa;
use crate::testing::{assert_close, central_differences, each_isa, random};

/// `softmax(scale q kᵀ + mask) v`, one row and head at a time.
fn reference(shape: &Shape, spans: &[Span], x: &Inputs<'_>) -> Vec<f64> {
    let (hd, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let mut out = vec![0f64; x.q.len()];
    for span in spans {
        let past = span.position();
        let before: Vec<(usize, bool)> =
            span.before.iter().flat_map(|s| s.rows.clone().map(|row| (row, s.is_past))).collect();
        for (i, row) in span.rows.clone().enumerate() {
            for head in 0..shape.heads {
                let q = &x.q[row * shape.q_width() + head * hd..][..hd];
                let of = |at: usize, own: &'_ [f32], gone: &'_ [f32], d: usize| {
                    let (data, line) = match before.get(at) {
                        Some(&(line, true)) => (gone, line),
                        Some(&(line, false)) => (own, line),
                        None => (own, span.keys.start + at - past),
                    };
                    data[line * shape.kv_width() + head / group * hd + d] as f64
                };
                let at = past + i;
                let near = |j: &usize| {
                    shape.window.is_none_or(|w| at.abs_diff(*j) < w)
                        && shape.chunk.is_none_or(|chunk| at / chunk == j / chunk)
                };
                let seen: Vec<usize> =
                    (0..span.total()).filter(near).filter(|&j| j <= at || !shape.causal).collect();
                let scores: Vec<f64> = seen
                    .iter()
                    .map(|&j| {
                        let product = (0..hd).map(|d| q[d] as f64 * of(j, x.k, x.past_k, d)).sum::<f64>();
                        let score = product * shape.scale as f64;
                        let bias = x.bias.map_or(0.0, |b| b.get(head, at, j) as f64);
                        shape.soft_cap.map_or(score, |c| c as f64 * (score / c as f64).tanh()) + bias
                    })
                    .collect();
                let sink = x.sinks.get(head).map(|sink| *sink as f64);
                let top = scores.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().copied().chain(sink).map(|s| (s - top).exp()).sum();
                for d in 0..hd {
                    out[row * shape.q_width() + head * hd + d] = scores
                        .iter()
                        .zip(&seen)
                        .map(|(s, &j)| (s - top).exp() / total * of(j, x.v, x.past_v, d))
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
            let span = Span::new(row..row + own, past..past + gone);
            (row, past) = (row + own, past + gone);
            span
        })
        .collect()
}

/// Rows that attend to the rows of other sequences: `(rows, past keys, own keys)`.
fn crossing(lengths: &[(usize, usize, usize)]) -> Vec<Span> {
    let (mut row, mut past, mut key) = (0, 0, 0);
    lengths
        .iter()
        .map(|&(rows, gone, own)| {
            let span = Span { keys: key..key + own, ..Span::new(row..row + rows, past..past + gone) };
            (row, past, key) = (row + rows, past + gone, key + own);
            span
        })
        .collect()
}

/// A forest: of each node its parent, its rows, and, for a root, the past rows before it; roots may share these.
fn forest(nodes: &[(Option<usize>, usize, Range<usize>)]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for (parent, length, past) in nodes {
        let start = spans.last().map_or(0, |span| span.rows.end);
        let mut span = Span::new(start..start + length, past.clone());
        if let Some(parent) = parent.map(|at| &spans[at]) {
            span.before = parent.before.clone();
            span.before.push(Stretch { rows: parent.rows.clone(), is_past: false });
        }
        spans.push(span);
    }
    spans
}

/// Forests of up to four levels, below and above the tiles, with past rows that roots share; few trees and many.
fn forests() -> Vec<Vec<Span>> {
    let shared = vec![
        (None, 3, 0..4),
        (Some(0), 2, 0..0),
        (Some(0), 1, 0..0),
        (Some(1), 4, 0..0),
        (Some(3), 2, 0..0),
        (None, 2, 0..4),
        (Some(5), 3, 0..0),
        (None, 1, 0..0),
    ];
    let long = vec![(None, TILE_KEYS + 3, 0..2), (Some(0), TILE_QUERIES + 1, 0..0), (Some(0), 2, 0..0)];
    let many = (0..14).map(|i| if i % 2 == 0 { (None, 3, 0..i / 4) } else { (Some(i - 1), 2, 0..0) });
    vec![forest(&shared), forest(&long), forest(&many.collect::<Vec<_>>())]
}

/// An attention over some sequences, with a bias or without, with sinks or none.
type Case = (Shape, Vec<Span>, Option<ScoreBias>, &'static [f32]);

/// Of four heads: one that takes nearly all of the softmax, and one that takes next to nothing.
const SINKS: &[f32] = &[0.5, 6.0, -0.3, -9.0];

/// Lengths below, on and above both tiles, empty sequences, past rows, and more sequences than are cut into tiles; windows
/// shorter and longer; then each variant.
fn cases() -> Vec<Case> {
    let base = Shape {
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        scale: 0.35,
        window: None,
        chunk: None,
        causal: true,
        soft_cap: None,
    };
    let lengths: [&[(usize, usize)]; 8] = [
        &[],
        &[(1, 0)],
        &[(5, 0), (0, 0), (3, 4)],
        &[(TILE_QUERIES, 0), (TILE_QUERIES + 1, 3)],
        &[(TILE_KEYS - 1, 2)],
        &[(TILE_KEYS + 5, TILE_KEYS + 1)],
        &[(0, 7), (2, TILE_KEYS)],
        &[(1, 0), (2, 1), (TILE_QUERIES + 2, 4), (1, TILE_KEYS + 3), (0, 0), (TILE_KEYS + 1, 0)],
    ];
    let windows = [None, Some(1), Some(7), Some(100)];
    let mut cases: Vec<(Shape, Vec<Span>, Option<ScoreBias>)> = Vec::new();
    for l in lengths {
        for window in windows {
            cases.push((Shape { window, ..base }, spans(l), None));
            cases.push((Shape { window, causal: false, ..base }, spans(l), None));
        }
    }
    cases.push((Shape { heads: 1, kv_heads: 1, head_dim: 3, ..base }, spans(&[(70, 0)]), None));
    for l in [&[(3, 2), (5, 0)][..], &[(TILE_QUERIES + 3, TILE_KEYS), (4, 1)], lengths[7]] {
        let longest = 2 * TILE_KEYS + 4;
        let by_distance =
            || ScoreBias::by_distance(4, longest, |h, d| 0.3 * (d as f32 * 0.7 + h as f32).sin());
        let by_key = || ScoreBias::by_key(4, longest, |h, k| 0.3 * (k as f32 * 0.7 + h as f32).cos());
        for causal in [true, false] {
            let shape = Shape { causal, ..base };
            cases.push((shape, spans(l), Some(by_distance())));
            cases.push((shape, spans(l), Some(by_key())));
            cases.push((Shape { soft_cap: Some(0.4), ..shape }, spans(l), None));
            cases.push((Shape { soft_cap: Some(0.4), window: Some(3), ..shape }, spans(l), None));
        }
    }
    for l in lengths {
        for chunk in [1, 4, TILE_KEYS + 1] {
            cases.push((Shape { chunk: Some(chunk), ..base }, spans(l), None));
        }
    }
    for spans in forests() {
        cases.push((Shape { chunk: Some(4), ..base }, spans.clone(), None));
        for window in [None, Some(3), Some(100)] {
            cases.push((Shape { window, ..base }, spans.clone(), None));
        }
        cases.push((Shape { soft_cap: Some(0.4), ..base }, spans.clone(), None));
        let bias =
            ScoreBias::by_distance(4, 2 * TILE_KEYS + 4, |h, d| 0.3 * (d as f32 * 0.7 + h as f32).sin());
        cases.push((base, spans, Some(bias)));
    }
    let cross = Shape { causal: false, ..base };
    for l in [
        &[(3, 0, 5), (4, 2, 0), (0, 0, 3)][..],
        &[(TILE_QUERIES + 1, 0, TILE_KEYS + 2), (2, TILE_KEYS + 1, 0)],
        &[(1, 1, 0), (2, 0, 1), (3, 0, TILE_KEYS + 1), (1, 2, 0), (0, 0, 4), (TILE_QUERIES + 1, 0, 2)],
    ] {
        cases.push((cross, crossing(l), None));
    }
    let sunk = cases.iter().filter(|case| case.0.heads == SINKS.len() && case.0.causal).cloned();
    let sunk: Vec<Case> = sunk.map(|(shape, spans, bias)| (shape, spans, bias, SINKS)).collect();
    let plain = cases.into_iter().map(|(shape, spans, bias)| (shape, spans, bias, &[][..]));
    plain.chain(sunk).collect()
}

fn data(shape: &Shape, spans: &[Span]) -> [Vec<f32>; 5] {
    let rows = spans.iter().map(|s| s.rows.len()).sum::<usize>();
    let gone = spans.iter().flat_map(|s| &s.before).filter(|stretch| stretch.is_past);
    let past = gone.map(|stretch| stretch.rows.end).max().unwrap_or(0);
    let keys = spans.iter().map(|s| s.keys.len()).sum::<usize>();
    [
        random(rows * shape.q_width(), 1),
        random(keys * shape.kv_width(), 2),
        random(keys * shape.kv_width(), 3),
        random(past * shape.kv_width(), 4),
        random(past * shape.kv_width(), 5),
    ]
}

fn inputs<'a>(data: &'a [Vec<f32>; 5], bias: Option<&'a ScoreBias>, sinks: &'a [f32]) -> Inputs<'a> {
    Inputs {
        q: &data[0],
        k: &data[1],
        v: &data[2],
        past_k: &data[3],
        past_v: &data[4],
        sinks,
        bias,
        precision: Precision::F32,
    }
}

#[test]
fn forward_matches_the_double_loop() {
    each_isa(|isa| {
        for (shape, spans, bias, sinks) in cases() {
            let data = data(&shape, &spans);
            let x = inputs(&data, bias.as_ref(), sinks);
            let mut out = vec![f32::NAN; x.q.len()];
            let mut lse = vec![f32::NAN; x.q.len() / shape.head_dim];
            forward(isa, &shape, &spans, &x, &mut out, &mut lse);
            assert_close(&out, &reference(&shape, &spans, &x), 1e-6, &format!("{isa} {shape:?} {spans:?}"));
        }
    });
}

#[test]
fn backward_matches_differences_of_the_double_loop() {
    each_isa(|isa| {
        for (shape, spans, bias, sinks) in cases() {
            let rows: usize = spans.iter().map(|s| s.rows.len()).sum();
            if rows > TILE_QUERIES + 10 {
                continue; // differences cost rows² row products; tile bounds are crossed by the next test
            }
            let data = data(&shape, &spans);
            let x = inputs(&data, bias.as_ref(), sinks);
            let dout = random(x.q.len(), 9);
            let [dq, dk, dv] = gradients(isa, &shape, &spans, &x, &dout);
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
    for (shape, spans, bias, sinks) in cases() {
        let data = data(&shape, &spans);
        let x = inputs(&data, bias.as_ref(), sinks);
        let dout = random(x.q.len(), 9);
        let found = gradients(Isa::best(), &shape, &spans, &x, &dout);
        for part in 0..3 {
            for seed in [21, 22] {
                let direction = random(data[part].len(), seed);
                let shifted = |sign: f32| {
                    let mut moved = data.clone();
                    moved[part].iter_mut().zip(&direction).for_each(|(x, d)| *x += sign * 1e-3 * d);
                    reference(&shape, &spans, &inputs(&moved, bias.as_ref(), sinks))
                        .iter()
                        .zip(&dout)
                        .map(|(y, l)| y * *l as f64)
                        .sum::<f64>()
                };
                let expected = (shifted(1.0) - shifted(-1.0)) / 2e-3;
                let got: f64 = found[part].iter().zip(&direction).map(|(g, d)| *g as f64 * *d as f64).sum();
                assert!(
                    (got - expected).abs() < 2e-3 * expected.abs().max(1.0),
                    "{shape:?} {spans:?} {} {part}: {got} {expected}",
                    bias.is_some()
                );
            }
        }
    }
}

/// With bf16 each product's operands are rounded to 8 digits, and what comes out is as near to what they give unrounded.
#[test]
fn bf16_gives_f32_to_its_digits() {
    each_isa(|isa| {
        for (shape, spans, bias, sinks) in cases() {
            let data = data(&shape, &spans);
            let exact = inputs(&data, bias.as_ref(), sinks);
            let rounded = Inputs { precision: Precision::Bf16, ..exact };
            let dout = random(exact.q.len(), 9);
            let outputs = |x: &Inputs<'_>| {
                let (mut out, mut lse) =
                    (vec![f32::NAN; x.q.len()], vec![f32::NAN; x.q.len() / shape.head_dim]);
                forward(isa, &shape, &spans, x, &mut out, &mut lse);
                let [dq, dk, dv] = gradients(isa, &shape, &spans, x, &dout);
                [out, lse, dq, dk, dv]
            };
            for (part, (found, expected)) in outputs(&rounded).iter().zip(outputs(&exact)).enumerate() {
                let expected: Vec<f64> = expected.iter().map(|x| *x as f64).collect();
                let distance =
                    |x: &[f32]| x.iter().zip(&expected).map(|(x, e)| (*x as f64 - e).powi(2)).sum::<f64>();
                let size: f64 = expected.iter().map(|e| e * e).sum();
                assert!(distance(found) <= 1e-4 * size.max(10.0), "{isa} {shape:?} {spans:?} part {part}");
                let is_exact = !isa.has_fast_bf16();
                assert!(!is_exact || distance(found) == 0.0, "{isa}: f32 where bf16 is no faster");
            }
        }
    });
}

fn gradients(isa: Isa, shape: &Shape, spans: &[Span], x: &Inputs<'_>, dout: &[f32]) -> [Vec<f32>; 3] {
    let mut out = vec![f32::NAN; x.q.len()];
    let mut lse = vec![f32::NAN; x.q.len() / shape.head_dim];
    forward(isa, shape, spans, x, &mut out, &mut lse);
    let (mut dq, mut dk, mut dv) =
        (vec![f32::NAN; x.q.len()], vec![f32::NAN; x.k.len()], vec![f32::NAN; x.v.len()]);
    let saved = Saved { out: &out, lse: &lse, dout };
    backward(isa, shape, spans, x, &saved, [&mut dq, &mut dk, &mut dv]);
    [dq, dk, dv]
}

#[test]
fn keys_of_no_sequence_get_no_gradient() {
    let shape = Shape {
        heads: 1,
        kv_heads: 1,
        head_dim: 2,
        scale: 1.0,
        window: None,
        chunk: None,
        causal: false,
        soft_cap: None,
    };
    let spans = [Span { keys: 1..3, ..Span::new(0..2, 0..0) }];
    let (q, k, v) = (random(4, 1), random(8, 2), random(8, 3));
    let x = Inputs {
        q: &q,
        k: &k,
        v: &v,
        past_k: &[],
        past_v: &[],
        sinks: &[],
        bias: None,
        precision: Precision::F32,
    };
    let [_, dk, dv] = gradients(Isa::best(), &shape, &spans, &x, &random(4, 4));
    for gradient in [dk, dv] {
        assert!(
            gradient[..2] == [0.0; 2]
                && gradient[6..] == [0.0; 2]
                && gradient[2..6].iter().all(|g| *g != 0.0)
        );
    }
}

#[test]
fn instruction_sets_run_side_by_side() {
    let shape = Shape {
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        scale: 0.35,
        window: None,
        chunk: None,
        causal: true,
        soft_cap: None,
    };
    for spans in [spans(&[(2 * TILE_KEYS, 0), (TILE_KEYS + 3, 5)]), spans(&[(TILE_KEYS + 3, 5); 12])] {
        let data = data(&shape, &spans);
        let x = inputs(&data, None, &[]);
        let dout = random(x.q.len(), 9);
        let run = |isa| gradients(isa, &shape, &spans, &x, &dout);
        let alone: Vec<_> = Isa::available().map(run).collect();
        std::thread::scope(|scope| {
            let threads: Vec<_> = Isa::available().map(|isa| scope.spawn(move || run(isa))).collect();
            for (isa, (thread, alone)) in Isa::available().zip(threads.into_iter().zip(&alone)) {
                assert!(&thread.join().expect("a thread") == alone, "{isa}");
            }
        });
    }
}
