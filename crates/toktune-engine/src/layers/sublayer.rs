//! A part of a block that adds to the residual stream, with its norms.

use super::around::{Around, Gradients, KeyValues};
use super::attention::{Attended, Attention, Known, Place};
use super::convolution::Convolution;
use super::feed_forward::FeedForward;
use super::keep::{Keep, KeptSublayer, State};
use super::linear::Linear;
use super::norm::Norm;
use crate::backend::{Backend, Write};

/// A part of a block that adds to the residual stream: `y = sum_norm(x + scale * after(work(before(x))))`.
#[derive(Debug)]
pub(super) struct Sublayer<B: Backend> {
    pub(super) before: Option<Norm<B>>,
    pub(super) after: Option<Norm<B>>,
    pub(super) sum: Option<Norm<B>>,
    pub(super) scale: f32,
    pub(super) work: Work<B>,
}

#[derive(Debug)]
pub(super) enum Work<B: Backend> {
    /// Attention of a sequence to itself.
    Own(Attention<B>),
    /// Attention to the encoder's rows.
    Cross(Attention<B>),
    /// A short convolution along the sequence.
    Convolution(Convolution<B>),
    Mlp(FeedForward<B>),
}

impl<B: Backend> Work<B> {
    /// The linear layers that can have updates.
    pub(super) fn linears(&self) -> Vec<&Linear<B>> {
        match self {
            Work::Own(attention) | Work::Cross(attention) => attention.linears(),
            Work::Convolution(of) => vec![&of.input, &of.output],
            Work::Mlp(mlp) => mlp.linears(),
        }
    }

    /// Every linear layer.
    pub(super) fn all_linears(&self) -> Vec<&Linear<B>> {
        match self {
            Work::Own(_) | Work::Cross(_) | Work::Convolution(_) => self.linears(),
            Work::Mlp(mlp) => mlp.all_linears(),
        }
    }

    /// Calls `change` with the linear layers whose weights may be changed.
    pub(super) fn change_linears(&mut self, backend: &B, mut change: impl FnMut(&mut Linear<B>)) {
        match self {
            Work::Own(attention) | Work::Cross(attention) => {
                attention.linears_mut().into_iter().for_each(change);
            }
            Work::Convolution(of) => [&mut of.input, &mut of.output].into_iter().for_each(&mut change),
            Work::Mlp(mlp) => mlp.change_linears(backend, change),
        }
    }
}

/// What the attention to an encoder makes of the encoder's constant rows.
type CrossPast<X> = Option<KeyValues<X>>;

impl<B: Backend> Sublayer<B> {
    /// Whether a norm reads what it adds.
    pub(super) fn has_norm_of_update(&self) -> bool {
        self.after.is_some() || self.sum.is_some()
    }

    /// Whether what it adds goes to the residual stream as it is.
    fn adds_directly(&self) -> bool {
        self.after.is_none() && self.scale == 1.0
    }

    /// `x` through the norm before the work.
    fn read(&self, backend: &B, x: &B::Buffer) -> B::Buffer {
        match &self.before {
            None => backend.part(x, 0..backend.len(x)),
            Some(norm) => norm.apply(backend, x),
        }
    }

    /// Adds `update` to `x` with its factor and the norm of it.
    pub(super) fn add(&self, backend: &B, update: &B::Buffer, x: &mut B::Buffer) {
        if self.adds_directly() {
            return backend.add(x, update);
        }
        let mut scaled = match &self.after {
            None => backend.part(update, 0..backend.len(update)),
            Some(norm) => norm.apply(backend, update),
        };
        if self.scale != 1.0 {
            backend.scale(&mut scaled, self.scale);
        }
        backend.add(x, &scaled);
    }

    /// The norm of the residual sum, in place.
    fn finish_sum(&self, backend: &B, x: &mut B::Buffer) {
        if let Some(norm) = &self.sum {
            let sum = backend.part(x, 0..backend.len(x));
            norm.run(backend, &sum, x);
        }
    }

    /// The constant keys and values of an attention to the encoder.
    fn cross_past(&self, around: &Around<'_, B>) -> CrossPast<B::Buffer> {
        match (&self.work, around.memory.and_then(|memory| memory.constant.as_ref())) {
            (Work::Cross(attention), Some(constant)) => Some(attention.key_values(around, constant, None)),
            _ => None,
        }
    }

    /// Where the rows of its attention stand, and the rows its keys come from.
    fn place<'a>(
        &self,
        attention: &Attention<B>,
        around: &Around<'a, B>,
        past: &'a CrossPast<B::Buffer>,
    ) -> (Place<'a, B>, Option<&'a B::Buffer>) {
        match (&self.work, &around.rows.cross, around.memory) {
            (Work::Cross(_), Some(sequences), Some(memory)) => {
                let past = past.as_ref().map(|past| (&past.k, &past.v));
                (Place { sequences, rotation: None, temperatures: None, past }, Some(&memory.depending))
            }
            _ => (attention.place(around), None),
        }
    }

    /// The keys and values of `x` alone; nothing from a part that leaves none for the own sequence.
    pub(super) fn key_values(&self, around: &Around<'_, B>, x: &B::Buffer) -> Option<KeyValues<B::Buffer>> {
        let normed = || self.read(around.backend, x);
        match &self.work {
            Work::Own(attention) => {
                let rotation = attention.place(around).rotation;
                Some(attention.key_values(around, &normed(), rotation))
            }
            Work::Convolution(of) => Some(of.key_values(around, &normed())),
            Work::Cross(_) | Work::Mlp(_) => None,
        }
    }

    /// Adds the sublayer to `x`, which it reads unless `read` is given. Returns what is kept, and the keys and values of an
    /// attention to the own sequence. `of_last` says that no other sublayer reads its output.
    pub(super) fn run(
        &self,
        around: &Around<'_, B>,
        x: &mut B::Buffer,
        read: Option<&B::Buffer>,
        level: Option<Keep>,
        of_last: bool,
    ) -> (KeptSublayer<B>, Option<KeyValues<B::Buffer>>) {
        let (backend, keeps) = (around.backend, |wanted: Keep| level >= Some(wanted));
        let normed = self.read(backend, read.unwrap_or(x));
        let mut kept = KeptSublayer::default();
        let mut key_values = None;
        let direct = self.adds_directly() && self.sum.is_none();
        let mut update = (!direct).then(|| backend.take(backend.len(x)));
        let (write, to) = match &mut update {
            None => (Write::Add, &mut *x),
            Some(update) => (Write::Over, update),
        };
        match &self.work {
            Work::Own(attention) | Work::Cross(attention) => {
                let past = self.cross_past(around);
                let (place, memory) = self.place(attention, around, &past);
                let nothing = Known { raw: None, out: None };
                let attended = attention.attend(around, [&normed, memory.unwrap_or(&normed)], place, nothing);
                attention.output.run(around, (&attended.out, 0), write, to);
                let Attended { raw: [q, k, v], k: ready, out, lse, .. } = attended;
                if keeps(Keep::Outputs) {
                    kept.attended = Some([&out, &lse].map(|x| backend.keep(x)));
                }
                if keeps(Keep::Projections) {
                    kept.qkv = Some([&q, &k, &v].map(|x| backend.keep(x)));
                }
                key_values = memory.is_none().then_some(KeyValues { k: ready, v });
            }
            Work::Convolution(of) => {
                let convolved = of.convolve(around, &normed, None);
                of.output.run(around, (&convolved.out, 0), write, to);
                if keeps(Keep::Projections) {
                    kept.fused = Some(backend.keep(&convolved.fused));
                }
                key_values = Some(KeyValues { k: convolved.mixed, v: backend.zeros(0) });
            }
            Work::Mlp(mlp) => kept.mlp = mlp.run(around, &normed, write, to, keeps(Keep::Everything)),
        }
        if let Some(update) = update {
            self.add(backend, &update, x);
            self.finish_sum(backend, x);
            if keeps(Keep::Outputs) && self.has_norm_of_update() {
                kept.update = Some(backend.keep(&update));
            }
        }
        if keeps(Keep::Outputs) && !self.has_norm_of_update() && !of_last {
            kept.output = Some(backend.keep(x));
        }
        (kept, key_values)
    }

    /// What it read and computed, from its input and what was kept; also its output where that was kept. What no backward
    /// pass reads is left out: `last` says that no other sublayer reads the output.
    pub(super) fn state(
        &self,
        around: &Around<'_, B>,
        input: B::Buffer,
        kept: KeptSublayer<B>,
        last: bool,
    ) -> (State<B>, Option<B::Buffer>) {
        let backend = around.backend;
        let KeptSublayer { update, output, attended, qkv, fused, mlp } = kept;
        let mut state = State { input, attended: None, convolved: None, update, mlp };
        let wants_update = state.update.is_none() && self.has_norm_of_update();
        match &self.work {
            Work::Own(attention) | Work::Cross(attention) => {
                let normed = qkv.is_none().then(|| self.read(backend, &state.input));
                let past = self.cross_past(around);
                let (place, memory) = self.place(attention, around, &past);
                // where all of it is known the rows are not read
                let x = normed.as_ref().unwrap_or(&state.input);
                let known = Known { raw: qkv, out: attended };
                let attended = attention.attend(around, [x, memory.unwrap_or(x)], place, known);
                if wants_update {
                    state.update = Some(attention.output.apply(around, (&attended.out, 0)));
                }
                state.attended = Some(attended);
            }
            Work::Convolution(of) => {
                let normed = fused.is_none().then(|| self.read(backend, &state.input));
                let convolved = of.convolve(around, normed.as_ref().unwrap_or(&state.input), fused);
                if wants_update {
                    state.update = Some(of.output.apply(around, (&convolved.out, 0)));
                }
                state.convolved = Some(convolved);
            }
            Work::Mlp(mlp) => {
                if wants_update || (!last && output.is_none() && state.update.is_none()) {
                    let mut update = backend.take(backend.len(&state.input));
                    let normed = self.read(backend, &state.input);
                    mlp.run(around, &normed, Write::Over, &mut update, false);
                    state.update = Some(update);
                }
            }
        }
        (state, output)
    }

    /// Adds to `x` what the sublayer added in the forward pass.
    pub(super) fn add_again(&self, around: &Around<'_, B>, state: &State<B>, x: &mut B::Buffer) {
        let backend = around.backend;
        let projected = match (&self.work, &state.attended, &state.convolved) {
            (Work::Own(of) | Work::Cross(of), Some(attended), _) => Some((&of.output, &attended.out)),
            (Work::Convolution(of), _, Some(convolved)) => Some((&of.output, &convolved.out)),
            // the state of an MLP that another sublayer follows holds its update
            _ => None,
        };
        match (&state.update, projected) {
            (Some(update), _) => self.add(backend, update, x),
            (None, Some((output, out))) if self.adds_directly() => {
                output.run(around, (out, 0), Write::Add, x);
            }
            (None, Some((output, out))) => self.add(backend, &output.apply(around, (out, 0)), x),
            (None, None) => {}
        }
        self.finish_sum(backend, x);
    }

    /// Turns the gradient of the residual stream after the norm of the sum into that before it, in place.
    pub(super) fn pull_sum(&self, backend: &B, state: &State<B>, g: &mut B::Buffer) {
        if let (Some(norm), Some(update)) = (&self.sum, &state.update) {
            let mut sum = backend.part(&state.input, 0..backend.len(&state.input));
            self.add(backend, update, &mut sum);
            let upstream = backend.part(g, 0..backend.len(g));
            norm.pull(backend, &sum, &upstream, Write::Over, g);
        }
    }

    /// Adds to `g` what comes through the sublayer from the gradient of its addition: `upstream`, or `g` itself.
    pub(super) fn pull(
        &self,
        around: &Around<'_, B>,
        state: State<B>,
        g: &mut B::Buffer,
        upstream: Option<&B::Buffer>,
        gradients: &mut Gradients<'_, B>,
    ) {
        let backend = around.backend;
        let State { input, attended, convolved, update, mlp: kept_mlp } = state;
        let upstream = upstream.unwrap_or(&*g);
        let dupdate = self.pull_added(backend, upstream, update.as_ref());
        drop(update);
        let mut dread = backend.take(backend.len(upstream));
        let drows = dupdate.as_ref().unwrap_or(upstream);
        match (&self.work, attended, convolved) {
            (Work::Own(attention) | Work::Cross(attention), Some(attended), _) => {
                let mut dout = backend.take(backend.len(&attended.out));
                let to = (Write::Over, &mut dout);
                attention.output.pull(around, (&attended.out, 0), drows, to, gradients);
                drop(dupdate);
                let past = self.cross_past(around);
                let (place, memory) = self.place(attention, around, &past);
                let normed = attention.reads_rows(around).then(|| self.read(backend, &input));
                let rows = [normed.as_ref(), memory];
                attention.pull(around, attended, (&dout, place), rows, &mut dread, gradients);
            }
            (Work::Convolution(of), _, Some(convolved)) => {
                let mut dout = backend.take(backend.len(&convolved.out));
                of.output.pull(around, (&convolved.out, 0), drows, (Write::Over, &mut dout), gradients);
                // the rows are read by updates alone
                let normed = of.input.is_updated(around).then(|| self.read(backend, &input));
                let rows = normed.as_ref().unwrap_or(&input);
                of.pull(around, &convolved, (rows, &dout), &mut dread, gradients);
            }
            (Work::Mlp(mlp), ..) => {
                let normed = self.read(backend, &input);
                mlp.pull(around, [&normed, drows], kept_mlp, &mut dread, gradients);
            }
            // `state` computes what these need
            (Work::Own(_) | Work::Cross(_) | Work::Convolution(_), ..) => return,
        }
        match &self.before {
            Some(norm) => norm.pull(backend, &input, &dread, Write::Add, g),
            None => backend.add(g, &dread),
        }
    }

    /// The gradient of the work's result from that of what was added; nothing where they are the same.
    fn pull_added(&self, backend: &B, upstream: &B::Buffer, update: Option<&B::Buffer>) -> Option<B::Buffer> {
        if self.adds_directly() {
            return None;
        }
        let mut scaled = backend.part(upstream, 0..backend.len(upstream));
        if self.scale != 1.0 {
            backend.scale(&mut scaled, self.scale);
        }
        if let (Some(norm), Some(update)) = (&self.after, update) {
            let mut gradient = backend.take(backend.len(&scaled));
            norm.pull(backend, update, &scaled, Write::Over, &mut gradient);
            scaled = gradient;
        }
        Some(scaled)
    }
}
