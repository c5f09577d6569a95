//! A block on the CPU without a graph: forward in place, and backward by hand.
//!
//! It computes what [`Block::forward`] and its gradient compute, from the same kernels. Autograd would allocate a tensor a
//! step, add zeros to gradients and compute results that nothing reads; here the residual stream is updated in place and
//! what the backward pass wants is kept or computed again, as [`Keep`] says.

use super::{Block, Linear, Norm};
use crate::models::RowsOfBatch;
use crate::models::buffers::{Buffer, Buffers};
use crate::ops::attention_flops;
use crate::profile::{Part, time};
use toktune_kernels::attention::{self, Inputs, Saved};
use toktune_kernels::gated::{gated_backward, gated_forward};
use toktune_kernels::gated_mlp::{self, GatedMlp};
use toktune_kernels::matmul::{self, Write};
use toktune_kernels::norm::{rms_norm_backward, rms_norm_forward};
use toktune_kernels::rotary::Direction;
use toktune_kernels::{Weight, rows};

/// How much of a block's forward pass is kept for its backward pass, least first; each level keeps what those before it do.
/// The order is that of the arithmetic saved for a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// The block's input alone.
    #[default]
    Input,
    /// The outputs of the attention and of the projections back to the hidden width, where the backward pass reads them.
    Outputs,
    /// Queries, keys and values.
    Projections,
    /// The gate and the up projection of the MLP: no product is computed twice.
    Everything,
}

/// Keys and values `[rows, kv_heads * head_dim]` of constant rows, after norms and rotation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Past<'a> {
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
}

/// What a block's forward pass left for its backward pass.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The block's input `[rows, d]`.
    input: Vec<f32>,
    /// The output of the attention and the logarithms of its denominators.
    attended: Option<(Vec<f32>, Vec<f32>)>,
    /// What the rest of the attention half follows from: the sum after it, or, with a norm in between, the projection.
    projected: Option<Vec<f32>>,
    /// The output of the MLP, where a norm reads it.
    mlp: Option<Vec<f32>>,
    /// Queries, keys and values before norms and rotation.
    qkv: Option<[Vec<f32>; 3]>,
    gate_up: Option<gated_mlp::Kept>,
}

/// The attention half of a block up to the attention's output.
struct Attended {
    /// Before norms and rotation.
    raw: [Buffer; 3],
    q: Buffer,
    k: Buffer,
    out: Buffer,
    lse: Buffer,
}

impl Linear {
    fn flops(&self, rows: usize) -> usize {
        2 * rows * self.weight.rows() * self.weight.cols()
    }

    fn run(&self, x: &[f32], write: Write, y: &mut [f32]) {
        let (weight, precision) = (self.weight.view(), self.weight.precision());
        let flops = self.flops(x.len() / self.weight.cols().max(1));
        time(Part::Products, flops, || matmul::forward(x, &weight, precision, write, y));
        if let Some(bias) = &self.host_bias {
            rows::add_to_each(y, bias);
        }
    }

    fn pull(&self, dy: &[f32], write: Write, dx: &mut [f32]) {
        let (weight, precision) = (self.weight.view(), self.weight.precision());
        let flops = self.flops(dy.len() / self.weight.rows().max(1));
        time(Part::Products, flops, || matmul::backward(dy, &weight, precision, write, dx));
    }
}

impl Norm {
    pub(crate) fn run(&self, x: &[f32], y: &mut [f32]) {
        time(Part::Rows, 0, || rms_norm_forward(x, &self.host_weight, self.eps, y));
    }

    pub(crate) fn pull(&self, x: &[f32], dy: &[f32], write: Write, dx: &mut [f32]) {
        time(Part::Rows, 0, || rms_norm_backward(x, &self.host_weight, self.eps, dy, write, dx));
    }
}

impl Block {
    /// Floats a row that each level but the first adds to what is kept.
    pub(crate) fn kept_floats(&self) -> [(Keep, usize); 3] {
        let (d, q, kv) = (self.o.weight.rows(), self.q.weight.rows(), self.k.weight.rows());
        let mlp = if self.post_mlp_norm.is_some() { d } else { 0 };
        let gate_up = if self.plain_mlp().is_some() { 2 * self.gate.weight.rows() } else { 0 };
        [
            (Keep::Outputs, q + self.attention.heads + d + mlp),
            (Keep::Projections, q + 2 * kv),
            (Keep::Everything, gate_up),
        ]
    }

    /// Runs the block on `x [rows, d]`, in place, and returns the rows' keys and values; `kept` is filled as `keep` says.
    pub(crate) fn run(
        &self,
        x: &mut [f32],
        rows: &RowsOfBatch,
        past: Past<'_>,
        keep: Option<(Keep, &mut Kept)>,
        buffers: &Buffers,
    ) -> (Buffer, Buffer) {
        let input = keep.as_ref().map(|_| x.to_vec());
        let (attended, projected) = self.run_attention(x, rows, past, buffers);
        let mut normed = buffers.take(x.len());
        self.mlp_norm.run(x, &mut normed);
        let level = keep.as_ref().map_or(Keep::Input, |keep| keep.0);
        let mut gate_up = (level >= Keep::Everything).then(gated_mlp::Kept::default);
        let middle = (level >= Keep::Outputs && projected.is_none()).then(|| x.to_vec());
        let mut mlp = None;
        match &self.post_mlp_norm {
            None => self.run_mlp(&normed, Write::Add, x, gate_up.as_mut(), buffers),
            Some(norm) => {
                let mut out = buffers.take(x.len());
                self.run_mlp(&normed, Write::Over, &mut out, gate_up.as_mut(), buffers);
                norm.run(&out, &mut normed);
                rows::add(x, &normed);
                mlp = Some(out);
            }
        }
        let Attended { raw: [raw_q, raw_k, v], q: _, k, out, lse } = attended;
        if let Some((level, kept)) = keep {
            kept.input = input.unwrap_or_default();
            if level >= Keep::Outputs {
                kept.attended = Some((out.to_vec(), lse.to_vec()));
                kept.projected = projected.map(|p| p.to_vec()).or(middle);
                kept.mlp = mlp.map(|m| m.to_vec());
            }
            if level >= Keep::Projections {
                kept.qkv = Some([raw_q.to_vec(), raw_k.to_vec(), v.to_vec()]);
            }
            kept.gate_up = gate_up.filter(|_| self.plain_mlp().is_some());
        }
        (k, v)
    }

    /// The keys and values of `x` alone: all that is left to do for rows whose hidden state nobody needs.
    pub(crate) fn run_key_values(
        &self,
        x: &[f32],
        rows: &RowsOfBatch,
        buffers: &Buffers,
    ) -> (Buffer, Buffer) {
        let mut normed = buffers.take(x.len());
        self.attention_norm.run(x, &mut normed);
        let count = x.len() / self.k.weight.cols().max(1);
        let project = |linear: &Linear| {
            let mut y = buffers.take(count * linear.weight.rows());
            linear.run(&normed, Write::Over, &mut y);
            y
        };
        (self.rotated(&project(&self.k), self.k_norm.as_ref(), rows, buffers), project(&self.v))
    }

    /// Adds the attention half to `x`. Also returns the output projection, where a norm follows it.
    fn run_attention(
        &self,
        x: &mut [f32],
        rows: &RowsOfBatch,
        past: Past<'_>,
        buffers: &Buffers,
    ) -> (Attended, Option<Buffer>) {
        let attended = self.attend(x, rows, past, None, None, buffers);
        match &self.post_attention_norm {
            None => {
                self.o.run(&attended.out, Write::Add, x);
                (attended, None)
            }
            Some(norm) => {
                let mut projected = buffers.take(x.len());
                self.o.run(&attended.out, Write::Over, &mut projected);
                let mut normed = buffers.take(x.len());
                norm.run(&projected, &mut normed);
                rows::add(x, &normed);
                (attended, Some(projected))
            }
        }
    }

    /// The attention of `x`, from what is known of it.
    fn attend(
        &self,
        x: &[f32],
        rows: &RowsOfBatch,
        past: Past<'_>,
        qkv: Option<[Vec<f32>; 3]>,
        known: Option<(Vec<f32>, Vec<f32>)>,
        buffers: &Buffers,
    ) -> Attended {
        let raw = match qkv {
            Some(qkv) => qkv.map(|x| buffers.own(x)),
            None => {
                let mut normed = buffers.take(x.len());
                self.attention_norm.run(x, &mut normed);
                let count = x.len() / self.q.weight.cols().max(1);
                [&self.q, &self.k, &self.v].map(|linear| {
                    let mut y = buffers.take(count * linear.weight.rows());
                    linear.run(&normed, Write::Over, &mut y);
                    y
                })
            }
        };
        let q = self.rotated(&raw[0], self.q_norm.as_ref(), rows, buffers);
        let k = self.rotated(&raw[1], self.k_norm.as_ref(), rows, buffers);
        let (out, lse) = match known {
            Some((out, lse)) => (buffers.own(out), buffers.own(lse)),
            None => {
                let mut out = buffers.take(q.len());
                let mut lse = buffers.take(q.len() / self.attention.head_dim);
                let inputs = Inputs { q: &q, k: &k, v: &raw[2], past_k: past.k, past_v: past.v };
                time(Part::Attention, attention_flops(&self.attention, &rows.spans), || {
                    attention::forward(&self.attention, &rows.spans, &inputs, &mut out, &mut lse);
                });
                (out, lse)
            }
        };
        Attended { raw, q, k, out, lse }
    }

    /// Queries or keys after their norm and rotation.
    fn rotated(&self, raw: &[f32], norm: Option<&Norm>, rows: &RowsOfBatch, buffers: &Buffers) -> Buffer {
        let mut rotated = buffers.take(raw.len());
        let (lines, hd) = (&rows.rotary[self.rope], self.attention.head_dim);
        match norm {
            None => lines.rotate(raw, hd, Direction::Forward, &mut rotated),
            Some(norm) => {
                let mut normed = buffers.take(raw.len());
                norm.run(raw, &mut normed);
                lines.rotate(&normed, hd, Direction::Forward, &mut rotated);
            }
        }
        rotated
    }

    fn gated_mlp<R>(&self, work: impl FnOnce(GatedMlp<'_, Weight<'_>>) -> R) -> R {
        let [gate, up, down] = [&self.gate, &self.up, &self.down].map(|linear| linear.weight.view());
        let (activation, precision) = (self.activation, self.gate.weight.precision());
        work(GatedMlp { gate: &gate, up: &up, down: &down, activation, precision })
    }

    fn run_mlp(
        &self,
        x: &[f32],
        write: Write,
        y: &mut [f32],
        keep: Option<&mut gated_mlp::Kept>,
        buffers: &Buffers,
    ) {
        let count = x.len() / self.gate.weight.cols().max(1);
        if self.plain_mlp().is_some() {
            let flops = 3 * self.gate.flops(count);
            return time(Part::Products, flops, || self.gated_mlp(|mlp| mlp.forward(x, write, y, keep)));
        }
        let [gate, up, mut inner] = self.gate_and_up(x, buffers);
        gated_forward(self.activation, &gate, &up, &mut inner);
        self.down.run(&inner, write, y);
    }

    /// The gate, the up projection and room for as much again, when they have biases.
    fn gate_and_up(&self, x: &[f32], buffers: &Buffers) -> [Buffer; 3] {
        let count = x.len() / self.gate.weight.cols().max(1);
        let mut out = [(); 3].map(|()| buffers.take(count * self.gate.weight.rows()));
        self.gate.run(x, Write::Over, &mut out[0]);
        self.up.run(x, Write::Over, &mut out[1]);
        out
    }

    /// Turns the gradient `g [rows, d]` of the block's output into that of its input, in place.
    pub(crate) fn pull(
        &self,
        g: &mut [f32],
        kept: Kept,
        rows: &RowsOfBatch,
        past: Past<'_>,
        buffers: &Buffers,
    ) {
        let Kept { input, attended, projected, mlp, qkv, gate_up } = kept;
        let attended = self.attend(&input, rows, past, qkv, attended, buffers);
        let (middle, projected) = self.middle(&input, &attended, projected, buffers);
        self.pull_mlp(g, &middle, mlp, gate_up, buffers);
        drop(middle);
        let mut dprojected = None;
        if let (Some(norm), Some(projected)) = (&self.post_attention_norm, projected) {
            let mut gradient = buffers.take(g.len());
            norm.pull(&projected, g, Write::Over, &mut gradient);
            dprojected = Some(gradient);
        }
        let mut dout = buffers.take(attended.out.len());
        self.o.pull(dprojected.as_deref().unwrap_or(g), Write::Over, &mut dout);
        drop(dprojected);
        self.pull_attention(g, &input, attended, &dout, rows, past, buffers);
    }

    /// The sum after the attention half, and the output projection where a norm follows it.
    fn middle(
        &self,
        input: &[f32],
        attended: &Attended,
        projected: Option<Vec<f32>>,
        buffers: &Buffers,
    ) -> (Buffer, Option<Buffer>) {
        let Some(norm) = &self.post_attention_norm else {
            let middle = projected.map(|middle| buffers.own(middle)).unwrap_or_else(|| {
                let mut middle = buffers.copy(input);
                self.o.run(&attended.out, Write::Add, &mut middle);
                middle
            });
            return (middle, None);
        };
        let projected = projected.map(|p| buffers.own(p)).unwrap_or_else(|| {
            let mut projected = buffers.take(input.len());
            self.o.run(&attended.out, Write::Over, &mut projected);
            projected
        });
        let mut middle = buffers.take(input.len());
        norm.run(&projected, &mut middle);
        rows::add(&mut middle, input);
        (middle, Some(projected))
    }

    /// Adds to `g` what comes through the MLP half, whose input is `middle`.
    fn pull_mlp(
        &self,
        g: &mut [f32],
        middle: &[f32],
        mlp: Option<Vec<f32>>,
        gate_up: Option<gated_mlp::Kept>,
        buffers: &Buffers,
    ) {
        let mut normed = buffers.take(g.len());
        self.mlp_norm.run(middle, &mut normed);
        let mut dout = None;
        if let Some(norm) = &self.post_mlp_norm {
            let out = mlp.map(|out| buffers.own(out)).unwrap_or_else(|| {
                let mut out = buffers.take(g.len());
                self.run_mlp(&normed, Write::Over, &mut out, None, buffers);
                out
            });
            let mut gradient = buffers.take(g.len());
            norm.pull(&out, g, Write::Over, &mut gradient);
            dout = Some(gradient);
        }
        let mut dnormed = buffers.take(g.len());
        let dy = dout.as_deref().unwrap_or(g);
        if self.plain_mlp().is_some() {
            let products = if gate_up.is_some() { 3 } else { 5 };
            let flops = products * self.gate.flops(g.len() / self.gate.weight.cols().max(1));
            time(Part::Products, flops, || {
                self.gated_mlp(|mlp| mlp.backward(&normed, dy, gate_up.as_ref(), &mut dnormed));
            });
        } else {
            let [gate, up, mut dgate] = self.gate_and_up(&normed, buffers);
            let mut dup = buffers.take(up.len());
            self.down.pull(dy, Write::Over, &mut dgate);
            gated_backward(self.activation, &gate, &up, &mut dgate, &mut dup);
            self.gate.pull(&dgate, Write::Over, &mut dnormed);
            self.up.pull(&dup, Write::Add, &mut dnormed);
        }
        drop(dout);
        self.mlp_norm.pull(middle, &dnormed, Write::Add, g);
    }

    /// Adds to `g` what comes through the attention half from the gradient `dout` of the attention's output.
    #[allow(clippy::too_many_arguments)]
    fn pull_attention(
        &self,
        g: &mut [f32],
        input: &[f32],
        attended: Attended,
        dout: &[f32],
        rows: &RowsOfBatch,
        past: Past<'_>,
        buffers: &Buffers,
    ) {
        let Attended { raw: [raw_q, raw_k, v], q, k, out, lse } = attended;
        let [mut dq, mut dk, mut dv] = [q.len(), k.len(), v.len()].map(|len| buffers.take(len));
        let inputs = Inputs { q: &q, k: &k, v: &v, past_k: past.k, past_v: past.v };
        let saved = Saved { out: &out, lse: &lse, dout };
        // the two products of the forward pass again, and three that give the gradients
        time(Part::Attention, attention_flops(&self.attention, &rows.spans) / 2 * 5, || {
            attention::backward(&self.attention, &rows.spans, &inputs, &saved, &mut dq, &mut dk, &mut dv);
        });
        let mut dnormed = buffers.take(g.len());
        self.v.pull(&dv, Write::Over, &mut dnormed);
        for (linear, norm, raw, gradient) in
            [(&self.q, self.q_norm.as_ref(), &raw_q, dq), (&self.k, self.k_norm.as_ref(), &raw_k, dk)]
        {
            let (lines, hd) = (&rows.rotary[self.rope], self.attention.head_dim);
            let mut turned = buffers.take(gradient.len());
            lines.rotate(&gradient, hd, Direction::Backward, &mut turned);
            let mut unrotated = gradient;
            let draw = match norm {
                None => &turned,
                Some(norm) => {
                    norm.pull(raw, &turned, Write::Over, &mut unrotated);
                    &unrotated
                }
            };
            linear.pull(draw, Write::Add, &mut dnormed);
        }
        self.attention_norm.pull(input, &dnormed, Write::Add, g);
    }
}
