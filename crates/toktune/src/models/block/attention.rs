//! The attention of a block, to its own sequence or to the encoder's.

use super::disentangled::Disentangled;
use super::linear::Linear;
use super::norm::Norm;
use crate::error::Result;
use crate::models::buffers::{Buffer, Buffers};
use crate::models::spec::QkvLayout;
use crate::models::update::BlockUpdates;
use crate::ops::{self, AttentionShape, Heads, KeyValues, RotaryRows, Sequences, attention_flops};
use crate::profile::{Part, time};
use candle_core::Tensor;
use rayon::prelude::*;
use toktune_kernels::attention::{self, Inputs, Saved};
use toktune_kernels::matmul::Write;
use toktune_kernels::rotary::Direction;

/// Frozen weights of an attention.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub(super) projections: Projections,
    pub(super) output: Linear,
    pub(super) q_norm: Option<Norm>,
    pub(super) k_norm: Option<Norm>,
    pub(super) shape: AttentionShape,
    /// Which rotary embedding turns queries and keys.
    pub(super) rope: Option<usize>,
    pub(super) heads: Heads,
    /// Queries and keys meet rows for distances too.
    pub(super) disentangled: Option<Disentangled>,
}

/// The query, key and value projections.
#[derive(Clone, Debug)]
pub(super) enum Projections {
    Split(Box<[Linear; 3]>),
    Fused(Linear, QkvLayout),
}

/// Where the rows of an attention stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) sequences: &'a Sequences,
    /// The rotations of the rows; `None` for the attention to an encoder.
    pub(super) rotary: Option<&'a RotaryRows>,
}

/// Keys and values `[rows, kv_heads * head_dim]` of constant rows, after norms and rotation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Past<'a> {
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
}

/// Queries, keys and values before norms and rotation.
pub(super) type RawQkv = [Buffer; 3];

/// What the backward pass reads of a forward pass.
pub(super) struct Attended {
    pub(super) raw: RawQkv,
    q: Buffer,
    pub(super) k: Buffer,
    pub(super) out: Buffer,
    pub(super) lse: Buffer,
}

/// A run of columns of a fused projection: `(first, which of the three, first there, how many)`.
type Piece = (usize, usize, usize, usize);

impl Attention {
    /// Its linear layers, the output projection last.
    pub(super) fn linears(&self) -> Vec<&Linear> {
        let projections = match &self.projections {
            Projections::Split(split) => split.iter().collect(),
            Projections::Fused(fused, _) => vec![fused],
        };
        let of_distances = self.disentangled.iter().flat_map(Disentangled::linears);
        projections.into_iter().chain(of_distances).chain([&self.output]).collect()
    }

    pub(super) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let projections = match &mut self.projections {
            Projections::Split(split) => split.iter_mut().collect(),
            Projections::Fused(fused, _) => vec![fused],
        };
        let of_distances = self.disentangled.iter_mut().flat_map(Disentangled::linears_mut);
        projections.into_iter().chain(of_distances).chain([&mut self.output]).collect()
    }

    /// Widths of queries, keys and values.
    pub(super) fn widths(&self) -> [usize; 3] {
        let (q, kv) = (self.shape.heads * self.shape.head_dim, self.shape.kv_heads * self.shape.head_dim);
        [q, kv, kv]
    }

    fn pieces(&self, layout: QkvLayout) -> Vec<Piece> {
        let ([q, kv, _], hd) = (self.widths(), self.shape.head_dim);
        match layout {
            QkvLayout::Split | QkvLayout::Blocks => vec![(0, 0, 0, q), (q, 1, 0, kv), (q + kv, 2, 0, kv)],
            QkvLayout::Groups => {
                let group = self.shape.heads / self.shape.kv_heads * hd;
                let of = |head: usize| {
                    let first = head * (group + 2 * hd);
                    [
                        (first, 0, head * group, group),
                        (first + group, 1, head * hd, hd),
                        (first + group + hd, 2, head * hd, hd),
                    ]
                };
                (0..self.shape.kv_heads).flat_map(of).collect()
            }
        }
    }

    /// Queries, keys and values of `x`; keys and values of `memory` where there is one.
    fn project(&self, x: &Tensor, memory: &Tensor, updates: Option<&BlockUpdates>) -> Result<[Tensor; 3]> {
        match &self.projections {
            Projections::Split(split) => {
                let [q, k, v] = &**split;
                let of = |linear: &Linear, x: &Tensor| linear.forward(x, updates);
                Ok([of(q, x)?, of(k, memory)?, of(v, memory)?])
            }
            Projections::Fused(fused, layout) => {
                let (fused, pieces) = (fused.forward(x, updates)?, self.pieces(*layout));
                let of = |which: usize| -> Result<Tensor> {
                    let own = pieces.iter().filter(|piece| piece.1 == which);
                    let parts: Vec<Tensor> =
                        own.map(|p| fused.narrow(1, p.0, p.3)).collect::<candle_core::Result<_>>()?;
                    Ok(Tensor::cat(&parts, 1)?.contiguous()?)
                };
                Ok([of(0)?, of(1)?, of(2)?])
            }
        }
    }

    fn prepared(&self, raw: &Tensor, norm: Option<&Norm>, rotary: Option<&RotaryRows>) -> Result<Tensor> {
        let normed = norm.map(|norm| norm.forward_heads(raw)).transpose()?;
        let normed = normed.as_ref().unwrap_or(raw);
        Ok(match rotary {
            Some(lines) => ops::rotary(normed, lines, self.heads)?,
            None => normed.clone(),
        })
    }

    /// The attention's output for `x` after its output projection, with its keys and values.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        memory: Option<&Tensor>,
        place: Place<'_>,
        past: Option<&KeyValues>,
        updates: Option<&BlockUpdates>,
    ) -> Result<(Tensor, KeyValues)> {
        let [q, k, v] = self.project(x, memory.unwrap_or(x), updates)?;
        let q = self.prepared(&q, self.q_norm.as_ref(), place.rotary)?;
        let k = self.prepared(&k, self.k_norm.as_ref(), place.rotary)?;
        let attended = match &self.disentangled {
            None => ops::attention(&q, &k, &v, past, place.sequences, &self.shape)?,
            Some(of) => of.forward(self, [&q, &k, &v], place.sequences, updates)?,
        };
        Ok((self.output.forward(&attended, updates)?, KeyValues { k, v }))
    }

    /// The keys and values of `x` alone.
    pub(super) fn key_values(&self, x: &Tensor, rotary: Option<&RotaryRows>) -> Result<KeyValues> {
        let [_, k, v] = self.project(x, x, None)?;
        Ok(KeyValues { k: self.prepared(&k, self.k_norm.as_ref(), rotary)?, v })
    }

    /// The three projections without a graph.
    fn run_projections(&self, x: &[f32], memory: &[f32], buffers: &Buffers) -> RawQkv {
        match &self.projections {
            Projections::Split(split) => {
                let of = |at: usize, x: &[f32]| {
                    let linear = &split[at];
                    let mut y = buffers.take(x.len() / linear.inputs().max(1) * linear.outputs());
                    linear.run(x, Write::Over, &mut y);
                    y
                };
                [of(0, x), of(1, memory), of(2, memory)]
            }
            Projections::Fused(linear, layout) => {
                let rows = x.len() / linear.inputs().max(1);
                let mut fused = buffers.take(rows * linear.outputs());
                linear.run(x, Write::Over, &mut fused);
                let mut raw = self.widths().map(|width| buffers.take(rows * width));
                let [q, k, v] = &mut raw;
                self.each_piece(*layout, [q, k, v], &fused, |own, fused| own.copy_from_slice(fused));
                raw
            }
        }
    }

    /// Calls `work(own, fused)` with every run of columns of the three in each row.
    fn each_piece(
        &self,
        layout: QkvLayout,
        own: [&mut [f32]; 3],
        fused: &[f32],
        work: impl Fn(&mut [f32], &[f32]) + Sync,
    ) {
        let (pieces, widths) = (self.pieces(layout), self.widths());
        let width = widths.iter().sum::<usize>();
        for (which, (own, own_width)) in own.into_iter().zip(widths).enumerate() {
            own.par_chunks_mut(own_width).zip(fused.par_chunks(width)).for_each(|(own, fused)| {
                for (from, _, to, len) in pieces.iter().filter(|piece| piece.1 == which) {
                    work(&mut own[*to..to + len], &fused[*from..from + len]);
                }
            });
        }
    }

    /// The attention of `x`, from what is known of it.
    pub(super) fn attend(
        &self,
        (x, memory): (&[f32], &[f32]),
        place: Place<'_>,
        past: Past<'_>,
        raw: Option<RawQkv>,
        known: Option<(Buffer, Buffer)>,
        buffers: &Buffers,
    ) -> Attended {
        let raw = raw.unwrap_or_else(|| self.run_projections(x, memory, buffers));
        let q = self.run_prepared(&raw[0], self.q_norm.as_ref(), place.rotary, buffers);
        let k = self.run_prepared(&raw[1], self.k_norm.as_ref(), place.rotary, buffers);
        let (out, lse) = known.unwrap_or_else(|| {
            let mut out = buffers.take(q.len());
            let mut lse = buffers.take(q.len() / self.shape.head_dim);
            let spans = &place.sequences.spans;
            let rows = self.disentangled.as_ref().map(|of| of.project(self, spans, buffers));
            let inputs = inputs((&q, &k, &raw[2]), past, place);
            time(Part::Attention, attention_flops(&self.shape, spans), || match &rows {
                None => attention::forward(&self.shape, spans, &inputs, &mut out, &mut lse),
                Some(rows) => rows.run(&self.shape, spans, [&q, &k, &raw[2]], &mut out, &mut lse),
            });
            (out, lse)
        });
        Attended { raw, q, k, out, lse }
    }

    /// Queries or keys after their norm and rotation.
    fn run_prepared(
        &self,
        raw: &Buffer,
        norm: Option<&Norm>,
        rotary: Option<&RotaryRows>,
        buffers: &Buffers,
    ) -> Buffer {
        let normed = norm.map(|norm| {
            let mut normed = buffers.take(raw.len());
            norm.run(raw, &mut normed);
            normed
        });
        let Some(lines) = rotary else {
            return normed.unwrap_or_else(|| buffers.copy(raw));
        };
        let mut rotated = buffers.take(raw.len());
        lines.rotate(normed.as_ref().unwrap_or(raw), self.heads, Direction::Forward, &mut rotated);
        rotated
    }

    /// Keys and values of `x`, which nothing else is computed for.
    pub(super) fn run_key_values(
        &self,
        x: &[f32],
        rotary: Option<&RotaryRows>,
        buffers: &Buffers,
    ) -> (Buffer, Buffer) {
        let raw = match &self.projections {
            Projections::Split(split) => {
                let mut out = [1, 2].map(|at| {
                    let linear: &Linear = &split[at];
                    buffers.take(x.len() / linear.inputs().max(1) * linear.outputs())
                });
                split[1].run(x, Write::Over, &mut out[0]);
                split[2].run(x, Write::Over, &mut out[1]);
                out
            }
            Projections::Fused(..) => {
                let [_, k, v] = self.run_projections(x, x, buffers);
                [k, v]
            }
        };
        let [k, v] = raw;
        (self.run_prepared(&k, self.k_norm.as_ref(), rotary, buffers), v)
    }

    /// From the gradient `dout` of the attention's output, before its output projection: overwrites `dx` with the gradient of
    /// `x`, and adds that of the memory's rows to `dmemory` where keys and values come from there.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn pull(
        &self,
        attended: Attended,
        dout: &[f32],
        place: Place<'_>,
        past: Past<'_>,
        dx: &mut [f32],
        dmemory: Option<&mut [f32]>,
        buffers: &Buffers,
    ) {
        let Attended { raw: [raw_q, raw_k, v], q, k, out, lse } = attended;
        let [mut dq, mut dk, mut dv] = [q.len(), k.len(), v.len()].map(|len| buffers.take(len));
        let inputs = inputs((&q, &k, &v), past, place);
        let saved = Saved { out: &out, lse: &lse, dout };
        let spans = &place.sequences.spans;
        // the two products of the forward pass again, and three that give the gradients
        let rows = self.disentangled.as_ref().map(|of| of.project(self, spans, buffers));
        time(Part::Attention, attention_flops(&self.shape, spans) / 2 * 5, || match &rows {
            None => attention::backward(&self.shape, spans, &inputs, &saved, &mut dq, &mut dk, &mut dv),
            Some(rows) => rows.pull(&self.shape, spans, [&q, &k, &v], &saved, (&mut dq, &mut dk, &mut dv)),
        });
        let mut dq = self.pull_prepared(&raw_q, dq, self.q_norm.as_ref(), place.rotary, buffers);
        let mut dk = self.pull_prepared(&raw_k, dk, self.k_norm.as_ref(), place.rotary, buffers);
        match &self.projections {
            Projections::Split(split) => {
                let [to_q, to_k, to_v] = &**split;
                match dmemory {
                    None => {
                        to_v.pull(&dv, Write::Over, dx);
                        to_q.pull(&dq, Write::Add, dx);
                        to_k.pull(&dk, Write::Add, dx);
                    }
                    Some(dmemory) => {
                        to_q.pull(&dq, Write::Over, dx);
                        to_k.pull(&dk, Write::Add, dmemory);
                        to_v.pull(&dv, Write::Add, dmemory);
                    }
                }
            }
            Projections::Fused(linear, layout) => {
                let mut fused = buffers.take(dq.len() + dk.len() + dv.len());
                self.join(*layout, [&mut dq, &mut dk, &mut dv], &mut fused);
                linear.pull(&fused, Write::Over, dx);
            }
        }
    }

    /// The columns of the three side by side, as the fused projection has them.
    fn join(&self, layout: QkvLayout, own: [&mut Buffer; 3], fused: &mut [f32]) {
        let (pieces, widths) = (self.pieces(layout), self.widths());
        let own: [&[f32]; 3] = own.map(|buffer| &buffer[..]);
        fused.par_chunks_mut(widths.iter().sum()).enumerate().for_each(|(row, fused)| {
            for &(to, which, from, len) in &pieces {
                let at = row * widths[which] + from;
                fused[to..to + len].copy_from_slice(&own[which][at..at + len]);
            }
        });
    }

    /// The gradient of queries or keys before their norm and rotation.
    fn pull_prepared(
        &self,
        raw: &Buffer,
        gradient: Buffer,
        norm: Option<&Norm>,
        rotary: Option<&RotaryRows>,
        buffers: &Buffers,
    ) -> Buffer {
        let mut turned = gradient;
        if let Some(lines) = rotary {
            let mut back = buffers.take(turned.len());
            lines.rotate(&turned, self.heads, Direction::Backward, &mut back);
            turned = back;
        }
        let Some(norm) = norm else { return turned };
        let mut gradient = buffers.take(turned.len());
        norm.pull(raw, &turned, Write::Over, &mut gradient);
        gradient
    }
}

fn inputs<'a>((q, k, v): (&'a [f32], &'a [f32], &'a [f32]), past: Past<'a>, place: Place<'a>) -> Inputs<'a> {
    let bias = place.sequences.bias.as_deref();
    Inputs { q, k, v, past_k: past.k, past_v: past.v, bias }
}
