//! Reading the weights of a mixture of experts, stored one by one or together.

use super::BlockReader;
use crate::backend::{Backend, Stored, StoredAs};
use crate::error::Result;
use crate::layers::experts::{Experts, Shared};
use crate::layers::linear::{Linear, Slot};
use crate::layers::mlp::{Mlp, Up};
use crate::layers::routing::Router;
use crate::spec::{ExpertLayout, ExpertNames, ExpertsSpec};
use std::borrow::Cow;
use toktune_weights::{FrozenMatrix, RowOrder};

impl<B: Backend> BlockReader<'_, B> {
    /// A mixture of experts; no GGUF file of one is read, so it has one set of names.
    pub(super) fn experts(&self, names: &ExpertNames, of: &ExpertsSpec) -> Result<Experts<B>> {
        let (activation, d) = (self.loader.spec.mlp.activation, self.loader.spec.hidden_size);
        // first, for it says how many there are
        let router = self.without_slot(names.router, (of.count, d), of.router_bias)?;
        let experts = match of.layout {
            ExpertLayout::Each => {
                (0..of.count).map(|number| self.expert(names, of, number)).collect::<Result<_>>()?
            }
            _ => {
                let ups = self.stacked(names.up, (2 * of.inner, d), of)?;
                let downs = self.stacked(names.down, (d, of.inner), of)?;
                let is_interleaved = of.layout == ExpertLayout::Columns { interleaved: true };
                let together = |(up, down)| {
                    let up = if is_interleaved { Up::Interleaved(up) } else { Up::Fused(up) };
                    Mlp::new(self.loader.backend, up, down, activation)
                };
                ups.into_iter().zip(downs).map(together).collect()
            }
        };
        let shared = match (of.shared, &names.shared) {
            (Some(inner), Some(own)) => Some(Shared {
                mlp: self.mlp(own, own, inner)?,
                gate: names
                    .shared_gate
                    .map(|gate| self.linear((gate, gate), (1, d), RowOrder::Plain, false))
                    .transpose()?,
            }),
            _ => None,
        };
        let correction = names.correction.map(|name| self.correction(name, of.count)).transpose()?;
        let routing = Router { routing: of.routing, correction: correction.unwrap_or_default() };
        Ok(Experts { router, routing, experts, shared })
    }

    /// A linear layer that no update reaches, and that so has no place among the block's linear layers.
    fn without_slot(&self, name: &str, sizes: (usize, usize), bias: bool) -> Result<Linear<B>> {
        let module = self.module(name, name);
        self.loader.read_linear(&module, Slot::NONE, sizes, RowOrder::Plain, bias, StoredAs::Rows)
    }

    /// The expert of this number, which has tensors of its own.
    fn expert(&self, names: &ExpertNames, of: &ExpertsSpec, number: usize) -> Result<Mlp<B>> {
        let (spec, d) = (&self.loader.spec.mlp, self.loader.spec.hidden_size);
        let linear =
            |name: &str, sizes| self.without_slot(&name.replace("{}", &number.to_string()), sizes, of.bias);
        let up = match names.gate {
            "" => Up::Plain(linear(names.up, (of.inner, d))?),
            gate => Up::Gated(linear(gate, (of.inner, d))?, linear(names.up, (of.inner, d))?),
        };
        let down = linear(names.down, (d, of.inner))?;
        Ok(Mlp::new(self.loader.backend, up, down, spec.activation))
    }

    /// The layers of all experts, which one tensor holds, and their biases, which another one does.
    fn stacked(
        &self,
        name: &str,
        (outputs, inputs): (usize, usize),
        of: &ExpertsSpec,
    ) -> Result<Vec<Linear<B>>> {
        let loader = self.loader;
        let module = self.module(name, name);
        let tensor = match of.layout {
            ExpertLayout::Columns { .. } => module.stored.clone(),
            _ => format!("{}.weight", module.stored),
        };
        let blocks = format!("{tensor}_blocks");
        let blocks = loader.find(&blocks);
        let in_blocks = blocks.strip_suffix("_blocks").filter(|name| loader.checkpoint.is_microscaled(name));
        let found = in_blocks.map_or_else(|| loader.find(&tensor), Cow::Borrowed);
        // blocks lie along the inputs, whichever way round the matrix would be
        let stored = match of.layout {
            ExpertLayout::Columns { .. } if in_blocks.is_none() => StoredAs::Columns,
            _ => StoredAs::Rows,
        };
        let (rows, cols) = match stored {
            StoredAs::Rows => (outputs, inputs),
            StoredAs::Columns => (inputs, outputs),
        };
        let parts = loader.checkpoint.matrices(&found, of.count, rows, cols)?;
        let bias = format!("{tensor}_bias");
        let biases = of
            .bias
            .then(|| loader.checkpoint.matrix(&loader.find(&bias), of.count, outputs, RowOrder::Plain));
        let biases = biases.transpose()?;
        let linear = |(number, frozen): (usize, FrozenMatrix)| {
            let weight = Stored { matrix: loader.backend.matrix(&frozen), stored };
            let bias = biases.as_ref().map(|all| loader.backend.place(all.decode_rows(number..number + 1)));
            Linear { module: module.own.clone(), slot: Slot::NONE, frozen, weight, bias }
        };
        Ok(parts.into_iter().enumerate().map(linear).collect())
    }

    /// What is added to the scores of experts for the choice: a vector, or a matrix of one row (ERNIE).
    fn correction(&self, name: &str, count: usize) -> Result<Vec<f32>> {
        let (loader, name) = (self.loader, self.module(name, name).stored);
        let name = loader.find(&name);
        match loader.checkpoint.shape(&name) {
            Some([1, _]) => Ok(loader.checkpoint.matrix(&name, 1, count, RowOrder::Plain)?.decode_rows(0..1)),
            _ => Ok(loader.checkpoint.vector(&name, count)?),
        }
    }
}
