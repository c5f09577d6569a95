//! A block on the CPU without a graph: forward in place, and backward by hand.
//!
//! It computes what [`Block::forward`] and its gradient compute, from the same kernels. Autograd would allocate a tensor a
//! step, add zeros to gradients and compute results that nothing reads; here the residual stream is updated in place and
//! what the backward pass wants is kept or computed again, as [`Keep`] says.

use super::attention::{Attended, Attention, Past, Place};
use super::mlp::KeptMlp;
use super::{Block, Sublayer, Work, own_place};
use crate::models::RowsOfBatch;
use crate::models::buffers::{Buffer, Buffers};
use toktune_kernels::matmul::Write;
use toktune_kernels::rows;

/// How much of a block's forward pass is kept for its backward pass, least first; each level keeps what those before it do.
/// The order is that of the arithmetic saved for a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// The block's input alone.
    #[default]
    Input,
    /// The outputs of the attentions and of the projections back to the hidden width, where the backward pass reads them.
    Outputs,
    /// Queries, keys and values.
    Projections,
    /// The inner rows of the MLP: no product is computed twice.
    Everything,
}

/// What surrounds a block in a pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around<'a> {
    pub(crate) rows: &'a RowsOfBatch,
    /// Keys and values of constant rows that come before.
    pub(crate) past: Past<'a>,
    /// The encoder's rows; none without one.
    pub(crate) memory: HostMemory<'a>,
    pub(crate) buffers: &'a Buffers,
}

/// The last hidden rows of an encoder.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HostMemory<'a> {
    /// Those that depend on what is trained, `[rows, d]`.
    pub(crate) depending: &'a [f32],
    /// Those that do not.
    pub(crate) constant: &'a [f32],
}

/// What a block's forward pass left for its backward pass.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The block's input `[rows, d]`.
    input: Vec<f32>,
    /// One for each sublayer.
    sublayers: Vec<KeptSublayer>,
}

/// What was kept of a sublayer.
#[derive(Debug, Default)]
struct KeptSublayer {
    /// What it added to the residual stream, before norms of it, where one reads it.
    update: Option<Vec<f32>>,
    /// The residual stream after it, where the next one needs it and it follows from nothing else that is kept.
    output: Option<Vec<f32>>,
    /// The output of the attention and the logarithms of its denominators.
    attended: Option<(Vec<f32>, Vec<f32>)>,
    /// Queries, keys and values before norms and rotation.
    qkv: Option<[Vec<f32>; 3]>,
    mlp: Option<KeptMlp>,
}

/// What is known of a sublayer when its gradient is taken.
struct State {
    /// What it read.
    input: Buffer,
    attended: Option<Attended>,
    /// What it added, where a norm reads it.
    update: Option<Buffer>,
    mlp: Option<KeptMlp>,
}

impl Sublayer {
    /// Whether a norm reads what it adds.
    fn has_norm_of_update(&self) -> bool {
        self.after.is_some() || self.sum.is_some()
    }

    /// Whether what it adds goes to the residual stream as it is.
    fn adds_directly(&self) -> bool {
        self.after.is_none() && self.scale == 1.0
    }

    /// `x` through the norm before the work.
    fn read(&self, x: &[f32], buffers: &Buffers) -> Buffer {
        match &self.before {
            None => buffers.copy(x),
            Some(norm) => {
                let mut normed = buffers.take(x.len());
                norm.run(x, &mut normed);
                normed
            }
        }
    }

    /// Adds `update` to `x` with its factor and the norm of it.
    fn add(&self, update: &[f32], x: &mut [f32], buffers: &Buffers) {
        if self.adds_directly() {
            return rows::add(x, update);
        }
        let mut scaled = match &self.after {
            None => buffers.copy(update),
            Some(norm) => {
                let mut normed = buffers.take(update.len());
                norm.run(update, &mut normed);
                normed
            }
        };
        if self.scale != 1.0 {
            rows::scale(&mut scaled, self.scale);
        }
        rows::add(x, &scaled);
    }

    /// The norm of the residual sum, in place.
    fn finish_sum(&self, x: &mut [f32], buffers: &Buffers) {
        if let Some(norm) = &self.sum {
            let sum = buffers.copy(x);
            norm.run(&sum, x);
        }
    }
}

impl Attention {
    /// Where its rows stand, with the constant keys and values it sees and the rows its own keys come from.
    fn around<'a>(
        &self,
        cross: bool,
        x: &'a [f32],
        around: &Around<'a>,
        room: &'a mut Option<(Buffer, Buffer)>,
    ) -> (Place<'a>, Past<'a>, &'a [f32]) {
        let Some(sequences) = around.rows.cross.as_ref().filter(|_| cross) else {
            return (own_place(self, around.rows), around.past, x);
        };
        let memory = around.memory;
        let past = match memory.constant.is_empty() {
            true => Past::default(),
            false => {
                let (k, v) = room.insert(self.run_key_values(memory.constant, None, around.buffers));
                Past { k, v }
            }
        };
        (Place { sequences, rotary: None }, past, memory.depending)
    }
}

impl Block {
    /// Floats a row that each level but the first adds to what is kept.
    pub(crate) fn kept_floats(&self) -> [(Keep, usize); 3] {
        let (mut outputs, mut projections, mut everything) = (0, 0, 0);
        for (i, sublayer) in self.sublayers.iter().enumerate() {
            let d = sublayer.work.all_linears().last().map_or(0, |linear| linear.outputs());
            match &sublayer.work {
                Work::Own(attention) | Work::Cross(attention) => {
                    let [q, k, v] = attention.widths();
                    outputs += q + attention.shape.heads;
                    projections += q + k + v;
                }
                Work::Mlp(mlp) => everything += mlp.kept_floats(),
            }
            let last = i + 1 == self.sublayers.len();
            if sublayer.has_norm_of_update() || !(last || self.parallel) {
                outputs += d;
            }
        }
        [(Keep::Outputs, outputs), (Keep::Projections, projections), (Keep::Everything, everything)]
    }

    /// Runs the block on `x [rows, d]`, in place, and returns the rows' keys and values; `kept` is filled as `keep` says.
    pub(crate) fn run(
        &self,
        x: &mut [f32],
        around: &Around<'_>,
        keep: Option<(Keep, &mut Kept)>,
    ) -> (Buffer, Buffer) {
        let buffers = around.buffers;
        let level = keep.as_ref().map(|keep| keep.0);
        let input = keep.as_ref().map(|_| x.to_vec());
        let read = self.parallel.then(|| buffers.copy(x));
        let (mut key_values, mut kept) = (None, Vec::new());
        for (i, sublayer) in self.sublayers.iter().enumerate() {
            let of_last = i + 1 == self.sublayers.len() || self.parallel;
            let (of_sublayer, of_rows) = sublayer.run(x, read.as_deref(), around, level, of_last);
            kept.push(of_sublayer);
            key_values = key_values.or(of_rows);
        }
        if let Some((_, kept_block)) = keep {
            *kept_block = Kept { input: input.unwrap_or_default(), sublayers: kept };
        }
        match key_values {
            Some(key_values) => key_values,
            None => unreachable!("the loader gives every block an attention to its own sequence"),
        }
    }

    /// The keys and values of `x` alone: all that is left to do for rows whose hidden state nobody needs.
    pub(crate) fn run_key_values(&self, x: &[f32], around: &Around<'_>) -> (Buffer, Buffer) {
        let (attention, before) = self.own_attention();
        let rotary = own_place(attention, around.rows).rotary;
        match before {
            None => attention.run_key_values(x, rotary, around.buffers),
            Some(norm) => {
                let mut normed = around.buffers.take(x.len());
                norm.run(x, &mut normed);
                attention.run_key_values(&normed, rotary, around.buffers)
            }
        }
    }

    /// Turns the gradient `g [rows, d]` of the block's output into that of its input, in place, and adds that of the
    /// encoder's depending rows to `dmemory`.
    pub(crate) fn pull(&self, g: &mut [f32], kept: Kept, around: &Around<'_>, dmemory: &mut [f32]) {
        let buffers = around.buffers;
        let Kept { input, sublayers } = kept;
        let states = self.states(input, sublayers, around);
        let of_output = self.parallel.then(|| buffers.copy(g));
        for (sublayer, state) in self.sublayers.iter().zip(states).rev() {
            if let (Some(norm), Some(update)) = (&sublayer.sum, &state.update) {
                let mut sum = buffers.copy(&state.input);
                sublayer.add(update, &mut sum, buffers);
                let upstream = buffers.copy(g);
                norm.pull(&sum, &upstream, Write::Over, g);
            }
            sublayer.pull(g, of_output.as_deref(), state, around, dmemory);
        }
    }

    /// What every sublayer read and computed, from what was kept.
    fn states(&self, input: Vec<f32>, kept: Vec<KeptSublayer>, around: &Around<'_>) -> Vec<State> {
        let buffers = around.buffers;
        let mut next = Some(buffers.own(input));
        let mut states: Vec<State> = Vec::new();
        for (i, (sublayer, kept)) in self.sublayers.iter().zip(kept).enumerate() {
            let last = i + 1 == self.sublayers.len() || self.parallel;
            // in a parallel block every sublayer reads what the first one reads
            let first = || states.first().map(|state| buffers.copy(&state.input));
            let Some(input) = next.take().or_else(first) else { break };
            let (state, output) = sublayer.state(input, kept, last, around);
            if !last {
                next = Some(output.map(|output| buffers.own(output)).unwrap_or_else(|| {
                    let mut x = buffers.copy(&state.input);
                    sublayer.add_again(&state, &mut x, buffers);
                    x
                }));
            }
            states.push(state);
        }
        states
    }
}

impl Sublayer {
    /// Adds the sublayer to `x`, which it reads unless `read` is given. Returns what is kept, and the keys and values of an
    /// attention to the own sequence. `of_last` says that no other sublayer reads its output.
    fn run(
        &self,
        x: &mut [f32],
        read: Option<&[f32]>,
        around: &Around<'_>,
        level: Option<Keep>,
        of_last: bool,
    ) -> (KeptSublayer, Option<(Buffer, Buffer)>) {
        let (buffers, keeps) = (around.buffers, |wanted: Keep| level >= Some(wanted));
        let normed = self.read(read.unwrap_or(x), buffers);
        let mut kept = KeptSublayer::default();
        let mut key_values = None;
        let direct = self.adds_directly() && self.sum.is_none();
        let mut update = (!direct).then(|| buffers.take(x.len()));
        let (write, to) = match &mut update {
            None => (Write::Add, &mut *x),
            Some(update) => (Write::Over, &mut update[..]),
        };
        match &self.work {
            Work::Own(attention) | Work::Cross(attention) => {
                let is_cross = matches!(self.work, Work::Cross(_));
                let mut room = None;
                let (place, past, memory) = attention.around(is_cross, &normed, around, &mut room);
                let attended = attention.attend((&normed, memory), place, past, None, None, buffers);
                attention.output.run(&attended.out, write, to);
                if keeps(Keep::Outputs) {
                    kept.attended = Some((attended.out.to_vec(), attended.lse.to_vec()));
                }
                let Attended { raw: [q, k, v], k: ready, .. } = attended;
                if keeps(Keep::Projections) {
                    kept.qkv = Some([q.to_vec(), k.to_vec(), v.to_vec()]);
                }
                key_values = (!is_cross).then_some((ready, v));
            }
            Work::Mlp(mlp) => kept.mlp = mlp.run(&normed, write, to, keeps(Keep::Everything), buffers),
        }
        if let Some(update) = update {
            self.add(&update, x, buffers);
            self.finish_sum(x, buffers);
            if keeps(Keep::Outputs) && self.has_norm_of_update() {
                kept.update = Some(update.to_vec());
            }
        }
        if keeps(Keep::Outputs) && !self.has_norm_of_update() && !of_last {
            kept.output = Some(x.to_vec());
        }
        (kept, key_values)
    }

    /// What it read and computed, from its input and what was kept; also its output where that was kept. What no backward
    /// pass reads is left out: `last` says that no other sublayer reads the output.
    fn state(
        &self,
        input: Buffer,
        kept: KeptSublayer,
        last: bool,
        around: &Around<'_>,
    ) -> (State, Option<Vec<f32>>) {
        let buffers = around.buffers;
        let KeptSublayer { update, output, attended, qkv, mlp } = kept;
        let mut state = State { input, attended: None, update: update.map(|u| buffers.own(u)), mlp };
        let wants_update = state.update.is_none() && self.has_norm_of_update();
        match &self.work {
            Work::Own(attention) | Work::Cross(attention) => {
                let is_cross = matches!(self.work, Work::Cross(_));
                let normed = qkv.is_none().then(|| self.read(&state.input, buffers));
                let mut room = None;
                let x = normed.as_deref().unwrap_or(&[]);
                let (place, past, memory) = attention.around(is_cross, x, around, &mut room);
                let raw = qkv.map(|qkv| qkv.map(|x| buffers.own(x)));
                let known = attended.map(|(out, lse)| (buffers.own(out), buffers.own(lse)));
                let attended = attention.attend((x, memory), place, past, raw, known, buffers);
                if wants_update {
                    let mut update = buffers.take(state.input.len());
                    attention.output.run(&attended.out, Write::Over, &mut update);
                    state.update = Some(update);
                }
                state.attended = Some(attended);
            }
            Work::Mlp(mlp) => {
                if wants_update || (!last && output.is_none() && state.update.is_none()) {
                    let mut update = buffers.take(state.input.len());
                    let normed = self.read(&state.input, buffers);
                    mlp.run(&normed, Write::Over, &mut update, false, buffers);
                    state.update = Some(update);
                }
            }
        }
        (state, output)
    }

    /// Adds to `x` what the sublayer added in the forward pass.
    fn add_again(&self, state: &State, x: &mut [f32], buffers: &Buffers) {
        match (&state.update, &self.work, &state.attended) {
            (Some(update), ..) => self.add(update, x, buffers),
            (None, Work::Own(attention) | Work::Cross(attention), Some(attended)) if self.adds_directly() => {
                attention.output.run(&attended.out, Write::Add, x);
            }
            (None, Work::Own(attention) | Work::Cross(attention), Some(attended)) => {
                let mut update = buffers.take(x.len());
                attention.output.run(&attended.out, Write::Over, &mut update);
                self.add(&update, x, buffers);
            }
            // the state of an MLP that another sublayer follows holds its update
            (None, ..) => {}
        }
        self.finish_sum(x, buffers);
    }

    /// Adds to `g` what comes through the sublayer from the gradient of its addition: `upstream`, or `g` itself.
    fn pull(
        &self,
        g: &mut [f32],
        upstream: Option<&[f32]>,
        state: State,
        around: &Around<'_>,
        dmemory: &mut [f32],
    ) {
        let buffers = around.buffers;
        let State { input, attended, update, mlp: kept_mlp } = state;
        let upstream = upstream.unwrap_or(&*g);
        let dupdate = self.pull_added(upstream, update.as_deref(), buffers);
        drop(update);
        let dupdate_rows = dupdate.as_deref().unwrap_or(upstream);
        let mut dread = buffers.take(upstream.len());
        match (&self.work, attended) {
            (Work::Own(attention) | Work::Cross(attention), Some(attended)) => {
                let mut dout = buffers.take(attended.out.len());
                attention.output.pull(dupdate_rows, Write::Over, &mut dout);
                drop(dupdate);
                let is_cross = matches!(self.work, Work::Cross(_));
                let mut room = None;
                let (place, past, _) = attention.around(is_cross, &[], around, &mut room);
                let dmemory = is_cross.then_some(dmemory);
                attention.pull(attended, &dout, place, past, &mut dread, dmemory, buffers);
            }
            (Work::Mlp(mlp), _) => {
                let normed = self.read(&input, buffers);
                mlp.pull(&normed, dupdate_rows, kept_mlp, &mut dread, buffers);
            }
            // `state` computes what an attention needs
            (Work::Own(_) | Work::Cross(_), None) => return,
        }
        match &self.before {
            Some(norm) => norm.pull(&input, &dread, Write::Add, g),
            None => rows::add(g, &dread),
        }
    }

    /// The gradient of the work's result from that of what was added; nothing where they are the same.
    fn pull_added(&self, upstream: &[f32], update: Option<&[f32]>, buffers: &Buffers) -> Option<Buffer> {
        if self.adds_directly() {
            return None;
        }
        let mut scaled = buffers.copy(upstream);
        if self.scale != 1.0 {
            rows::scale(&mut scaled, self.scale);
        }
        if let (Some(norm), Some(update)) = (&self.after, update) {
            let mut gradient = buffers.take(scaled.len());
            norm.pull(update, &scaled, Write::Over, &mut gradient);
            scaled = gradient;
        }
        Some(scaled)
    }
}
