//! SmolLM3: Llama with layers that rotate nothing.

use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, LLAMA_STACK};
use crate::models::spec::ModelSpec;

pub(super) const SMOLLM3: Family = Family {
    name: "SmolLM3",
    model_types: &["smollm3"],
    architecture: "SmolLM3ForCausalLM",
    examples: &["HuggingFaceTB/SmolLM3-3B"],
    gguf: Some(GgufFamily { architecture: "smollm3", interleaves: true }),
    columns: false,
    spec,
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, LLAMA_STACK)?;
    spec.tied = config.flag("tie_word_embeddings", true)?;
    decoder::biases(config, &mut spec)?;
    spec.stack.ropes = vec![decoder::rope_from(config, spec.stack.attention.head_dim, 2_000_000.0)?];
    let count = spec.stack.layers.len();
    let rotated = rotated(config, count)?;
    let window = match config.flag("use_sliding_window", false)? {
        true => config.optional_size("sliding_window")?,
        false => None,
    };
    let slides = |layer: usize| !rotated[layer];
    spec.stack.layers = decoder::layer_types(config, window, slides, |_| Some(0))?;
    for (layer, rotated) in spec.stack.layers.iter_mut().zip(rotated) {
        layer.rope = layer.rope.filter(|_| rotated);
    }
    Ok(spec)
}

/// The layers that rotate. `no_rope_layers` marks them with 1, whatever its name says.
pub(super) fn rotated(config: &ModelConfig, count: usize) -> Result<Vec<bool>> {
    let Some(layers) = config.get("no_rope_layers") else {
        let interval = config.optional_size("no_rope_layer_interval")?.unwrap_or(4);
        return Ok((1..=count).map(|layer| !layer.is_multiple_of(interval)).collect());
    };
    let marks = layers.as_array().filter(|marks| marks.len() == count);
    let marks = marks.map(|marks| marks.iter().map(|mark| mark.as_u64()).collect::<Option<Vec<u64>>>());
    match marks.flatten() {
        Some(marks) => Ok(marks.into_iter().map(|mark| mark != 0).collect()),
        None => Err(config.error("no_rope_layers", format!("expected a list of {count} numbers"))),
    }
}
