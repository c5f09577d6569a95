//! The weights of a model as a HuggingFace checkpoint of its family would store them, wherever they came
//! from.

use super::model::PretrainedModel;
use crate::layers::LayerTensor;
use toktune_weights::FrozenMatrix;

/// A weight that is not a token matrix.
#[derive(Clone, Debug)]
pub enum FrozenTensor<'a> {
    /// A linear layer's; decoding it gives HuggingFace's order of rows.
    Matrix(&'a FrozenMatrix),
    /// A norm's, without the 1 that Gemma's GGUF files add, or a bias, or the factors of a convolution,
    /// `[width, 1, taps]`.
    Vector(Vec<f32>),
}

impl PretrainedModel {
    /// Every weight but the embedding and the head, by its full name in the family's checkpoints.
    pub fn frozen_tensors(&self) -> Vec<(String, FrozenTensor<'_>)> {
        let offset = if self.spec().stack.norm.plus_one { 1.0 } else { 0.0 };
        let of = move |(name, tensor)| match tensor {
            LayerTensor::Matrix(matrix) => (name, FrozenTensor::Matrix(matrix)),
            LayerTensor::Bias(values) | LayerTensor::Taps(values) => (name, FrozenTensor::Vector(values)),
            LayerTensor::Norm(norm) => {
                (name, FrozenTensor::Vector(norm.iter().map(|x| x - offset).collect()))
            }
        };
        self.runner().tensors().into_iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::AutoModel;
    use crate::models::Device;
    use std::path::Path;

    fn model(name: &str) -> PretrainedModel {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../toktune/tests/fixtures").join(name);
        AutoModel::from_pretrained(folder, &Device::Cpu).expect("a model")
    }

    #[test]
    fn they_are_the_stored_ones() {
        for name in ["llama_untied", "stablelm_parallel", "cohere_qk", "mixtral", "qwen3_moe", "deberta_v2"] {
            let model = model(name);
            let tokens = [model.embedding_name(), model.head_name()].map(|module| format!("{module}.weight"));
            let mut stored: Vec<String> = model.checkpoint().names().map(String::from).collect();
            stored.retain(|stored| !tokens.contains(stored));
            let mut listed: Vec<String> = model.frozen_tensors().into_iter().map(|(name, _)| name).collect();
            stored.sort();
            listed.sort();
            // where a matrix of norms is one tensor, and where each norm has its own
            assert_eq!(listed, stored, "{name}");
        }
    }

    #[test]
    fn experts_and_routers_are_no_targets_of_lora() {
        for (name, own) in [("mixtral", 8), ("qwen3_moe", 11)] {
            let model = model(name);
            let linears: Vec<&str> = model.runner().linears().iter().map(|linear| linear.module).collect();
            assert_eq!(linears.len(), own, "{name}: {linears:?}");
            assert!(linears.iter().all(|linear| !linear.contains("expert") && !linear.ends_with(".gate")));
        }
    }

    #[test]
    fn what_every_row_passes_through_is_a_target_of_lora() {
        for (name, own) in [("qwen2_moe", 4), ("glm4_moe", 3)] {
            let model = model(name);
            let linears = model.runner().linears();
            let is_shared = |linear: &&str| linear.contains("shared_expert");
            let shared: Vec<&str> = linears.iter().map(|linear| linear.module).filter(is_shared).collect();
            let layers = if name == "qwen2_moe" { 2 } else { 1 };
            assert_eq!(shared.len(), layers * own, "{name}: {shared:?}");
        }
    }
}
