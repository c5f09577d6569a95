//! Plain loops in `f64`, obviously right and slow: the other opinion that the layers are tested against.
//!
//! What is taken without content is filled with NaN, so that a layer which reads what it has not written is found out.

mod attention;
mod convolution;
mod head;

use super::*;
use std::sync::Arc;
use toktune_weights::FrozenMatrix;

/// The reference device.
#[derive(Clone, Debug, Default)]
pub struct Reference;

/// A frozen matrix, decoded.
#[derive(Clone, Debug)]
pub struct Decoded {
    rows: usize,
    cols: usize,
    values: Arc<Vec<f64>>,
}

impl Decoded {
    fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.cols..(row + 1) * self.cols]
    }
}

fn set(write: Write, to: &mut f64, value: f64) {
    *to = if write == Write::Add { *to + value } else { value };
}

/// `y [m, n] (+)= x [m, k] wᵀ` for `w(j, p)`.
fn multiply(x: &[f64], (k, n): (usize, usize), w: impl Fn(usize, usize) -> f64, write: Write, y: &mut [f64]) {
    let m = y.len().checked_div(n).unwrap_or(0);
    assert_eq!((x.len(), y.len()), (m * k, m * n), "{m} rows of {k} and of {n}");
    for i in 0..m {
        for j in 0..n {
            let sum = (0..k).map(|p| x[i * k + p] * w(j, p)).sum();
            set(write, &mut y[i * n + j], sum);
        }
    }
}

/// An activation and its slope.
fn activation(of: Activation, x: f64) -> (f64, f64) {
    let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
    match of {
        Activation::Silu => {
            let s = logistic(x);
            (x * s, s * (1.0 + x * (1.0 - s)))
        }
        Activation::GeluTanh => {
            let c = (2.0 / std::f64::consts::PI).sqrt();
            let t = (c * (x + 0.044715 * x * x * x)).tanh();
            (
                0.5 * x * (1.0 + t),
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * c * (1.0 + 3.0 * 0.044715 * x * x),
            )
        }
        Activation::Gelu => {
            let cdf = 0.5 * (1.0 + erf(x / std::f64::consts::SQRT_2));
            let pdf = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            (x * cdf, cdf + x * pdf)
        }
        Activation::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
        Activation::SquaredRelu => (x.max(0.0).powi(2), 2.0 * x.max(0.0)),
        Activation::Xielu(of) => {
            let [positive, negative, beta, eps] = [of.positive, of.negative, of.beta, of.eps].map(f64::from);
            let bent = if x < eps { x.exp() } else { 0.0 };
            match x > 0.0 {
                true => (positive * x * x + beta * x, 2.0 * positive * x + beta),
                false => (negative * (x.min(eps).exp_m1() - x) + beta * x, negative * (bent - 1.0) + beta),
            }
        }
        Activation::Clamp { limit } => clamp(x, limit),
        Activation::ClampedSwish { slope, limit } => {
            let (slope, within) = (f64::from(slope), x.min(f64::from(limit)));
            let s = logistic(slope * within);
            let derivative = if x < f64::from(limit) { s * (1.0 + slope * within * (1.0 - s)) } else { 0.0 };
            (within * s, derivative)
        }
    }
}

/// A number within a limit on both sides, and its slope.
fn clamp(x: f64, limit: f32) -> (f64, f64) {
    let limit = f64::from(limit);
    (x.clamp(-limit, limit), if x.abs() < limit { 1.0 } else { 0.0 })
}

/// What becomes of what is gated, and its slope.
fn gated(by: Activation, up: f64) -> (f64, f64) {
    match by {
        Activation::ClampedSwish { limit, .. } => {
            let (value, slope) = clamp(up, limit);
            (value + 1.0, slope)
        }
        _ => (up, 1.0),
    }
}

/// The error function by its series, or far out by its continued fraction.
fn erf(x: f64) -> f64 {
    if x < 0.0 {
        return -erf(-x);
    }
    if x < 2.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let fraction = (1..200).rev().fold(x, |tail, n| x + n as f64 / 2.0 / tail);
    1.0 - (-x * x).exp() / (fraction * std::f64::consts::PI.sqrt())
}

/// Mean to be taken away, and what a run of entries is divided by.
fn norming(of: Norming, x: &[f64], eps: f32) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = match of {
        Norming::Rms => 0.0,
        Norming::Layer => x.iter().sum::<f64>() / n,
    };
    let square = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    (mean, (square + f64::from(eps)).sqrt())
}

impl Backend for Reference {
    type Buffer = Vec<f64>;
    type Matrix = Decoded;

    fn take(&self, len: usize) -> Vec<f64> {
        vec![f64::NAN; len]
    }

    fn place(&self, values: Vec<f32>) -> Vec<f64> {
        values.into_iter().map(f64::from).collect()
    }

    fn read(&self, x: &Vec<f64>) -> Vec<f32> {
        x.iter().map(|x| *x as f32).collect()
    }

    fn len(&self, x: &Vec<f64>) -> usize {
        x.len()
    }

    fn part(&self, x: &Vec<f64>, floats: Range<usize>) -> Vec<f64> {
        x[floats].to_vec()
    }

    fn keep(&self, x: &Vec<f64>) -> Vec<f64> {
        x.clone()
    }

    fn put(&self, from: &Vec<f64>, at: usize, to: &mut Vec<f64>) {
        to[at..at + from.len()].copy_from_slice(from);
    }

    fn decoding(&self) -> Self {
        self.clone()
    }

    fn release(&self) {}

    fn matrix(&self, of: &FrozenMatrix) -> Decoded {
        let values = of.decode_rows(0..of.rows()).into_iter().map(f64::from).collect();
        Decoded { rows: of.rows(), cols: of.cols(), values: Arc::new(values) }
    }

    fn product(&self, x: &Vec<f64>, w: &Stored<Decoded>, write: Write, y: &mut Vec<f64>) {
        let of = &w.matrix;
        match w.stored {
            StoredAs::Rows => multiply(x, (of.cols, of.rows), |j, p| of.row(j)[p], write, y),
            StoredAs::Columns => multiply(x, (of.rows, of.cols), |j, p| of.row(p)[j], write, y),
        }
    }

    fn pull_product(&self, dy: &Vec<f64>, w: &Stored<Decoded>, write: Write, dx: &mut Vec<f64>) {
        let of = &w.matrix;
        match w.stored {
            StoredAs::Rows => multiply(dy, (of.rows, of.cols), |j, p| of.row(p)[j], write, dx),
            StoredAs::Columns => multiply(dy, (of.cols, of.rows), |j, p| of.row(j)[p], write, dx),
        }
    }

    fn low_rank_down(&self, x: &Vec<f64>, a: &Vec<f64>, r: usize, scale: f32, h: &mut Vec<f64>) {
        let k = a.len() / r.max(1);
        multiply(x, (k, r), |j, p| f64::from(scale) * a[j * k + p], Write::Over, h);
    }

    fn low_rank_up(&self, h: &Vec<f64>, b: &Vec<f64>, r: usize, scale: f32, y: &mut Vec<f64>) {
        let n = b.len() / r.max(1);
        multiply(h, (r, n), |j, p| f64::from(scale) * b[p * n + j], Write::Add, y);
    }

    fn low_rank_gradient(&self, h: &Vec<f64>, x: &Vec<f64>, r: usize, sums: &mut Vec<f64>) {
        let (n, rows) = (sums.len() / r.max(1), h.len() / r.max(1));
        for i in 0..r {
            for j in 0..n {
                sums[i * n + j] += (0..rows).map(|row| h[row * r + i] * x[row * n + j]).sum::<f64>();
            }
        }
    }

    fn gated_mlp(
        &self,
        mlp: &GatedMlp<'_, Decoded>,
        x: &Vec<f64>,
        write: Write,
        y: &mut Vec<f64>,
        keep: bool,
    ) -> Option<[Vec<f64>; 2]> {
        let [gate, up] = self.gate_and_up(mlp, x);
        let mut product = self.take(gate.len());
        self.gate(mlp.activation, &gate, &up, &mut product);
        multiply(&product, (mlp.down.cols, mlp.down.rows), |j, p| mlp.down.row(j)[p], write, y);
        keep.then_some([gate, up])
    }

    fn pull_gated_mlp(
        &self,
        mlp: &GatedMlp<'_, Decoded>,
        x: &Vec<f64>,
        dy: &Vec<f64>,
        kept: Option<&[Vec<f64>; 2]>,
        dx: &mut Vec<f64>,
    ) {
        let computed = kept.is_none().then(|| self.gate_and_up(mlp, x));
        let Some([gate, up]) = kept.or(computed.as_ref()) else { return };
        let (mut dgate, mut dup) = (self.take(gate.len()), self.take(gate.len()));
        let pull = |dy: &Vec<f64>, w: &Decoded, write, dx: &mut Vec<f64>| {
            multiply(dy, (w.rows, w.cols), |j, p| w.row(p)[j], write, dx);
        };
        pull(dy, mlp.down, Write::Over, &mut dgate);
        self.pull_gate(mlp.activation, [gate, up], &mut dgate, &mut dup);
        pull(&dgate, mlp.gate, Write::Over, dx);
        pull(&dup, mlp.up, Write::Add, dx);
    }

    fn norm(&self, of: &NormWeights<'_, Vec<f64>>, x: &Vec<f64>, y: &mut Vec<f64>) {
        let width = of.weight.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let (mean, root) = norming(of.norming, x, of.eps);
            for j in 0..width {
                y[j] = (x[j] - mean) / root * of.weight[j] + of.bias.map_or(0.0, |bias| bias[j]);
            }
        }
    }

    fn pull_norm(
        &self,
        of: &NormWeights<'_, Vec<f64>>,
        x: &Vec<f64>,
        dy: &Vec<f64>,
        write: Write,
        dx: &mut Vec<f64>,
    ) {
        let width = of.weight.len();
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for ((x, dy), dx) in rows {
            let (mean, root) = norming(of.norming, x, of.eps);
            let unit: Vec<f64> = x.iter().map(|x| (x - mean) / root).collect();
            let dunit: Vec<f64> = dy.iter().zip(of.weight).map(|(d, w)| d * w).collect();
            let along = dunit.iter().zip(&unit).map(|(d, u)| d * u).sum::<f64>() / width as f64;
            let shift = match of.norming {
                Norming::Rms => 0.0,
                Norming::Layer => dunit.iter().sum::<f64>() / width as f64,
            };
            for j in 0..width {
                set(write, &mut dx[j], (dunit[j] - shift - unit[j] * along) / root);
            }
        }
    }

    fn rotate(&self, by: &Rotation<Vec<f64>>, heads: Heads, to: Direction, x: &Vec<f64>, y: &mut Vec<f64>) {
        if by.rows == 0 {
            return;
        }
        let (width, half) = (x.len() / by.rows, by.cos.len() / by.rows);
        y.copy_from_slice(x);
        for row in 0..by.rows {
            for head in (0..width).step_by(heads.head_dim) {
                for j in 0..half {
                    let (a, b) = match heads.pairing {
                        Pairing::Halves => (j, j + half),
                        Pairing::Neighbours => (2 * j, 2 * j + 1),
                    };
                    let (a, b) = (row * width + head + a, row * width + head + b);
                    let (cos, sin) = (by.cos[row * half + j], by.sin[row * half + j]);
                    let sin = if to == Direction::Backward { -sin } else { sin };
                    (y[a], y[b]) = (x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin);
                }
            }
        }
    }

    fn attention(&self, of: &AttentionInputs<'_, Vec<f64>>, out: &mut Vec<f64>, lse: &mut Vec<f64>) {
        attention::forward(of, None, out, lse);
    }

    fn pull_attention(
        &self,
        of: &AttentionInputs<'_, Vec<f64>>,
        saved: Saved<'_, Vec<f64>>,
        gradients: [&mut Vec<f64>; 3],
    ) {
        attention::backward(of, None, saved, gradients, [None, None]);
    }

    fn convolve(
        &self,
        by: &Taps<'_, Vec<f64>>,
        sequences: &Sequences,
        x: &Vec<f64>,
        past: Option<&Vec<f64>>,
        y: &mut Vec<f64>,
    ) {
        convolution::forward(by, sequences, [x, past.map_or(&[][..], |past| past)], y);
    }

    fn pull_convolve(&self, by: &Taps<'_, Vec<f64>>, of: &Sequences, dy: &Vec<f64>, dx: &mut Vec<f64>) {
        convolution::backward(by, of, dy, dx);
    }

    fn disentangled(
        &self,
        of: &AttentionInputs<'_, Vec<f64>>,
        distances: &Distances<'_, Vec<f64>>,
        out: &mut Vec<f64>,
        lse: &mut Vec<f64>,
    ) {
        attention::forward(of, Some(distances), out, lse);
    }

    fn pull_disentangled(
        &self,
        of: &AttentionInputs<'_, Vec<f64>>,
        distances: &Distances<'_, Vec<f64>>,
        saved: Saved<'_, Vec<f64>>,
        gradients: [&mut Vec<f64>; 3],
        of_distances: [Option<&mut Vec<f64>>; 2],
    ) {
        attention::backward(of, Some(distances), saved, gradients, of_distances);
    }

    fn activate(&self, of: Activation, x: &mut Vec<f64>) {
        x.iter_mut().for_each(|x| *x = activation(of, *x).0);
    }

    fn pull_activate(&self, of: Activation, x: &Vec<f64>, dx: &mut Vec<f64>) {
        dx.iter_mut().zip(x).for_each(|(dx, x)| *dx *= activation(of, *x).1);
    }

    fn gate(&self, of: Activation, gate: &Vec<f64>, up: &Vec<f64>, y: &mut Vec<f64>) {
        for (y, (gate, up)) in y.iter_mut().zip(gate.iter().zip(up)) {
            *y = activation(of, *gate).0 * gated(of, *up).0;
        }
    }

    fn pull_gate(
        &self,
        of: Activation,
        [gate, up]: [&Vec<f64>; 2],
        dgate: &mut Vec<f64>,
        dup: &mut Vec<f64>,
    ) {
        for (i, (gate, up)) in gate.iter().zip(up).enumerate() {
            let ((value, slope), (up, up_slope)) = (activation(of, *gate), gated(of, *up));
            (dgate[i], dup[i]) = (dgate[i] * up * slope, dgate[i] * value * up_slope);
        }
    }

    fn add(&self, y: &mut Vec<f64>, x: &Vec<f64>) {
        assert_eq!(y.len(), x.len(), "as many entries");
        y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
    }

    fn multiply(&self, y: &mut Vec<f64>, x: &Vec<f64>) {
        assert_eq!(y.len(), x.len(), "as many entries");
        y.iter_mut().zip(x).for_each(|(y, x)| *y *= x);
    }

    fn scale(&self, y: &mut Vec<f64>, factor: f32) {
        y.iter_mut().for_each(|y| *y *= f64::from(factor));
    }

    fn add_to_each(&self, y: &mut Vec<f64>, row: &Vec<f64>) {
        y.chunks_exact_mut(row.len()).for_each(|y| y.iter_mut().zip(row).for_each(|(y, x)| *y += x));
    }

    fn multiply_each(&self, y: &mut Vec<f64>, row: &Vec<f64>) {
        y.chunks_exact_mut(row.len()).for_each(|y| y.iter_mut().zip(row).for_each(|(y, x)| *y *= x));
    }

    fn scale_rows(&self, y: &mut Vec<f64>, factors: &Vec<f64>) {
        let width = y.len() / factors.len().max(1);
        for (i, factor) in factors.iter().enumerate() {
            y[i * width..(i + 1) * width].iter_mut().for_each(|y| *y *= factor);
        }
    }

    fn weigh(&self, y: &mut Vec<f64>, x: &Vec<f64>, factors: &Vec<f64>, products: &mut Vec<f64>) {
        let width = y.len() / factors.len().max(1);
        for (i, factor) in factors.iter().enumerate() {
            let own = i * width..(i + 1) * width;
            products[i] = y[own.clone()].iter().zip(&x[own.clone()]).map(|(y, x)| y * x).sum();
            y[own].iter_mut().for_each(|y| *y *= factor);
        }
    }

    fn drop_out(&self, x: &mut Vec<f64>, dropout: Dropout, first: usize) {
        x.iter_mut().zip(first as u64..).for_each(|(x, at)| *x *= f64::from(dropout.factor(at)));
    }

    fn columns(&self, from: &Vec<f64>, to: &mut Vec<f64>, [wide, width]: [usize; 2], runs: &[[usize; 3]]) {
        for (to, from) in to.chunks_exact_mut(width).zip(from.chunks_exact(wide)) {
            for &[source, at, len] in runs {
                to[at..at + len].copy_from_slice(&from[source..source + len]);
            }
        }
    }

    fn gather(&self, x: &Vec<f64>, rows: &[u32], width: usize) -> Vec<f64> {
        rows.iter().flat_map(|&row| &x[row as usize * width..][..width]).copied().collect()
    }

    fn scatter(
        &self,
        x: &Vec<f64>,
        rows: &[u32],
        factors: Option<&Vec<f64>>,
        width: usize,
        y: &mut Vec<f64>,
    ) {
        for (i, &row) in rows.iter().enumerate() {
            let factor = factors.map_or(1.0, |factors| factors[i]);
            for j in 0..width {
                y[row as usize * width + j] += factor * x[i * width + j];
            }
        }
    }

    fn embed(&self, ids: &[u32], table: &Table<'_, Self>, scale: f32) -> Vec<f64> {
        ids.iter().flat_map(|&id| head::row(table, id as usize)).map(|x| x * f64::from(scale)).collect()
    }

    fn pull_embed(
        &self,
        dx: &Vec<f64>,
        places: &[(usize, usize)],
        scale: f32,
        width: usize,
        sums: &mut Vec<f64>,
    ) {
        for &(row, at) in places {
            for j in 0..width {
                sums[at * width + j] += f64::from(scale) * dx[row * width + j];
            }
        }
    }

    fn cross_entropy(
        &self,
        hidden: &Vec<f64>,
        head: &Head<'_, Self>,
        labels: Labels<'_>,
        dhidden: Option<&mut Vec<f64>>,
        dtrained: Option<&mut Vec<f64>>,
    ) -> Vec<f32> {
        head::cross_entropy(hidden, head, labels, dhidden, dtrained)
    }

    fn frozen_parts(&self, hidden: &Vec<f64>, head: &Head<'_, Self>, targets: &[u32]) -> Vec<FrozenPart> {
        head::frozen_parts(hidden, head, targets)
    }

    fn with_trained_entries(
        &self,
        hidden: &Vec<f64>,
        head: &Head<'_, Self>,
        labels: Labels<'_>,
        _: &[FrozenPart],
        dtrained: Option<&mut Vec<f64>>,
    ) -> Vec<f32> {
        // the whole loss again, in which the frozen parts are
        head::cross_entropy(hidden, head, labels, None, dtrained)
    }

    fn logits(&self, hidden: &Vec<f64>, head: &Head<'_, Self>) -> Vec<f64> {
        let d = head.table.base.cols;
        hidden.chunks_exact(d).flat_map(|h| head::logits(h, head)).collect()
    }
}

impl Reference {
    fn gate_and_up(&self, mlp: &GatedMlp<'_, Decoded>, x: &[f64]) -> [Vec<f64>; 2] {
        let rows = x.len() / mlp.gate.cols.max(1);
        [mlp.gate, mlp.up].map(|w| {
            let mut y = self.take(rows * w.rows);
            multiply(x, (w.cols, w.rows), |j, p| w.row(j)[p], Write::Over, &mut y);
            y
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_differences() {
        for of in Activation::ALL {
            for x in [-4.0, -2.9, -1.0, -0.2, 0.3, 2.0, 3.5, 5.0] {
                let value = |x| activation(of, x).0;
                let expected = (value(x + 1e-6) - value(x - 1e-6)) / 2e-6;
                assert!((activation(of, x).1 - expected).abs() < 1e-7, "{of:?} at {x}");
            }
        }
    }

    #[test]
    fn the_error_function_is_that_of_the_tables() {
        let table =
            [(0.0, 0.0), (0.5, 0.520_499_877_813), (1.0, 0.842_700_792_950), (2.0, 0.995_322_265_019)];
        for (x, expected) in table {
            assert!((erf(x) - expected).abs() < 1e-11 && (erf(-x) + expected).abs() < 1e-11, "{x}");
        }
        assert!((erf(1.999_999_9) - erf(2.000_000_1)).abs() < 1e-8);
    }
}
