//! The weights of a model as a HuggingFace checkpoint of its family would store them, wherever they came
//! from.

use super::block::BlockTensor;
use super::model::PretrainedModel;
use crate::weights::FrozenMatrix;

/// A weight that is not a token matrix.
#[derive(Clone, Debug)]
pub enum FrozenTensor<'a> {
    /// A linear layer's; decoding it gives HuggingFace's order of rows.
    Matrix(&'a FrozenMatrix),
    /// A norm's, without the 1 that Gemma's GGUF files add, or a bias.
    Vector(Vec<f32>),
}

impl PretrainedModel {
    /// Every weight but the embedding and the head, by its full name in the family's checkpoints.
    pub fn frozen_tensors(&self) -> Vec<(String, FrozenTensor<'_>)> {
        let offset = if self.spec().stack.norm.plus_one { 1.0 } else { 0.0 };
        let of = move |(name, tensor)| match tensor {
            BlockTensor::Matrix(matrix) => (name, FrozenTensor::Matrix(matrix)),
            BlockTensor::Bias(bias) => (name, FrozenTensor::Vector(bias.to_vec())),
            BlockTensor::Norm(norm) => {
                (name, FrozenTensor::Vector(norm.iter().map(|x| x - offset).collect()))
            }
        };
        self.tensors().into_iter().map(of).collect()
    }
}
