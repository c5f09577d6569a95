//! The weights of a model as a HuggingFace checkpoint of its family would store them, wherever they came
//! from.

use super::block::BlockTensor;
use super::decoder::CausalLm;
use crate::error::Result;
use crate::weights::FrozenMatrix;
use candle_core::Tensor;

/// A weight that is not a token matrix.
#[derive(Clone, Debug)]
pub enum FrozenTensor<'a> {
    /// A linear layer's; decoding it gives HuggingFace's order of rows.
    Matrix(&'a FrozenMatrix),
    /// A norm's, without the 1 that Gemma's GGUF files add, or a bias.
    Vector(Vec<f32>),
}

impl CausalLm {
    /// Every weight but the embedding and the head, by its full name in the family's checkpoints.
    ///
    /// # Errors
    /// A vector cannot be brought from its device.
    pub fn frozen_tensors(&self) -> Result<Vec<(String, FrozenTensor<'_>)>> {
        let names = self.family().names;
        let offset = if self.spec().norm_plus_one { 1.0 } else { 0.0 };
        let vector = |tensor: &Tensor, offset: f32| -> Result<FrozenTensor<'_>> {
            let values: Vec<f32> = tensor.to_vec1()?;
            Ok(FrozenTensor::Vector(values.into_iter().map(|x| x - offset).collect()))
        };
        let mut tensors = Vec::new();
        for (layer, block) in self.blocks().iter().enumerate() {
            for (name, tensor) in block.tensors(names) {
                let tensor = match tensor {
                    BlockTensor::Matrix(matrix) => FrozenTensor::Matrix(matrix),
                    BlockTensor::Bias(bias) => vector(bias, 0.0)?,
                    BlockTensor::Norm(norm) => vector(norm.weight(), offset)?,
                };
                tensors.push((names.in_block(layer, &name), tensor));
            }
        }
        let weight = vector(self.final_norm_weight(), offset)?;
        tensors.push((format!("{}.weight", names.final_norm), weight));
        Ok(tensors)
    }
}
