//! Products in integers against the product in `f64`, and instruction sets against each other.

use super::*;
use crate::matmul::{FEW_ROWS, Write, stream, stream_in_integers};
use crate::product::Precision;
use crate::testing::{each_isa, halves, random, random_blocks};
use crate::weight::{Matrix, RowOrder, TokenTable, Weight, encode};

const TYPES: [WeightType; 8] = [
    WeightType::Q8_0,
    WeightType::Q4_0,
    WeightType::Q4_1,
    WeightType::Q5_0,
    WeightType::Q5_1,
    WeightType::Q4K,
    WeightType::Q5K,
    WeightType::Q6K,
];

fn weight(dtype: WeightType, data: &[u8], (n, k): (usize, usize)) -> Weight<'_> {
    Weight::new(dtype, data, n, k, RowOrder::Plain).expect("a valid weight")
}

fn blocks(dtype: WeightType, (n, k): (usize, usize), seed: u64) -> Vec<u8> {
    random_blocks(dtype, n * k / dtype.block_len(), seed)
}

fn decoded(w: &impl Matrix) -> Vec<f32> {
    let mut all = vec![0.0; w.rows() * w.cols()];
    w.decode(Isa::PORTABLE, 0..w.rows(), 0..w.cols(), &mut all);
    all
}

fn product(isa: Isa, x: &[f32], w: &impl Matrix) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.len() / w.cols().max(1) * w.rows()];
    stream_in_integers(isa, x, w, Precision::F32, Write::Over, &mut y);
    y
}

/// `x` as it is after rounding: the nearest of 255 numbers, run by run.
fn rounded(x: &[f32]) -> Vec<f64> {
    let of = |run: &[f32]| {
        let largest = run.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let (factor, inverse) = (largest / 127.0, if largest > 0.0 { 127.0 / largest } else { 0.0 });
        let round = |x: &f32| (x * inverse).round_ties_even() as f64 * factor as f64;
        run.iter().map(round).collect::<Vec<_>>()
    };
    x.chunks(RUN).flat_map(of).collect()
}

/// Each entry of the product of `x` and the rows of `w`, and the sum of the sizes of what it sums up.
fn reference(x: &[f64], w: &[f32], k: usize) -> Vec<[f64; 2]> {
    let entry = |x: &[f64], w: &[f32]| {
        let products = x.iter().zip(w).map(|(x, w)| x * *w as f64);
        products.fold([0.0, 0.0], |[sum, sizes], product| [sum + product, sizes + product.abs()])
    };
    x.chunks(k).flat_map(|x| w.chunks(k).map(move |w| entry(x, w))).collect()
}

/// Sums of a format with minima are taken in two parts, each larger than the whole: these are their sizes.
fn assert_rounded_product(found: &[f32], x: &[f32], w: &[f32], k: usize, what: &str) {
    let expected = reference(&rounded(x), w, k);
    let (rows, n) = (x.len() / k, w.len() / k);
    let largest = |x: &[f32]| x.iter().fold(0f64, |largest, x| largest.max(x.abs() as f64));
    for (i, (found, [sum, sizes])) in found.iter().zip(&expected).enumerate() {
        let x = &x[i / n * k..][..k];
        let slack = 2e-6 * sizes + 1e-6 * largest(x) * largest(w) * (k as f64).sqrt();
        assert!((*found as f64 - sum).abs() <= slack, "{what}: entry {i} is {found}, not {sum} ({sizes})");
    }
    assert_eq!(found.len(), rows * n, "{what}");
}

/// Depths below, on and above the runs' chunks; columns and rows below, on and above what is taken together.
fn sizes(dtype: WeightType) -> [(usize, usize); 4] {
    let unit = dtype.block_len();
    [(1, unit), (3, 2 * unit), (70, 5 * unit), (9, (2048 / unit + 1) * unit)]
}

#[test]
fn every_type_gives_the_product_of_the_rounded_activations() {
    each_isa(|isa| {
        for dtype in TYPES {
            for (n, k) in sizes(dtype) {
                let data = blocks(dtype, (n, k), 2);
                let w = weight(dtype, &data, (n, k));
                for m in 0..=FEW_ROWS + 1 {
                    let what = format!("{isa} {dtype} {m}x{n}x{k}");
                    let x = random(m * k, 1 + m as u64);
                    let mut y = product(isa, &x, &w);
                    assert_rounded_product(&y, &x, &decoded(&w), k, &what);
                    let twice: Vec<f32> = y.iter().map(|y| y + y).collect();
                    stream_in_integers(isa, &x, &w, Precision::F32, Write::Add, &mut y);
                    assert_eq!(y, twice, "{what}: added");
                }
            }
        }
    });
}

/// No entry is further from the product of what was given than half a step of each activation allows.
#[test]
fn every_type_is_within_the_bound_of_8_bits() {
    each_isa(|isa| {
        for dtype in TYPES {
            let (m, n, k) = (3, 33, 1024);
            let data = blocks(dtype, (n, k), 5);
            let (w, x) = (weight(dtype, &data, (n, k)), random(m * k, 6));
            let all = decoded(&w);
            let exact: Vec<f64> = x.iter().map(|x| *x as f64).collect();
            let found = product(isa, &x, &w);
            for (i, (found, [expected, sizes])) in found.iter().zip(reference(&exact, &all, k)).enumerate() {
                let runs = x[i / n * k..][..k].chunks(RUN).zip(all[i % n * k..][..k].chunks(RUN));
                let half_steps = runs.map(|(x, w)| {
                    let step = x.iter().fold(0f64, |largest, x| largest.max(x.abs() as f64)) / 127.0;
                    step / 2.0 * w.iter().map(|w| w.abs() as f64).sum::<f64>()
                });
                let bound = half_steps.sum::<f64>() + 1e-5 * sizes;
                let off = (*found as f64 - expected).abs();
                assert!(off <= bound, "{isa} {dtype}: entry {i} is {off} off, {bound} at most");
                assert!(bound < 0.01 * sizes, "{isa} {dtype}: a bound that says something");
            }
        }
    });
}

/// With factors that are powers of two and small numbers no sum is rounded: every instruction set has the same bits.
#[test]
fn integers_are_exact() {
    for dtype in TYPES {
        let (n, k) = (11, dtype.block_len().max(96));
        let mut data = blocks(dtype, (n, k), 3);
        for block in data.chunks_exact_mut(dtype.block_bytes()) {
            for (i, at) in halves(dtype).iter().enumerate() {
                block[*at..at + 2].copy_from_slice(&(0x2C00u16 + 0x400 * i as u16).to_le_bytes());
            }
        }
        let w = weight(dtype, &data, (n, k));
        // the first of each run makes its factor 1
        let numbers = random(5 * k, 4).into_iter().enumerate();
        let x: Vec<f32> =
            numbers.map(|(i, x)| if i % RUN == 0 { 127.0 } else { (4.0 * x).round() }).collect();
        let exact: Vec<f64> = x.iter().map(|x| *x as f64).collect();
        let expected: Vec<f32> =
            reference(&exact, &decoded(&w), k).iter().map(|[sum, _]| *sum as f32).collect();
        each_isa(|isa| assert_eq!(product(isa, &x, &w), expected, "{isa} {dtype}"));
    }
}

/// The largest numbers of either sign, which sums of pairs must hold.
#[test]
fn nothing_saturates() {
    each_isa(|isa| {
        for dtype in TYPES {
            for byte in [0x00, 0x7F, 0x80, 0xFF] {
                let (n, k) = (2, dtype.block_len().max(64));
                let mut data = blocks(dtype, (n, k), 3);
                let sane = data.clone();
                data.fill(byte);
                for (block, sane) in
                    data.chunks_exact_mut(dtype.block_bytes()).zip(sane.chunks_exact(dtype.block_bytes()))
                {
                    for at in halves(dtype) {
                        block[*at..at + 2].copy_from_slice(&sane[*at..at + 2]);
                    }
                }
                let w = weight(dtype, &data, (n, k));
                let signs: Vec<f32> = random(k, 9).iter().map(|x| x.signum()).collect();
                for x in [vec![1.0; k], vec![-1.0; k], signs] {
                    let what = format!("{isa} {dtype} {byte:#x}");
                    assert_rounded_product(&product(isa, &x, &w), &x, &decoded(&w), k, &what);
                }
            }
        }
    });
}

#[test]
fn neither_other_rows_nor_threads_change_a_row() {
    each_isa(|isa| {
        for dtype in TYPES {
            let (n, k) = (300, 2560);
            let (data, x) = (blocks(dtype, (n, k), 2), random(FEW_ROWS * k, 1));
            let w = weight(dtype, &data, (n, k));
            let run = |x: &[f32], threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                pool.install(|| product(isa, x, &w))
            };
            let together = run(&x, 1);
            assert!(together == run(&x, 3), "{isa} {dtype}: threads");
            for rows in [1, 3, 6, 7] {
                let apart: Vec<f32> = x.chunks(rows * k).flat_map(|x| run(x, 2)).collect();
                assert!(together == apart, "{isa} {dtype}: {rows} rows");
            }
        }
    });
}

/// Rows in another order, trained rows and appended ones: the frozen are multiplied in integers, the others as they are.
#[test]
fn a_table_is_multiplied_as_it_is_shown() {
    each_isa(|isa| {
        for dtype in TYPES {
            let (rows, k, m) = (24, 512, 5);
            let data = blocks(dtype, (rows, k), 1);
            let order = RowOrder::Interleaved { head_dim: 8 };
            let base = Weight::new(dtype, &data, rows, k, order).expect("a valid weight");
            let (extra, values, x) = (random(3 * k, 2), random(3 * k, 3), random(m * k, 4));
            let table = TokenTable::new(base, &extra, &[(0, 2), (9, 0), (25, 1)], &values);
            let (found, all) = (product(isa, &x, &table), decoded(&table));
            let mut plain = vec![0.0; found.len()];
            stream(isa, &x, &table, Precision::F32, Write::Over, &mut plain);
            let n = table.rows();
            for col in 0..n {
                let of = |y: &[f32]| y.iter().skip(col).step_by(n).copied().collect::<Vec<_>>();
                let what = format!("{isa} {dtype} row {col}");
                if [0, 9, 24, 25, 26].contains(&col) {
                    assert_eq!(of(&found), of(&plain), "{what}");
                } else {
                    assert_rounded_product(&of(&found), &x, &all[col * k..][..k], k, &what);
                    assert_ne!(of(&found), of(&plain), "{what}");
                }
            }
        }
    });
}

/// What is not quantised, or has no kernel here, is multiplied as it was; bf16 in bf16 at any precision.
#[test]
fn other_types_go_the_other_way() {
    each_isa(|isa| {
        for dtype in WeightType::ALL.into_iter().filter(|dtype| !supports(*dtype)) {
            let (n, k, m) = (7, 256, 2);
            let data = match encode(dtype, &random(n * k, 1)) {
                Some(data) => data,
                None if dtype.block_len() > 1 => blocks(dtype, (n, k), 1),
                // numbers of a byte, of ordinary size
                None => random(n * k, 1).iter().map(|x| (x * 64.0).abs() as u8).collect(),
            };
            let (w, x) = (weight(dtype, &data, (n, k)), random(m * k, 2));
            for precision in [Precision::F32, Precision::Bf16] {
                let (mut found, mut expected) = (vec![0.0; m * n], vec![1.0; m * n]);
                stream_in_integers(isa, &x, &w, precision, Write::Over, &mut found);
                let of_bf16 = if dtype == WeightType::BF16 { Precision::Bf16 } else { precision };
                stream(isa, &x, &w, of_bf16, Write::Over, &mut expected);
                let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&found), bits(&expected), "{isa} {dtype} {precision:?}");
            }
        }
    });
}

/// A number that is not finite reaches the results, and one too small for its inverse does not.
#[test]
fn what_is_not_finite_shows() {
    each_isa(|isa| {
        for dtype in TYPES {
            let (n, k) = (5, 256);
            let mut data = blocks(dtype, (n, k), 1);
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = random(2 * k, 2);
                x[k + 70] = bad;
                let y = product(isa, &x, &weight(dtype, &data, (n, k)));
                assert!(y[..n].iter().all(|y| y.is_finite()), "{isa} {dtype} {bad}: the row beside");
                assert!(y[n..].iter().all(|y| !y.is_finite()), "{isa} {dtype} {bad}: {y:?}");
            }
            let y = product(isa, &vec![1e-40; k], &weight(dtype, &data, (n, k)));
            assert!(y.iter().all(|y| y.abs() < 1e-20), "{isa} {dtype}: {y:?}");
            let at = halves(dtype)[0];
            data[at..at + 2].copy_from_slice(&0x7E00u16.to_le_bytes());
            let y = product(isa, &random(k, 3), &weight(dtype, &data, (n, k)));
            assert!(y[0].is_nan() && y[1..].iter().all(|y| y.is_finite()), "{isa} {dtype}: {y:?}");
        }
    });
}

#[test]
fn nothing_gives_nothing() {
    each_isa(|isa| {
        let w = weight(WeightType::Q8_0, &[], (0, 32));
        assert!(product(isa, &random(64, 1), &w).is_empty());
        let mut y = [f32::NAN; 6];
        stream_in_integers(
            isa,
            &[],
            &weight(WeightType::Q8_0, &[], (3, 0)),
            Precision::F32,
            Write::Over,
            &mut y,
        );
        assert_eq!(y, [0.0; 6]);
    });
}
