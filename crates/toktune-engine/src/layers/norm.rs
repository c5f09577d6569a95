//! A frozen norm.

use super::LayerTensor;
use crate::backend::{Backend, NormWeights, Norming, Write};

/// A frozen norm over rows of the width of its weight.
#[derive(Debug)]
pub struct Norm<B: Backend> {
    /// Its full name, as transformers names the module.
    pub(super) module: String,
    pub(super) norming: Norming,
    /// What it multiplies with, `[width]`: the family's offset is in it. Ones where heads have weights of their own.
    pub(super) weight: B::Buffer,
    pub(super) bias: Option<B::Buffer>,
    pub(super) eps: f32,
    /// The weights are no tensor of the checkpoint but ones.
    pub(super) bare: bool,
    /// Weights that each head has for itself, `[heads * width]`.
    pub(super) of_heads: Option<B::Buffer>,
}

impl<B: Backend> Norm<B> {
    fn weights(&self) -> NormWeights<'_, B::Buffer> {
        NormWeights { norming: self.norming, weight: &self.weight, bias: self.bias.as_ref(), eps: self.eps }
    }

    /// `y` from `x`.
    pub(crate) fn run(&self, backend: &B, x: &B::Buffer, y: &mut B::Buffer) {
        backend.norm(&self.weights(), x, y);
        if let Some(of_heads) = &self.of_heads {
            backend.multiply_each(y, of_heads);
        }
    }

    /// As [`Norm::run`] with a result of its own.
    pub(super) fn apply(&self, backend: &B, x: &B::Buffer) -> B::Buffer {
        let mut y = backend.take(backend.len(x));
        self.run(backend, x, &mut y);
        y
    }

    /// The gradient of `x` from that of `y`.
    pub(crate) fn pull(&self, backend: &B, x: &B::Buffer, dy: &B::Buffer, write: Write, dx: &mut B::Buffer) {
        match &self.of_heads {
            None => backend.pull_norm(&self.weights(), x, dy, write, dx),
            Some(of_heads) => {
                let mut dnormed = backend.part(dy, 0..backend.len(dy));
                backend.multiply_each(&mut dnormed, of_heads);
                backend.pull_norm(&self.weights(), x, &dnormed, write, dx);
            }
        }
    }

    /// Its stored tensors by their names.
    pub(crate) fn tensors(&self, backend: &B) -> Vec<(String, LayerTensor<'_>)> {
        if self.bare {
            return Vec::new();
        }
        let named = |module: &str, weight| (format!("{module}.weight"), LayerTensor::Norm(weight));
        if let Some(of_heads) = &self.of_heads {
            // heads without a tensor of their own make one matrix, whose rows they are
            let of_heads = backend.read(of_heads);
            let width = if self.module.contains("{}") { backend.len(&self.weight) } else { of_heads.len() };
            let heads = of_heads.chunks_exact(width.max(1)).enumerate();
            let module = |head: usize| self.module.replace("{}", &head.to_string());
            return heads.map(|(head, weight)| named(&module(head), weight.to_vec())).collect();
        }
        let mut tensors = vec![named(&self.module, backend.read(&self.weight))];
        if let Some(bias) = &self.bias {
            tensors.push((format!("{}.bias", self.module), LayerTensor::Bias(backend.read(bias))));
        }
        tensors
    }
}
