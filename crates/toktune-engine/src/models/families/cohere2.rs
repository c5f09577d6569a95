//! Cohere 2 (Command R7B, Command A): Cohere with a window in three layers of four, which alone rotate.

use super::{Family, GgufFamily, cohere, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::spec::ModelSpec;

pub(super) const COHERE2: Family = Family {
    name: "Cohere 2",
    model_types: &["cohere2"],
    architecture: "Cohere2ForCausalLM",
    examples: &["CohereLabs/c4ai-command-r7b-12-2024", "CohereLabs/c4ai-command-a-03-2025"],
    gguf: GgufFamily::plain("cohere2"),
    columns: false,
    spec,
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = cohere::read(config, 10_000.0)?;
    let window = match config.has("sliding_window") {
        true => config.size("sliding_window")?,
        false => 4096,
    };
    let pattern = config.optional_size("sliding_window_pattern")?.unwrap_or(4);
    let slides = |layer: usize| !(layer + 1).is_multiple_of(pattern);
    spec.stack.layers = decoder::layer_types(config, Some(window), slides, |slides| slides.then_some(0))?;
    Ok(spec)
}
