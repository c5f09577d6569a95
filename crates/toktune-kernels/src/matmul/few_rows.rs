//! Products of few rows, as when generating: bound by reading the weight, which streams through once and is not packed.

use super::{Write, height};
use crate::Isa;
use crate::bf16::{self, Streamed};
use crate::product::Precision;
use crate::quantised::{self, Rounded};
use crate::shared::{SharedMatrix, pieces, with_scratch};
use crate::tile::{self, Dots, WeightRows};
use crate::weight::Matrix;
use crate::weight_type::WeightType;
use rayon::prelude::*;
use std::ops::Range;

/// Up to this many rows [`stream`] is faster than [`super::forward`].
pub const FEW_ROWS: usize = 8;

/// Weights that one task reads: some microseconds of it.
const TASK: usize = 32 * 1024;

/// Weights that are decoded at a time: they stay in the first-level cache.
const DECODED: usize = 4096;

/// Weights that one task of a product in integers reads.
const TASK_IN_INTEGERS: usize = 48 * 1024;

/// [`super::forward`] for at most [`FEW_ROWS`] rows, with sums in another order.
///
/// Rows of the weight that are stored in bf16 are read where they lie; others are decoded a few at a time. In
/// [`Precision::Bf16`] the former are multiplied in bf16 where the machine has AVX512-BF16, everything else in `f32`. A row's
/// result depends neither on the rows beside it nor on the number of threads.
///
/// Panics when the lengths do not fit the weight.
pub fn stream(isa: Isa, x: &[f32], w: &impl Matrix, precision: Precision, write: Write, y: &mut [f32]) {
    if let Some(pass) = Pass::new(isa, (x, w), write, y) {
        pass.with_bf16(precision, |of| pass.run(TASK, of));
    }
}

/// [`stream`] with `x` rounded to 8 bits, in runs of 32, where it meets rows of a weight that are stored as Q8_0, Q4_0, Q4_1,
/// Q5_0, Q5_1, Q4_K, Q5_K or Q6_K: these products are sums of integers. Rows that are stored in bf16 are multiplied in bf16 where
/// the machine has AVX512-BF16, at any `precision`: fewer bytes of `x` are read, and reading is what takes the time, so that it
/// does not matter how fast a processor multiplies bf16. Every other row is multiplied as [`stream`] does.
///
/// Panics when the lengths do not fit the weight.
pub fn stream_in_integers(
    isa: Isa,
    x: &[f32],
    w: &impl Matrix,
    precision: Precision,
    write: Write,
    y: &mut [f32],
) {
    let Some(pass) = Pass::new(isa, (x, w), write, y) else { return };
    let stored = w.stored_type();
    if w.cols() == 0 || !stored.is_some_and(quantised::supports) {
        let precision = if stored == Some(WeightType::BF16) { Precision::Bf16 } else { precision };
        return pass.with_bf16(precision, |of| pass.run(TASK, of));
    }
    Rounded::with(isa, x, w.cols(), |x| pass.run(TASK_IN_INTEGERS, Operands { bf16: None, bytes: Some(x) }));
}

/// The left operand in other forms than `f32`, where it has them.
#[derive(Clone, Copy)]
struct Operands<'a> {
    /// In bf16, each row padded to whole vectors.
    bf16: Option<&'a [u16]>,
    /// In 8 bits.
    bytes: Option<Rounded<'a>>,
}

/// What the tasks of a product share.
struct Pass<'a, M> {
    isa: Isa,
    x: &'a [f32],
    w: &'a M,
    m: usize,
    add: bool,
    y: SharedMatrix<'a>,
}

/// How a row of a weight that is read as it is stored is multiplied.
#[derive(Clone, Copy)]
enum Way {
    Bf16,
    Integers(WeightType),
}

impl<'a, M: Matrix> Pass<'a, M> {
    /// Nothing for a result without entries.
    fn new(isa: Isa, (x, w): (&'a [f32], &'a M), write: Write, y: &'a mut [f32]) -> Option<Self> {
        let (n, k) = (w.rows(), w.cols());
        let m = height((x.len(), k), (y.len(), n));
        let add = write == Write::Add;
        (m > 0 && n > 0).then(|| Self { isa, x, w, m, add, y: SharedMatrix::new(y, m, n) })
    }

    /// Calls `work` with the left operand in bf16, where products are to be taken in it.
    fn with_bf16(&self, precision: Precision, work: impl FnOnce(Operands<'_>)) {
        let (isa, k) = (self.isa, self.w.cols());
        if precision == Precision::F32 || !isa.has_avx512_bf16() {
            return work(Operands { bf16: None, bytes: None });
        }
        let width = k.next_multiple_of(bf16::DEPTH);
        with_scratch(self.m * width / 2, |rounded| {
            let rounded = bf16::as_bf16(rounded);
            rounded.chunks_exact_mut(width.max(1)).zip(self.x.chunks_exact(k.max(1))).for_each(|(to, x)| {
                bf16::round_into(isa, x, to);
            });
            work(Operands { bf16: Some(rounded), bytes: None });
        });
    }

    /// All columns, in tasks that read so many weights.
    fn run(&self, task: usize, of: Operands<'_>) {
        let (n, most) = (self.w.rows(), (task / self.w.cols().max(1)).clamp(16, 512));
        // as many for each thread: a product is a few tasks, and the last thread to finish decides
        let count = n.div_ceil(most).next_multiple_of(rayon::current_num_threads());
        pieces(n, n.div_ceil(count)).into_par_iter().for_each(|cols| self.columns(cols, of));
    }

    /// Some columns of the result.
    fn columns(&self, cols: Range<usize>, of: Operands<'_>) {
        let way = match self.w.stored_type() {
            Some(WeightType::BF16) => Way::Bf16,
            Some(dtype) if of.bytes.is_some() && quantised::supports(dtype) => Way::Integers(dtype),
            _ => return self.decoded(cols),
        };
        let stored: Vec<Option<&[u8]>> =
            cols.clone().map(|col| self.w.stored_row(col).map(|row| row.bytes)).collect();
        let mut first = cols.start;
        // trained rows may lie over some
        for run in stored.chunk_by(|a, b| a.is_some() == b.is_some()) {
            let own = first..first + run.len();
            first = own.end;
            match run.iter().copied().collect::<Option<Vec<&[u8]>>>() {
                Some(rows) => self.streamed(own, way, &rows, of),
                None => self.decoded(own),
            }
        }
    }

    /// Columns whose weights are read as they are stored.
    fn streamed(&self, cols: Range<usize>, way: Way, rows: &[&[u8]], of: Operands<'_>) {
        match (way, of) {
            (Way::Bf16, Operands { bf16: Some(x), .. }) => {
                let (out, out_row) = self.out(&cols);
                let of = Streamed { x, m: self.m, k: self.w.cols(), rows, out, out_row, add: self.add };
                // SAFETY: the machine has AVX512-BF16, or there were no rounded rows; these columns of `y` are this task's
                // alone.
                unsafe { bf16::stream(&of) };
            }
            (Way::Integers(dtype), Operands { bytes: Some(x), .. }) => {
                let (out, out_row) = self.out(&cols);
                let of = quantised::Streamed { x, dtype, rows, out, out_row, add: self.add };
                // SAFETY: `x` has `m` rows; these columns of `y` are this task's alone.
                unsafe { quantised::stream(self.isa, &of) };
            }
            _ => self.dots(cols, WeightRows::Bf16(rows)),
        }
    }

    /// Columns whose weights have to be decoded.
    fn decoded(&self, cols: Range<usize>) {
        let k = self.w.cols();
        let group = (DECODED / k.max(1)).clamp(4, 64);
        with_scratch(group * k, |panel| {
            for first in cols.clone().step_by(group) {
                let own = first..(first + group).min(cols.end);
                let panel = &mut panel[..own.len() * k];
                self.w.decode(self.isa, own.clone(), 0..k, panel);
                if k == 0 {
                    // a sum of nothing
                    let zeros = vec![&[][..]; own.len()];
                    self.dots(own, WeightRows::Bf16(&zeros));
                } else {
                    self.dots(own, WeightRows::Floats(panel));
                }
            }
        });
    }

    fn dots(&self, cols: Range<usize>, rows: WeightRows<'_>) {
        let (out, out_row) = self.out(&cols);
        let of = Dots { x: self.x, m: self.m, k: self.w.cols(), rows, out, out_row, add: self.add };
        assert_eq!(rows.count(of.k), cols.len(), "a row for each column");
        // SAFETY: `x` has `m` rows of `k`; `cols` of `y` are this task's alone.
        unsafe { tile::dots(self.isa, &of) };
    }

    /// Where columns of the result begin, and how far apart its rows are.
    fn out(&self, cols: &Range<usize>) -> (*mut f32, usize) {
        // SAFETY: only the task that has these columns writes there.
        (unsafe { self.y.rectangle(0, cols.start, self.m, cols.len()) }, self.y.stride())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, random};
    use crate::weight::{RowOrder, TokenTable, Weight, encode};
    use crate::weight_type::WeightType;

    fn decoded(w: &impl Matrix) -> Vec<f32> {
        let mut all = vec![0.0; w.rows() * w.cols()];
        w.decode(Isa::PORTABLE, 0..w.rows(), 0..w.cols(), &mut all);
        all
    }

    fn reference(x: &[f32], w: &[f32], (m, n, k): (usize, usize, usize)) -> Vec<f64> {
        let entry = |i: usize, j: usize| (0..k).map(|l| x[i * k + l] as f64 * w[j * k + l] as f64).sum();
        (0..m * n).map(|at| entry(at / n, at % n)).collect()
    }

    /// Depths and columns below, on and above the vectors, the blocks and the tasks.
    const SIZES: [(usize, usize); 8] =
        [(1, 1), (3, 31), (4, 32), (5, 33), (70, 16), (600, 96), (9, 0), (33, 5000)];

    #[test]
    fn every_type_matches_the_f64_product() {
        each_isa(|isa| {
            for (n, k) in SIZES {
                let values = random(n * k, 2);
                for dtype in [WeightType::F32, WeightType::F16, WeightType::BF16] {
                    let data = encode(dtype, &values).expect("a plain type");
                    let w = Weight::new(dtype, &data, n, k, RowOrder::Plain).expect("a valid weight");
                    for m in 0..=FEW_ROWS + 1 {
                        let precision = if m % 2 == 0 { Precision::Bf16 } else { Precision::F32 };
                        let x = random(m * k, 1);
                        let tolerance = if precision == Precision::F32 { 2e-6 } else { 0.01 };
                        let expected = reference(&x, &decoded(&w), (m, n, k));
                        let what = format!("{isa} {dtype} {precision:?} {m}x{n}x{k}");
                        let mut y = vec![f32::NAN; m * n];
                        stream(isa, &x, &w, precision, Write::Over, &mut y);
                        assert_close(&y, &expected, tolerance, &what);
                        let alone = y.clone();
                        stream(isa, &x, &w, precision, Write::Add, &mut y);
                        let twice: Vec<f32> = alone.iter().map(|y| y + y).collect();
                        assert_eq!(y, twice, "{what}: added");
                    }
                }
            }
        });
    }

    #[test]
    fn bf16_products_are_those_of_the_rounded_operands() {
        each_isa(|isa| {
            let (m, n, k) = (7, 37, 1100);
            let (x, data) = (random(m * k, 1), encode(WeightType::BF16, &random(n * k, 2)).expect("plain"));
            let w = Weight::new(WeightType::BF16, &data, n, k, RowOrder::Plain).expect("a valid weight");
            let mut y = vec![f32::NAN; m * n];
            stream(isa, &x, &w, Precision::Bf16, Write::Over, &mut y);
            let mut rounded = x.clone();
            if isa.has_avx512_bf16() {
                bf16::round_all(isa, &mut rounded);
            }
            assert_close(&y, &reference(&rounded, &decoded(&w), (m, n, k)), 2e-6, &format!("{isa}"));
        });
    }

    /// Rows that are stored in bf16 in another order, and trained and appended rows among them.
    #[test]
    fn a_table_streams_as_it_is_shown() {
        each_isa(|isa| {
            let (rows, extra, k, m) = (24, 3, 40, 5);
            let data = encode(WeightType::BF16, &random(rows * k, 1)).expect("a plain type");
            let order = RowOrder::Interleaved { head_dim: 8 };
            let base = Weight::new(WeightType::BF16, &data, rows, k, order).expect("a valid weight");
            let (extra, values, x) = (random(extra * k, 2), random(3 * k, 3), random(m * k, 4));
            let table = TokenTable::new(base, &extra, &[(0, 2), (9, 0), (25, 1)], &values);
            for (precision, tolerance) in [(Precision::F32, 2e-6), (Precision::Bf16, 0.01)] {
                let mut y = vec![f32::NAN; m * table.rows()];
                stream(isa, &x, &table, precision, Write::Over, &mut y);
                let expected = reference(&x, &decoded(&table), (m, table.rows(), k));
                assert_close(&y, &expected, tolerance, &format!("{isa} {precision:?}"));
            }
        });
    }

    #[test]
    fn neither_other_rows_nor_threads_change_a_row() {
        each_isa(|isa| {
            let (m, n, k) = (FEW_ROWS, 700, 1030);
            let x = random(m * k, 1);
            for dtype in [WeightType::F32, WeightType::BF16] {
                let data = encode(dtype, &random(n * k, 2)).expect("a plain type");
                let w = Weight::new(dtype, &data, n, k, RowOrder::Plain).expect("a valid weight");
                for precision in [Precision::F32, Precision::Bf16] {
                    let run = |x: &[f32], threads| {
                        let pool =
                            rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                        let mut y = vec![0.0; x.len() / k * n];
                        pool.install(|| stream(isa, x, &w, precision, Write::Over, &mut y));
                        y
                    };
                    let together = run(&x, 1);
                    assert!(together == run(&x, 3), "{isa} {dtype} {precision:?}: threads");
                    let each: Vec<f32> = x.chunks(k).flat_map(|x| run(x, 2)).collect();
                    assert!(together == each, "{isa} {dtype} {precision:?}: rows");
                }
            }
        });
    }
}
