//! What is timed: the kernels at the shapes of real models, about as many rows as a training step has.

use crate::measure::{Case, Work};
use std::rc::Rc;
use toktune_kernels::attention::{self, Inputs, Saved, Shape, Span};
use toktune_kernels::cross_entropy::{Gradients, Head, Labelled, cross_entropy};
use toktune_kernels::gated::Activation;
use toktune_kernels::gated_mlp::{GatedMlp, Kept};
use toktune_kernels::matmul::{self, Write};
use toktune_kernels::norm::RmsNorm;
use toktune_kernels::{Isa, Precision, RowOrder, TokenTable, Weight, WeightType};

/// Rows of a batch: eight short conversations.
const ROWS: usize = 1000;

/// The sizes of a model.
pub struct Model {
    pub name: &'static str,
    d: usize,
    inner: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocabulary: usize,
    window: usize,
    activation: Activation,
}

pub const MODELS: [Model; 2] = [
    Model {
        name: "SmolLM2-135M",
        d: 576,
        inner: 1536,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        vocabulary: 49152,
        window: 512,
        activation: Activation::Silu,
    },
    Model {
        name: "Gemma-3-270M",
        d: 640,
        inner: 2048,
        heads: 4,
        kv_heads: 1,
        head_dim: 256,
        vocabulary: 262144,
        window: 512,
        activation: Activation::GeluTanh,
    },
];

/// A group of cases: its title, and what makes them.
type Group = (&'static str, fn(Isa, &Model) -> Vec<Case>);

pub const GROUPS: [Group; 6] = [
    ("products with a frozen weight, 1000 rows", products),
    ("products of few rows, bytes of weights read", few_rows),
    ("gated MLP, 1000 rows", mlp),
    ("attention", attention),
    ("cross-entropy, 1000 labelled rows", losses),
    ("rms_norm", norms),
];

/// A group that does not depend on a model.
type ShapeGroup = (&'static str, fn(Isa) -> Vec<Case>);

/// Groups that do not depend on a model.
pub const SHAPES: [ShapeGroup; 1] = [("products by rows and shape, bf16 weights", shapes)];

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

fn case(name: String, work: Work, run: impl FnMut() + 'static) -> Case {
    Case { name, work, run: Box::new(run) }
}

/// Numbers in `[-1, 1)`, the same each time.
fn floats(n: usize) -> Vec<f32> {
    let mut state = n as u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// A stored weight with numbers of ordinary size.
struct Stored {
    dtype: WeightType,
    data: Vec<u8>,
    rows: usize,
    cols: usize,
}

impl Stored {
    fn new(dtype: WeightType, rows: usize, cols: usize) -> Rc<Self> {
        let small: Vec<f32> = floats(1 << 16).iter().map(|x| x * 0.05).collect();
        let pattern = toktune_kernels::weight::encode(dtype, &small).unwrap_or_else(|| {
            // any bits are a block, but its factors (at most two in front, or one behind) should be ordinary numbers
            let mut bytes: Vec<u8> = small.iter().map(|x| x.to_bits() as u8).collect();
            bytes.truncate(bytes.len() / dtype.block_bytes() * dtype.block_bytes());
            for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                let factors = if dtype == WeightType::Q6K { 208..210 } else { 0..4 };
                for factor in block[factors].chunks_exact_mut(2) {
                    factor.copy_from_slice(&[0x00, 0x10]);
                }
            }
            bytes
        });
        let len = dtype.bytes(rows, cols).expect("whole blocks");
        let data = pattern.iter().copied().cycle().take(len).collect();
        Rc::new(Self { dtype, data, rows, cols })
    }

    fn weight(&self) -> Weight<'_> {
        Weight::new(self.dtype, &self.data, self.rows, self.cols, RowOrder::Plain).expect("a valid weight")
    }
}

/// Both products with weights of a small model and of a wide one, from few rows to many.
fn shapes(isa: Isa) -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, k) in [(1536, 576), (576, 1536), (9216, 2304), (2304, 9216)] {
        let weight = Stored::new(WeightType::BF16, n, k);
        for rows in [64, 256, 1600] {
            for precision in PRECISIONS {
                let name = |pass| format!("{rows} rows, [{n}, {k}], {precision:?}, {pass}");
                let work = Work::Operations(2.0 * (rows * n * k) as f64, precision);
                let (w, x, mut y) = (weight.clone(), floats(rows * k), vec![0.0; rows * n]);
                cases.push(case(name("forward"), work, move || {
                    matmul::forward(isa, &x, &w.weight(), precision, Write::Over, &mut y);
                }));
                let (w, dy, mut dx) = (weight.clone(), floats(rows * n), vec![0.0; rows * k]);
                cases.push(case(name("backward"), work, move || {
                    matmul::backward(isa, &dy, &w.weight(), precision, Write::Over, &mut dx);
                }));
            }
        }
    }
    cases
}

fn products(isa: Isa, of: &Model) -> Vec<Case> {
    use WeightType::{BF16, F32, Q4K, Q8_0};
    let (q, kv) = (of.heads * of.head_dim, of.kv_heads * of.head_dim);
    // Q4_K needs rows of whole blocks of 256
    let gate = [F32, BF16, Q8_0].map(|dtype| ("gate", dtype, of.inner, of.d));
    let down = [F32, BF16, Q8_0, Q4K].map(|dtype| ("down", dtype, of.d, of.inner));
    let attention = [("q", BF16, q, of.d), ("k", BF16, kv, of.d), ("o", BF16, of.d, q)];
    let mut cases = Vec::new();
    for (name, dtype, n, k) in attention.into_iter().chain(gate).chain(down) {
        let weight = Stored::new(dtype, n, k);
        for precision in PRECISIONS {
            let name = |pass| format!("{name} [{n}, {k}] {dtype}, {precision:?}, {pass}");
            let work = Work::Operations(2.0 * (ROWS * n * k) as f64, precision);
            let (w, x, mut y) = (weight.clone(), floats(ROWS * k), vec![0.0; ROWS * n]);
            cases.push(case(name("forward"), work, move || {
                matmul::forward(isa, &x, &w.weight(), precision, Write::Over, &mut y);
            }));
            let (w, dy, mut dx) = (weight.clone(), floats(ROWS * n), vec![0.0; ROWS * k]);
            cases.push(case(name("backward"), work, move || {
                matmul::backward(isa, &dy, &w.weight(), precision, Write::Over, &mut dx);
            }));
        }
    }
    cases
}

/// The products of a token that is generated, of a small model and of a larger one, whose weight no cache holds.
fn few_rows(isa: Isa, of: &Model) -> Vec<Case> {
    use WeightType::{BF16, F32, Q4_0, Q4_1, Q4K, Q5K, Q6K, Q8_0};
    let mut cases = Vec::new();
    let small = [BF16, Q8_0, Q4_1].map(|dtype| (dtype, of.inner, of.d));
    let large = [BF16, F32, Q8_0, Q4_0, Q4_1, Q4K, Q5K, Q6K].map(|dtype| (dtype, 9216, 2304));
    for (dtype, n, k) in small.into_iter().chain(large) {
        let weight = Stored::new(dtype, n, k);
        for rows in if dtype.block_len() > 1 { &[1, 4, 8][..] } else { &[] } {
            let (w, x, mut y) = (weight.clone(), floats(rows * k), vec![0.0; rows * n]);
            let name = format!("[{n}, {k}] {dtype}, integers, {rows} rows");
            cases.push(case(name, Work::Read(weight.data.len() as f64), move || {
                matmul::stream_in_integers(isa, &x, &w.weight(), Precision::F32, Write::Over, &mut y);
            }));
        }
        for precision in PRECISIONS {
            for rows in [1, 4, 8] {
                let (w, x, mut y) = (weight.clone(), floats(rows * k), vec![0.0; rows * n]);
                let name = format!("[{n}, {k}] {dtype}, {precision:?}, {rows} rows");
                cases.push(case(name, Work::Read(weight.data.len() as f64), move || {
                    matmul::stream(isa, &x, &w.weight(), precision, Write::Over, &mut y);
                }));
            }
        }
    }
    cases
}

fn mlp(isa: Isa, of: &Model) -> Vec<Case> {
    let weights = [(of.inner, of.d), (of.inner, of.d), (of.d, of.inner)];
    let weights = weights.map(|(rows, cols)| Stored::new(WeightType::BF16, rows, cols));
    let activation = of.activation;
    let mut cases = Vec::new();
    for precision in PRECISIONS {
        let product = 2.0 * (ROWS * of.d * of.inner) as f64;
        let work = |products: f64| Work::Operations(products * product, precision);
        for keeps in [false, true] {
            let how = if keeps { "kept projections" } else { "fresh" };
            let name = |pass| format!("BF16, {precision:?}, {pass}, {how}");
            let (w, x) = (weights.clone(), floats(ROWS * of.d));
            let (mut y, mut kept) = (vec![0.0; x.len()], Kept::default());
            cases.push(case(name("forward"), work(3.0), move || {
                let [gate, up, down] = [&w[0], &w[1], &w[2]].map(|w| w.weight());
                let mlp = GatedMlp { isa, gate: &gate, up: &up, down: &down, activation, precision };
                mlp.forward(&x, Write::Over, &mut y, keeps.then_some(&mut kept));
            }));
            let (w, x, dy) = (weights.clone(), floats(ROWS * of.d), floats(ROWS * of.d));
            let mut dx = vec![0.0; x.len()];
            let both = || floats(ROWS * of.inner);
            let kept = keeps.then(|| Kept { gate: both(), up: both() });
            cases.push(case(name("backward"), work(if keeps { 3.0 } else { 5.0 }), move || {
                let [gate, up, down] = [&w[0], &w[1], &w[2]].map(|w| w.weight());
                let mlp = GatedMlp { isa, gate: &gate, up: &up, down: &down, activation, precision };
                let kept = kept.as_ref().map(|kept| [&kept.gate[..], &kept.up]);
                mlp.backward(&x, &dy, kept, &mut dx);
            }));
        }
    }
    cases
}

/// Sequences of `own` rows, each behind `past` constant ones.
fn spans(lengths: &[(usize, usize)]) -> Vec<Span> {
    let (mut row, mut before) = (0, 0);
    let follow = |&(past, own): &(usize, usize)| {
        let span = Span::new(row..row + own, before..before + past);
        (row, before) = (row + own, before + past);
        span
    };
    lengths.iter().map(follow).collect()
}

fn attention(isa: Isa, of: &Model) -> Vec<Case> {
    let ragged = [(70, 90), (110, 140), (40, 60), (95, 180), (60, 75), (130, 200), (80, 110), (55, 145)];
    let mut cases = Vec::new();
    for (name, lengths, window) in [
        ("8 ragged rows with a past", &ragged[..], None),
        ("2048 rows", &[(0, 2048)][..], None),
        ("2048 rows, window", &[(0, 2048)][..], Some(of.window)),
    ] {
        let spans = spans(lengths);
        let shape = Shape {
            heads: of.heads,
            kv_heads: of.kv_heads,
            head_dim: of.head_dim,
            scale: (of.head_dim as f32).powf(-0.5),
            window,
            chunk: None,
            causal: true,
            soft_cap: None,
        };
        let seen = |at: usize| window.map_or(at + 1, |window| window.min(at + 1));
        let pairs: usize = lengths.iter().flat_map(|(past, own)| (*past..past + own).map(seen)).sum();
        let product = 2.0 * (pairs * of.heads * of.head_dim) as f64;
        let name = |pass| format!("{name}{}, {pass}", window.map_or(String::new(), |n| format!(" {n}")));
        let (rows, past) = lengths.iter().fold((0, 0), |(rows, past), (p, own)| (rows + own, past + p));
        let (q, kv) = (of.heads * of.head_dim, of.kv_heads * of.head_dim);
        let data = Rc::new([rows * q, rows * kv, rows * kv, past * kv, past * kv].map(floats));
        for precision in PRECISIONS {
            let name = |pass| format!("{}, {precision:?}", name(pass));
            let (mut out, mut lse) = (vec![0.0; rows * q], vec![0.0; rows * of.heads]);
            attention::forward(isa, &shape, &spans, &inputs(&data, precision), &mut out, &mut lse);
            let saved = (out.clone(), lse.clone());
            let (d, s) = (data.clone(), spans.clone());
            let work = |products: f64| Work::Operations(products * product, precision);
            cases.push(case(name("forward"), work(2.0), move || {
                attention::forward(isa, &shape, &s, &inputs(&d, precision), &mut out, &mut lse);
            }));
            let dout = floats(rows * q);
            let [mut dq, mut dk, mut dv] = [rows * q, rows * kv, rows * kv].map(floats);
            let (data, spans) = (data.clone(), spans.clone());
            cases.push(case(name("backward"), work(5.0), move || {
                let saved = Saved { out: &saved.0, lse: &saved.1, dout: &dout };
                let gradients = [&mut dq[..], &mut dk, &mut dv];
                attention::backward(isa, &shape, &spans, &inputs(&data, precision), &saved, gradients);
            }));
        }
    }
    cases
}

fn inputs([q, k, v, past_k, past_v]: &[Vec<f32>; 5], precision: Precision) -> Inputs<'_> {
    Inputs { q, k, v, past_k, past_v, sinks: &[], bias: None, precision }
}

fn losses(isa: Isa, of: &Model) -> Vec<Case> {
    let (d, vocabulary) = (of.d, of.vocabulary);
    let head = Stored::new(WeightType::BF16, vocabulary, d);
    let mut cases = Vec::new();
    for precision in PRECISIONS {
        let logits = 2.0 * (ROWS * d * vocabulary) as f64;
        for (how, gradients, products) in [("loss alone", false, 1.0), ("with gradients", true, 2.0)] {
            let (head, hidden, trained) = (head.clone(), floats(ROWS * d), floats(3 * d));
            let targets: Vec<u32> = (0..ROWS).map(|i| (i * 7919 % vocabulary) as u32).collect();
            let (mut loss, mut dh, mut rows) = (vec![0.0; ROWS], vec![0.0; ROWS * d], vec![0.0; 3 * d]);
            let work = Work::Operations(products * logits, precision);
            cases.push(case(format!("BF16, {precision:?}, {how}"), work, move || {
                let (weight, overrides) = (head.weight(), [(7, 0), (8, 1), (9, 2)]);
                let table = TokenTable::new(weight, &[], &overrides, &trained);
                let wanted = if gradients {
                    Gradients { hidden: Some(&mut dh), trained: Some(&mut rows) }
                } else {
                    Gradients::default()
                };
                let of = Labelled { hidden: &hidden, targets: &targets, weights: &[] };
                cross_entropy(of, &Head::plain(isa, &table), &mut loss, wanted, precision);
            }));
        }
    }
    cases
}

fn norms(isa: Isa, of: &Model) -> Vec<Case> {
    let mut cases = Vec::new();
    for rows in [ROWS, 32 * ROWS] {
        let (x, weight, mut y) = (floats(rows * of.d), floats(of.d), vec![0.0; rows * of.d]);
        let bytes = size_of_val(&x[..]) as f64;
        cases.push(case(format!("{rows} rows, forward"), Work::Bytes(2.0 * bytes), move || {
            RmsNorm { isa, weight: &weight, eps: 1e-5 }.forward(&x, &mut y);
        }));
        let (x, dy, weight) = (floats(rows * of.d), floats(rows * of.d), floats(of.d));
        let mut dx = vec![0.0; x.len()];
        cases.push(case(format!("{rows} rows, backward"), Work::Bytes(3.0 * bytes), move || {
            RmsNorm { isa, weight: &weight, eps: 1e-5 }.backward(&x, &dy, Write::Over, &mut dx);
        }));
    }
    cases
}
