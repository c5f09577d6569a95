//! The loss against a plain f64 one.

use super::*;
use crate::testing::{assert_close, central_differences, each_isa, random};
use crate::weight::{RowOrder, Weight, encode};
use crate::weight_type::WeightType;

fn reference(hidden: &[f32], w: &[f32], d: usize, targets: &[u32], head: &Head<'_>) -> Vec<f64> {
    hidden
        .chunks(d)
        .zip(targets)
        .map(|(h, &t)| {
            let logit = |(v, row): (usize, &[f32])| {
                let product = h.iter().zip(row).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
                let logit = product + head.bias.get(v).map_or(0.0, |b| *b as f64);
                head.soft_cap.map_or(logit, |cap| cap as f64 * (logit / cap as f64).tanh())
            };
            let logits: Vec<f64> = w.chunks(d).enumerate().map(logit).collect();
            logits.iter().map(|l| l.exp()).sum::<f64>().ln() - logits[t as usize]
        })
        .collect()
}

fn labelled<'a>(hidden: &'a [f32], targets: &'a [u32]) -> Labelled<'a> {
    Labelled { hidden, targets, weights: &[] }
}

/// A table of `frozen + extra` rows in which every seventh row is trained, and the matrix that it shows.
struct Case {
    data: Vec<u8>,
    extra: Vec<f32>,
    overrides: Vec<(usize, usize)>,
    values: Vec<f32>,
    shown: Vec<f32>,
    frozen: usize,
    d: usize,
}

impl Case {
    fn new(frozen: usize, extra: usize, d: usize) -> Self {
        let base = random(frozen * d, 1);
        let extra = random(extra * d, 2);
        let rows: Vec<usize> = (0..frozen + extra.len() / d).step_by(7).collect();
        // values in the opposite order of the rows: token indices need not be sorted
        let overrides: Vec<_> = rows.iter().enumerate().map(|(i, &r)| (r, rows.len() - 1 - i)).collect();
        let values = random(rows.len() * d, 3);
        let mut shown = [base.clone(), extra.clone()].concat();
        for &(row, at) in &overrides {
            shown[row * d..][..d].copy_from_slice(&values[at * d..][..d]);
        }
        Self {
            data: encode(WeightType::F32, &base).expect("plain"),
            extra,
            overrides,
            values,
            shown,
            frozen,
            d,
        }
    }

    fn table<'a>(&'a self, values: &'a [f32]) -> TokenTable<'a> {
        let base =
            Weight::new(WeightType::F32, &self.data, self.frozen, self.d, RowOrder::Plain).expect("valid");
        TokenTable::new(base, &self.extra, &self.overrides, values)
    }
}

#[test]
fn losses_and_gradients_match_the_reference() {
    each_isa(|isa| {
        for (rows, frozen, extra, d) in [
            (0, 5, 0, 3),
            (1, 1, 0, 4),
            (5, 20, 3, 8),
            (3, PANEL_ROWS, 1, 4),
            (CHUNK_ROWS + 1, 3, 2, 3),
            (TILE_ROWS + 1, 30, 2, 5),
            (2, 600, 40, 4),
        ] {
            // no bias, biases for some and for all entries; with a cap and without
            let all = random(frozen + extra, 5);
            for (bias, soft_cap) in
                [(&[][..], None), (&all[..frozen], None), (&[][..], Some(1.5)), (&all[..], Some(2.5))]
            {
                check(isa, (rows, frozen, extra, d), bias, soft_cap);
            }
        }
    });
}

fn check(
    isa: Isa,
    (rows, frozen, extra, d): (usize, usize, usize, usize),
    bias: &[f32],
    soft_cap: Option<f32>,
) {
    let case = Case::new(frozen, extra, d);
    let hidden: Vec<f32> = random(rows * d, 4).iter().map(|x| 2.0 * x).collect();
    let vocabulary = frozen + extra;
    let targets: Vec<u32> = (0..rows).map(|r| (r * 7 % vocabulary) as u32).collect();
    let what = format!("{isa} {rows} {frozen}+{extra} {d} {} {soft_cap:?}", bias.len());
    let (mut losses, mut dh) = (vec![f32::NAN; rows], vec![f32::NAN; rows * d]);
    let mut dw = vec![1.0; case.values.len()];
    let gradients = Gradients { hidden: Some(&mut dh), trained: Some(&mut dw) };
    let precision = Precision::F32;
    let table = case.table(&case.values);
    let head = Head { isa, table: &table, bias, soft_cap };
    cross_entropy(labelled(&hidden, &targets), &head, &mut losses, gradients, precision);
    assert_close(&losses, &reference(&hidden, &case.shown, d, &targets, &head), 2e-6, &what);
    let mut alone = vec![f32::NAN; rows];
    let none = Gradients::default();
    cross_entropy(labelled(&hidden, &targets), &head, &mut alone, none, precision);
    assert_eq!(losses, alone, "{what}: the loss alone");
    let frozen = frozen_parts(&hidden, &head, &targets, precision);
    let other = random(case.values.len(), 9); // the frozen parts do not know the trained rows
    let other = case.table(&other);
    assert!(frozen == frozen_parts(&hidden, &Head { table: &other, ..head }, &targets, precision), "{what}");
    let (mut parts, mut dw_parts) = (vec![f32::NAN; rows], vec![1.0; dw.len()]);
    with_trained_entries(labelled(&hidden, &targets), &head, &frozen, &mut parts, Some(&mut dw_parts));
    let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|x| *x as f64).collect() };
    assert_close(&parts, &wide(&losses), 3e-6, &format!("{what}: in two parts"));
    assert_close(&dw_parts, &wide(&dw), 2e-5, &format!("{what}: in two parts, trained"));
    if rows == 0 || rows > 10 {
        return;
    }
    let total = |h: &[f32], w: &[f32]| reference(h, w, d, &targets, &head).iter().sum::<f64>();
    let expected = central_differences(&hidden, |h| total(h, &case.shown));
    assert_close(&dh, &expected, 1e-3, &format!("{what} hidden"));
    let mut expected = central_differences(&case.values, |values| {
        let mut shown = case.shown.clone();
        for &(row, at) in &case.overrides {
            shown[row * d..][..d].copy_from_slice(&values[at * d..][..d]);
        }
        total(&hidden, &shown)
    });
    expected.iter_mut().for_each(|g| *g += 1.0); // the gradient is added to what was there
    assert_close(&dw, &expected, 1e-3, &format!("{what} trained"));
}

#[test]
fn large_logits_neither_overflow_nor_vanish() {
    let case = Case::new(4, 0, 2);
    let hidden = [400.0f32, -300.0];
    let (mut losses, mut dh) = ([f32::NAN], [f32::NAN; 2]);
    let gradients = Gradients { hidden: Some(&mut dh), trained: None };
    let table = case.table(&case.values);
    cross_entropy(
        labelled(&hidden, &[3]),
        &Head::plain(Isa::best(), &table),
        &mut losses,
        gradients,
        Precision::F32,
    );
    assert!(losses[0].is_finite() && dh.iter().all(|x| x.is_finite()), "{losses:?} {dh:?}");
}

/// Rows of a trained model put nearly all of their softmax on a few entries.
#[test]
fn in_bf16_little_is_lost_where_little_counts() {
    let (rows, frozen, d) = (20, 3 * PANEL_ROWS + 5, 24);
    let case = Case::new(frozen, 0, d);
    let hidden: Vec<f32> = random(rows * d, 4).iter().map(|x| 6.0 * x).collect();
    let targets: Vec<u32> = (0..rows).map(|r| (r * 131 % frozen) as u32).collect();
    let table = case.table(&case.values);
    each_isa(|isa| {
        let run = |precision| {
            let (mut losses, mut dh) = (vec![f32::NAN; rows], vec![f32::NAN; rows * d]);
            let gradients = Gradients { hidden: Some(&mut dh), trained: None };
            let of = labelled(&hidden, &targets);
            cross_entropy(of, &Head::plain(isa, &table), &mut losses, gradients, precision);
            (losses, dh)
        };
        let ((losses, dh), (exact_losses, exact)) = (run(Precision::Bf16), run(Precision::F32));
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|x| *x as f64).collect() };
        assert_close(&losses, &wide(&exact_losses), 5e-3, &format!("{isa} losses"));
        for (row, (dh, exact)) in dh.chunks(d).zip(exact.chunks(d)).enumerate() {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
            let cosine = dot(dh, exact) / (dot(dh, dh) * dot(exact, exact)).sqrt();
            assert!(cosine > 0.999, "{isa} row {row}: {cosine}");
        }
    });
}

/// A row of weight 2 counts as the row twice; a loss has no weight.
#[test]
fn weights_count_rows_as_often() {
    let (rows, d) = (6, 5);
    let case = Case::new(20, 3, d);
    let table = case.table(&case.values);
    let head = Head::plain(Isa::best(), &table);
    let hidden = random(rows * d, 4);
    let targets: Vec<u32> = (0..rows as u32).map(|row| row * 3).collect();
    let counts = [1, 2, 0, 3, 1, 2];
    let weights: Vec<f32> = counts.iter().map(|count| *count as f32).collect();
    let repeat = |of: &[f32], width: usize| -> Vec<f32> {
        let rows = of.chunks(width).zip(counts);
        rows.flat_map(|(row, count)| std::iter::repeat_n(row, count)).flatten().copied().collect()
    };
    let often: Vec<u32> =
        targets.iter().zip(counts).flat_map(|(target, count)| std::iter::repeat_n(*target, count)).collect();
    let many = repeat(&hidden, d);
    let run = |of: Labelled<'_>| {
        let rows = of.targets.len();
        let (mut losses, mut dh) = (vec![0.0; rows], vec![0.0; rows * d]);
        let mut dw = vec![0.0; case.values.len()];
        let wanted = Gradients { hidden: Some(&mut dh), trained: Some(&mut dw) };
        cross_entropy(of, &head, &mut losses, wanted, Precision::F32);
        let frozen = frozen_parts(of.hidden, &head, of.targets, Precision::F32);
        let mut again = vec![0.0; case.values.len()];
        let mut parts = vec![0.0; rows];
        with_trained_entries(of, &head, &frozen, &mut parts, Some(&mut again));
        (losses, dh, dw, again)
    };
    let weighted = run(Labelled { hidden: &hidden, targets: &targets, weights: &weights });
    let repeated = run(labelled(&many, &often));
    let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|x| *x as f64).collect() };
    assert_close(&repeat(&weighted.0, 1), &wide(&repeated.0), 1e-6, "losses");
    let sums: Vec<f32> = weighted.1.chunks(d).map(|row| row.iter().sum()).collect();
    let mut at = 0;
    for (sum, count) in sums.iter().zip(counts) {
        let expected: f32 = repeated.1[at * d..(at + count) * d].iter().sum();
        assert!((sum - expected).abs() < 1e-5, "{sum} {expected}");
        at += count;
    }
    assert_close(&weighted.2, &wide(&repeated.2), 1e-6, "trained rows");
    assert_close(&weighted.3, &wide(&repeated.3), 1e-6, "trained rows with known parts");
}

/// Losses and gradients of one row in f64, the target apart from the others: `(loss, dh, a gradient for each entry of the table)`.
fn apart(h: &[f32], w: &[f32], target: usize, soft_cap: Option<f32>) -> (f64, Vec<f64>, Vec<Vec<f64>>) {
    let d = h.len();
    let product = |row: &[f32]| h.iter().zip(row).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
    let capped = |x: f64| soft_cap.map_or(x, |cap| cap as f64 * (x / cap as f64).tanh());
    let logits: Vec<f64> = w.chunks(d).map(|row| capped(product(row))).collect();
    let relative: Vec<f64> = logits.iter().map(|l| (l - logits[target]).exp()).collect();
    let others: f64 = relative.iter().enumerate().filter(|(v, _)| *v != target).map(|(_, e)| e).sum();
    let dlogit = |v: usize| {
        let slope = soft_cap.map_or(1.0, |cap| 1.0 - (logits[v] / cap as f64).powi(2));
        slope * if v == target { -others } else { relative[v] } / (1.0 + others)
    };
    let mut dh = vec![0.0; d];
    let of_entries = (0..logits.len()).map(|v| {
        dh.iter_mut().zip(&w[v * d..]).for_each(|(dh, w)| *dh += dlogit(v) * *w as f64);
        h.iter().map(|h| dlogit(v) * *h as f64).collect()
    });
    let of_entries = of_entries.collect();
    (others.ln_1p(), dh, of_entries)
}

/// Where the target has nearly all of the softmax, `p - 1` and the loss are what the others have.
#[test]
fn rows_that_are_certain_of_their_target_keep_their_digits() {
    // what a row is certain of stands in the first two columns, what it would say else in the third
    let (d, vocabulary) = (8, PANEL_ROWS + 100);
    let (targets, rivals) = ([21, PANEL_ROWS + 4], [40, 700, 705]);
    let mut case = Case::new(vocabulary, 0, d);
    for v in 0..vocabulary {
        let row = &mut case.shown[v * d..][..d];
        row.iter_mut().for_each(|x| *x *= 0.5);
        row[..2].copy_from_slice(&targets.map(|target| if target == v { 1.0 } else { 0.0 }));
        row[2] = if rivals.contains(&v) { 1.0 } else { 0.0 };
    }
    case.data = encode(WeightType::F32, &case.shown).expect("plain");
    for &(row, at) in &case.overrides {
        case.values[at * d..][..d].copy_from_slice(&case.shown[row * d..][..d]);
    }
    each_isa(|isa| {
        for (precision, bound) in [(Precision::F32, 1e-4), (Precision::Bf16, 0.05)] {
            for soft_cap in [None, Some(100.0)] {
                for (which, margin) in [0, 1].into_iter().flat_map(|which| MARGINS.map(|m| (which, m))) {
                    let mut hidden: Vec<f32> = random(d, 11).iter().map(|x| 0.5 * x).collect();
                    hidden[..3].copy_from_slice(&[0.0, 0.0, 12.0]);
                    hidden[which] = 12.0 + margin;
                    check_certain(&case, (&hidden, targets[which]), (isa, precision, soft_cap), bound);
                }
            }
        }
    });
}

/// How far the target's logit is ahead of its rivals': they have from a millionth to a billionth of a thousandth.
const MARGINS: [f32; 4] = [14.0, 18.0, 23.0, 27.0];

fn check_certain(
    case: &Case,
    (hidden, target): (&[f32], usize),
    (isa, precision, soft_cap): (Isa, Precision, Option<f32>),
    bound: f64,
) {
    let what = format!("{isa} {precision:?} {soft_cap:?} target {target} {:?}", &hidden[..2]);
    let within = |got: &[f32], expected: &[f64], of: &str| {
        let largest = expected.iter().fold(0f64, |most, x| most.max(x.abs()));
        let off = got.iter().zip(expected).fold(0f64, |most, (x, y)| most.max((*x as f64 - y).abs()));
        assert!(off <= bound * largest, "{what}: {of}: {off:e} of {largest:e} off");
    };
    let table = case.table(&case.values);
    let head = Head { isa, table: &table, bias: &[], soft_cap };
    let (loss, of_hidden, of_entries) = apart(hidden, &case.shown, target, soft_cap);
    assert!((1e-13..1e-4).contains(&loss), "{what}: {loss:e}");
    let mut of_trained = vec![0.0; case.values.len()];
    for &(row, at) in &case.overrides {
        of_trained[at * case.d..][..case.d].copy_from_slice(&of_entries[row]);
    }
    let targets = [target as u32];
    let of = labelled(hidden, &targets);
    let (mut losses, mut dh) = ([f32::NAN], vec![f32::NAN; case.d]);
    let mut dw = vec![0.0; case.values.len()];
    let wanted = Gradients { hidden: Some(&mut dh), trained: Some(&mut dw) };
    cross_entropy(of, &head, &mut losses, wanted, precision);
    within(&losses, &[loss], "loss");
    within(&dh, &of_hidden, "hidden");
    within(&dw, &of_trained, "trained");
    let frozen = frozen_parts(hidden, &head, of.targets, precision);
    dw.fill(0.0);
    with_trained_entries(of, &head, &frozen, &mut losses, Some(&mut dw));
    within(&losses, &[loss], "loss in two parts");
    within(&dw, &of_trained, "trained in two parts");
}
