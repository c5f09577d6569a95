//! The attention of a block, to its own sequence or to the encoder's.

use super::around::{Around, Gradients, KeyValues};
use super::disentangled::Disentangled;
use super::linear::Linear;
use super::norm::Norm;
use crate::backend::{
    Activation, AttentionInputs, AttentionShape, Backend, Direction, Heads, Rotation, Saved, Sequences, Write,
};
use crate::spec::QkvLayout;
use toktune_kernels::Precision;

/// Frozen weights of an attention.
#[derive(Debug)]
pub(super) struct Attention<B: Backend> {
    pub(super) projections: Projections<B>,
    pub(super) output: Linear<B>,
    pub(super) q_norm: Option<Norm<B>>,
    pub(super) k_norm: Option<Norm<B>>,
    /// These norms read what has been rotated already.
    pub(super) norm_rotated: bool,
    pub(super) shape: AttentionShape,
    /// Queries and keys, after their norm, and values are kept between minus this and this.
    pub(super) limit: Option<f32>,
    /// Which rotary embedding turns queries and keys.
    pub(super) rope: Option<usize>,
    /// Queries have a factor by their position.
    pub(super) tempered: bool,
    pub(super) heads: Heads,
    /// Of each query head the score of a key without a value that every row sees, `[heads]`.
    pub(super) sinks: Option<B::Buffer>,
    /// Queries and keys meet rows for distances too.
    pub(super) disentangled: Option<Disentangled<B>>,
}

/// The query, key and value projections.
#[derive(Debug)]
pub(super) enum Projections<B: Backend> {
    Split(Box<[Linear<B>; 3]>),
    Fused(Linear<B>, QkvLayout),
}

/// Where the rows of an attention stand, and what their keys and values come from beside themselves.
pub(super) struct Place<'a, B: Backend> {
    pub(super) sequences: &'a Sequences,
    /// The rotations of the rows; `None` for the attention to an encoder.
    pub(super) rotation: Option<&'a Rotation<B::Buffer>>,
    /// Factors on the queries of the rows.
    pub(super) temperatures: Option<&'a B::Buffer>,
    /// Constant keys and values that come before.
    pub(super) past: Option<(&'a B::Buffer, &'a B::Buffer)>,
}

impl<B: Backend> Clone for Place<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Place<'_, B> {}

/// What is known already of an attention that is to be computed.
pub(super) struct Known<B: Backend> {
    /// Queries, keys and values before norms and rotation.
    pub(super) raw: Option<[B::Buffer; 3]>,
    /// The output and the logarithms of its denominators.
    pub(super) out: Option<[B::Buffer; 2]>,
}

/// What the backward pass reads of a forward pass.
pub(super) struct Attended<B: Backend> {
    /// Queries, keys and values before norms and rotation.
    pub(super) raw: [B::Buffer; 3],
    q: B::Buffer,
    pub(super) k: B::Buffer,
    pub(super) out: B::Buffer,
    pub(super) lse: B::Buffer,
}

/// A run of columns of a fused projection: `(first, which of the three, first there, how many)`.
type Piece = (usize, usize, usize, usize);

impl<B: Backend> Attention<B> {
    /// Its linear layers, the output projection last.
    pub(super) fn linears(&self) -> Vec<&Linear<B>> {
        let projections = self.projecting();
        let of_distances = self.disentangled.iter().flat_map(Disentangled::linears);
        projections.iter().chain(of_distances).chain([&self.output]).collect()
    }

    pub(super) fn linears_mut(&mut self) -> Vec<&mut Linear<B>> {
        let projections = match &mut self.projections {
            Projections::Split(split) => &mut split[..],
            Projections::Fused(fused, _) => std::slice::from_mut(fused),
        };
        let of_distances = self.disentangled.iter_mut().flat_map(Disentangled::linears_mut);
        projections.iter_mut().chain(of_distances).chain([&mut self.output]).collect()
    }

    /// The layers that read the rows.
    fn projecting(&self) -> &[Linear<B>] {
        match &self.projections {
            Projections::Split(split) => &split[..],
            Projections::Fused(fused, _) => std::slice::from_ref(fused),
        }
    }

    /// Whether the backward pass reads the rows that were projected.
    pub(super) fn reads_rows(&self, around: &Around<'_, B>) -> bool {
        self.projecting().iter().any(|linear| linear.is_updated(around))
    }

    /// Widths of queries, keys and values.
    pub(super) fn widths(&self) -> [usize; 3] {
        let (q, kv) = (self.shape.heads * self.shape.head_dim, self.shape.kv_heads * self.shape.head_dim);
        [q, kv, kv]
    }

    fn pieces(&self, layout: QkvLayout) -> Vec<Piece> {
        let ([q, kv, _], hd) = (self.widths(), self.shape.head_dim);
        match layout {
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
            _ => vec![(0, 0, 0, q), (q, 1, 0, kv), (q + kv, 2, 0, kv)],
        }
    }

    /// Where its rows stand.
    pub(super) fn place<'a>(&self, around: &Around<'a, B>) -> Place<'a, B> {
        Place {
            sequences: &around.rows.sequences,
            rotation: self.rope.map(|rope| &around.rows.rotations[rope]),
            temperatures: around.rows.temperatures.as_ref().filter(|_| self.tempered),
            past: around.past.map(|past| (&past.k, &past.v)),
        }
    }

    /// Queries of `x`, keys and values of `memory`, before norms, limits of queries and keys, and rotation.
    fn project(&self, around: &Around<'_, B>, x: &B::Buffer, memory: &B::Buffer) -> [B::Buffer; 3] {
        let mut raw = self.project_unlimited(around, x, memory);
        self.limit_values(around.backend, &mut raw[2]);
        raw
    }

    fn limit_values(&self, backend: &B, values: &mut B::Buffer) {
        if let Some(limit) = self.limit {
            backend.activate(Activation::Clamp { limit }, values);
        }
    }

    fn project_unlimited(&self, around: &Around<'_, B>, x: &B::Buffer, memory: &B::Buffer) -> [B::Buffer; 3] {
        match &self.projections {
            Projections::Split(split) => {
                let [q, k, v] = &**split;
                [q.apply(around, (x, 0)), k.apply(around, (memory, 0)), v.apply(around, (memory, 0))]
            }
            Projections::Fused(linear, layout) => {
                let (backend, widths) = (around.backend, self.widths());
                let fused = linear.apply(around, (x, 0));
                let rows = backend.len(&fused) / linear.outputs().max(1);
                let pieces = self.pieces(*layout);
                std::array::from_fn(|which| {
                    let own = pieces.iter().filter(|piece| piece.1 == which);
                    let runs: Vec<[usize; 3]> = own.map(|&(from, _, to, len)| [from, to, len]).collect();
                    let mut raw = backend.take(rows * widths[which]);
                    backend.columns(&fused, &mut raw, [linear.outputs(), widths[which]], &runs);
                    raw
                })
            }
        }
    }

    /// The attention of `x`, from what is known of it; keys and values are those of `memory`.
    pub(super) fn attend(
        &self,
        around: &Around<'_, B>,
        [x, memory]: [&B::Buffer; 2],
        place: Place<'_, B>,
        known: Known<B>,
    ) -> Attended<B> {
        let backend = around.backend;
        let raw = known.raw.unwrap_or_else(|| self.project(around, x, memory));
        let mut q = self.prepared(backend, &raw[0], self.q_norm.as_ref(), place.rotation);
        if let Some(temperatures) = place.temperatures {
            backend.scale_rows(&mut q, temperatures);
        }
        let k = self.prepared(backend, &raw[1], self.k_norm.as_ref(), place.rotation);
        let [out, lse] = known.out.unwrap_or_else(|| {
            let width = backend.len(&q);
            let (mut out, mut lse) = (backend.take(width), backend.take(width / self.shape.head_dim));
            let inputs = self.inputs([&q, &k, &raw[2]], place);
            match &self.disentangled {
                None => backend.attention(&inputs, &mut out, &mut lse),
                Some(of) => {
                    let projected = of.project(self, around, place.sequences);
                    backend.disentangled(&inputs, &projected.distances(), &mut out, &mut lse);
                }
            }
            [out, lse]
        });
        Attended { raw, q, k, out, lse }
    }

    /// In which precision its products are taken: that of the output projection's. Scores that are not brought down by the root
    /// of the head's width (T5's) are so large that operands of 8 digits would be felt in the softmax: those stay `f32`.
    fn precision(&self) -> Precision {
        let is_scaled = self.shape.scale * (self.shape.head_dim as f32).sqrt() < 1.01;
        if is_scaled { self.output.frozen.precision() } else { Precision::F32 }
    }

    fn inputs<'a>(
        &'a self,
        [q, k, v]: [&'a B::Buffer; 3],
        place: Place<'a, B>,
    ) -> AttentionInputs<'a, B::Buffer> {
        let precision = self.precision();
        AttentionInputs {
            shape: &self.shape,
            sequences: place.sequences,
            q,
            k,
            v,
            past: place.past,
            sinks: self.sinks.as_ref(),
            precision,
        }
    }

    /// Queries or keys after their norm, limit and rotation.
    fn prepared(
        &self,
        backend: &B,
        raw: &B::Buffer,
        norm: Option<&Norm<B>>,
        rotation: Option<&Rotation<B::Buffer>>,
    ) -> B::Buffer {
        let unrotated = self.unrotated(backend, raw, norm);
        let read = unrotated.as_ref().unwrap_or(raw);
        let rotated = rotation.map(|rotation| self.rotated(backend, rotation, Direction::Forward, read));
        let read = rotated.as_ref().unwrap_or(read);
        match norm.filter(|_| self.norm_rotated) {
            Some(norm) => norm.apply(backend, read),
            None => rotated.or(unrotated).unwrap_or_else(|| backend.part(raw, 0..backend.len(raw))),
        }
    }

    /// Queries or keys before their rotation, where that is not as they come.
    fn unrotated(&self, backend: &B, raw: &B::Buffer, norm: Option<&Norm<B>>) -> Option<B::Buffer> {
        let normed = norm.filter(|_| !self.norm_rotated).map(|norm| norm.apply(backend, raw));
        let Some(limit) = self.limit else { return normed };
        let mut limited = normed.unwrap_or_else(|| backend.part(raw, 0..backend.len(raw)));
        backend.activate(Activation::Clamp { limit }, &mut limited);
        Some(limited)
    }

    /// Queries or keys, or gradients of them, rotated forward or back.
    fn rotated(
        &self,
        backend: &B,
        rotation: &Rotation<B::Buffer>,
        direction: Direction,
        x: &B::Buffer,
    ) -> B::Buffer {
        let mut rotated = backend.take(backend.len(x));
        backend.rotate(rotation, self.heads, direction, x, &mut rotated);
        rotated
    }

    /// Keys and values of `x`, which nothing else is computed for.
    pub(super) fn key_values(
        &self,
        around: &Around<'_, B>,
        x: &B::Buffer,
        rotation: Option<&Rotation<B::Buffer>>,
    ) -> KeyValues<B::Buffer> {
        let [k, v] = match &self.projections {
            Projections::Split(split) => {
                let [k, mut v] = [1, 2].map(|at| split[at].apply(around, (x, 0)));
                self.limit_values(around.backend, &mut v);
                [k, v]
            }
            Projections::Fused(..) => {
                let [_, k, v] = self.project(around, x, x);
                [k, v]
            }
        };
        KeyValues { k: self.prepared(around.backend, &k, self.k_norm.as_ref(), rotation), v }
    }

    /// From the gradient `dout` of the attention's output, before its output projection: overwrites `dx` with the gradient of
    /// `x`, and adds that of the encoder's rows where keys and values come from there (`memory`).
    pub(super) fn pull(
        &self,
        around: &Around<'_, B>,
        attended: Attended<B>,
        (dout, place): (&B::Buffer, Place<'_, B>),
        [x, memory]: [Option<&B::Buffer>; 2],
        dx: &mut B::Buffer,
        gradients: &mut Gradients<'_, B>,
    ) {
        let backend = around.backend;
        let Attended { raw: [raw_q, raw_k, v], q, k, out, lse } = attended;
        let [mut dq, mut dk, mut dv] = [&q, &k, &v].map(|x| backend.take(backend.len(x)));
        let inputs = self.inputs([&q, &k, &v], place);
        let saved = Saved { out: &out, lse: &lse, dout };
        match &self.disentangled {
            None => backend.pull_attention(&inputs, saved, [&mut dq, &mut dk, &mut dv]),
            Some(of) => {
                let projected = of.project(self, around, place.sequences);
                projected.pull(&inputs, saved, [&mut dq, &mut dk, &mut dv], around, gradients);
            }
        }
        drop((q, k, out, lse));
        if let Some(temperatures) = place.temperatures {
            backend.scale_rows(&mut dq, temperatures);
        }
        if let Some(limit) = self.limit {
            // what was kept of the values is within the limit already
            backend.pull_activate(Activation::Clamp { limit }, &v, &mut dv);
        }
        let dq = self.pull_prepared(backend, &raw_q, dq, self.q_norm.as_ref(), place.rotation);
        let dk = self.pull_prepared(backend, &raw_k, dk, self.k_norm.as_ref(), place.rotation);
        // the rows are read by updates alone, and are there where there are some
        let x = x.unwrap_or(&raw_q);
        match &self.projections {
            Projections::Split(split) => {
                let [to_q, to_k, to_v] = &**split;
                match (memory, gradients.memory.take()) {
                    (Some(memory), Some(dmemory)) => {
                        to_q.pull(around, (x, 0), &dq, (Write::Over, dx), gradients);
                        to_k.pull(around, (memory, 0), &dk, (Write::Add, dmemory), gradients);
                        to_v.pull(around, (memory, 0), &dv, (Write::Add, dmemory), gradients);
                        gradients.memory = Some(dmemory);
                    }
                    (_, dmemory) => {
                        gradients.memory = dmemory;
                        to_v.pull(around, (x, 0), &dv, (Write::Over, dx), gradients);
                        to_q.pull(around, (x, 0), &dq, (Write::Add, dx), gradients);
                        to_k.pull(around, (x, 0), &dk, (Write::Add, dx), gradients);
                    }
                }
            }
            Projections::Fused(linear, layout) => {
                let fused = self.join(backend, linear, *layout, [&dq, &dk, &dv]);
                linear.pull(around, (x, 0), &fused, (Write::Over, dx), gradients);
            }
        }
    }

    /// The columns of the three side by side, as the fused projection has them.
    fn join(&self, backend: &B, linear: &Linear<B>, layout: QkvLayout, own: [&B::Buffer; 3]) -> B::Buffer {
        let (pieces, widths, width) = (self.pieces(layout), self.widths(), linear.outputs());
        let rows = backend.len(own[0]) / widths[0].max(1);
        let mut fused = backend.take(rows * width);
        for (which, own) in own.into_iter().enumerate() {
            let of = pieces.iter().filter(|piece| piece.1 == which);
            let runs: Vec<[usize; 3]> = of.map(|&(to, _, from, len)| [from, to, len]).collect();
            backend.columns(own, &mut fused, [widths[which], width], &runs);
        }
        fused
    }

    /// The gradient of queries or keys before their norm and rotation.
    fn pull_prepared(
        &self,
        backend: &B,
        raw: &B::Buffer,
        gradient: B::Buffer,
        norm: Option<&Norm<B>>,
        rotation: Option<&Rotation<B::Buffer>>,
    ) -> B::Buffer {
        let through = |norm: &Norm<B>, input: &B::Buffer, gradient: &B::Buffer| {
            let mut of_input = backend.take(backend.len(gradient));
            norm.pull(backend, input, gradient, Write::Over, &mut of_input);
            of_input
        };
        let mut gradient = gradient;
        // what is read here is at most a norm, a limit and a rotation away: cheaper to compute again than to keep
        let unrotated =
            (self.limit.is_some() || self.norm_rotated).then(|| self.unrotated(backend, raw, norm)).flatten();
        if let Some(norm) = norm.filter(|_| self.norm_rotated) {
            let read = unrotated.as_ref().unwrap_or(raw);
            let rotated = rotation.map(|rotation| self.rotated(backend, rotation, Direction::Forward, read));
            gradient = through(norm, rotated.as_ref().unwrap_or(read), &gradient);
        }
        if let Some(rotation) = rotation {
            gradient = self.rotated(backend, rotation, Direction::Backward, &gradient);
        }
        if let (Some(limit), Some(limited)) = (self.limit, &unrotated) {
            backend.pull_activate(Activation::Clamp { limit }, limited, &mut gradient);
        }
        match norm.filter(|_| !self.norm_rotated) {
            Some(norm) => through(norm, raw, &gradient),
            None => gradient,
        }
    }
}
