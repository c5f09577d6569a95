//! One block: an attention and an MLP, and in a decoder with an encoder an attention to it between them, each with its
//! norms, each added to the residual stream.

use super::LayerTensor;
use super::around::{Around, Gradients, KeyValues};
use super::keep::{Keep, Kept, KeptSublayer, State};
use super::linear::Linear;
use super::sublayer::{Sublayer, Work};
use crate::backend::Backend;
use toktune_weights::FrozenMatrix;

/// Frozen weights of one block.
#[derive(Debug)]
pub struct Block<B: Backend> {
    pub(super) sublayers: Vec<Sublayer<B>>,
    /// Every sublayer reads the block's input.
    pub(super) parallel: bool,
}

impl<B: Backend> Block<B> {
    /// Floats a row that each level but the first adds to what is kept.
    pub fn kept_floats(&self) -> [(Keep, usize); 3] {
        let (mut outputs, mut projections, mut everything) = (0, 0, 0);
        for (i, sublayer) in self.sublayers.iter().enumerate() {
            let d = sublayer.work.all_linears().last().map_or(0, |linear| linear.outputs());
            match &sublayer.work {
                Work::Own(attention) | Work::Cross(attention) => {
                    let [q, k, v] = attention.widths();
                    outputs += q + attention.shape.heads;
                    projections += q + k + v;
                }
                Work::Convolution(of) => projections += 3 * of.width(),
                Work::Mlp(mlp) => everything += mlp.kept_floats(),
            }
            let last = i + 1 == self.sublayers.len();
            if sublayer.has_norm_of_update() || !(last || self.parallel) {
                outputs += d;
            }
        }
        [(Keep::Outputs, outputs), (Keep::Projections, projections), (Keep::Everything, everything)]
    }

    /// Floats a row of its keys and of its values, as [`KeyValues`] has them.
    pub fn key_value_widths(&self) -> [usize; 2] {
        let of = |sublayer: &Sublayer<B>| match &sublayer.work {
            Work::Own(attention) => {
                let [_, k, v] = attention.widths();
                Some([k, v])
            }
            Work::Convolution(of) => Some([of.width(), 0]),
            Work::Cross(_) | Work::Mlp(_) => None,
        };
        self.sublayers.iter().find_map(of).unwrap_or_default()
    }

    /// Runs the block on `x [rows, d]`, in place. What is kept follows `keep`; without it nothing is. Also returns the rows'
    /// keys and values.
    pub fn run(
        &self,
        around: &Around<'_, B>,
        x: &mut B::Buffer,
        keep: Option<Keep>,
    ) -> (Option<Kept<B>>, Option<KeyValues<B::Buffer>>) {
        let backend = around.backend;
        let input = keep.map(|_| backend.keep(x));
        let read = self.parallel.then(|| backend.part(x, 0..backend.len(x)));
        let (mut key_values, mut sublayers) = (None, Vec::new());
        for (i, sublayer) in self.sublayers.iter().enumerate() {
            let of_last = i + 1 == self.sublayers.len() || self.parallel;
            let (kept, of_rows) = sublayer.run(around, x, read.as_ref(), keep, of_last);
            sublayers.push(kept);
            key_values = key_values.or(of_rows);
        }
        (input.map(|input| Kept { input, sublayers }), key_values)
    }

    /// The keys and values of `x` alone: all that is left to do for rows whose hidden state nobody needs.
    pub fn key_values(&self, around: &Around<'_, B>, x: &B::Buffer) -> Option<KeyValues<B::Buffer>> {
        self.sublayers.iter().find_map(|sublayer| sublayer.key_values(around, x))
    }

    /// Turns the gradient `g [rows, d]` of the block's output into that of its input, in place, and adds those of the updates
    /// and of the encoder's depending rows to `gradients`.
    pub fn pull(
        &self,
        around: &Around<'_, B>,
        kept: Kept<B>,
        g: &mut B::Buffer,
        gradients: &mut Gradients<'_, B>,
    ) {
        let backend = around.backend;
        let states = self.states(around, kept.input, kept.sublayers);
        let of_output = self.parallel.then(|| backend.part(g, 0..backend.len(g)));
        for (sublayer, state) in self.sublayers.iter().zip(states).rev() {
            sublayer.pull_sum(backend, &state, g);
            sublayer.pull(around, state, g, of_output.as_ref(), gradients);
        }
    }

    /// What every sublayer read and computed, from what was kept.
    fn states(&self, around: &Around<'_, B>, input: B::Buffer, kept: Vec<KeptSublayer<B>>) -> Vec<State<B>> {
        let backend = around.backend;
        let copy = |x: &B::Buffer| backend.part(x, 0..backend.len(x));
        let mut next = Some(input);
        let mut states: Vec<State<B>> = Vec::new();
        for (i, (sublayer, kept)) in self.sublayers.iter().zip(kept).enumerate() {
            let last = i + 1 == self.sublayers.len() || self.parallel;
            // in a parallel block every sublayer reads what the first one reads
            let first = || states.first().map(|state| copy(&state.input));
            let Some(input) = next.take().or_else(first) else { break };
            let (state, output) = sublayer.state(around, input, kept, last);
            if !last {
                next = Some(output.unwrap_or_else(|| {
                    let mut x = copy(&state.input);
                    sublayer.add_again(around, &state, &mut x);
                    x
                }));
            }
            states.push(state);
        }
        states
    }

    /// Every linear layer, those of experts and their routers too.
    pub fn all_linears(&self) -> impl Iterator<Item = &Linear<B>> {
        self.sublayers.iter().flat_map(|sublayer| sublayer.work.all_linears())
    }

    /// The linear layers that can have updates.
    pub fn linears(&self) -> impl Iterator<Item = &Linear<B>> {
        self.sublayers.iter().flat_map(|sublayer| sublayer.work.linears())
    }

    /// Changes the weights of linear layers (but for routers) by `of`, where it gives another one.
    pub(crate) fn change_weights(
        &mut self,
        backend: &B,
        mut of: impl FnMut(&str, &FrozenMatrix) -> Option<FrozenMatrix>,
    ) {
        for sublayer in &mut self.sublayers {
            sublayer.work.change_linears(backend, |linear| {
                if let Some(weight) = of(&linear.module, &linear.frozen) {
                    linear.set_weight(backend, weight);
                }
            });
        }
    }

    /// Every weight of the block by its full name, `.weight` or `.bias` included.
    pub(crate) fn tensors(&self, backend: &B) -> Vec<(String, LayerTensor<'_>)> {
        let mut tensors: Vec<_> = self.all_linears().flat_map(|linear| linear.tensors(backend)).collect();
        for sublayer in &self.sublayers {
            let of_heads = match &sublayer.work {
                Work::Own(attention) | Work::Cross(attention) => {
                    [attention.q_norm.as_ref(), attention.k_norm.as_ref()]
                }
                Work::Convolution(of) => {
                    tensors.extend(of.tensors(backend));
                    [None, None]
                }
                Work::Mlp(_) => [None, None],
            };
            let around = [sublayer.before.as_ref(), sublayer.after.as_ref(), sublayer.sum.as_ref()];
            for norm in around.into_iter().chain(of_heads).flatten() {
                // a norm that two sublayers read is one tensor
                let named = norm.tensors(backend);
                let first = named.first().map(|(name, _)| name);
                if !tensors.iter().any(|(name, _)| Some(name) == first) {
                    tensors.extend(named);
                }
            }
        }
        tensors
    }
}
