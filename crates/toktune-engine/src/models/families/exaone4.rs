//! EXAONE 4: norms behind the halves of a block, norms of the q and k heads, and rotation in the layers with a window alone.

use super::olmo2::NORMED_AFTER;
use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::LLAMA_MODEL;
use crate::models::spec::{ModelSpec, NormSpec};

pub(super) const EXAONE4: Family = Family {
    name: "EXAONE 4",
    model_types: &["exaone4"],
    architecture: "Exaone4ForCausalLM",
    examples: &["LGAI-EXAONE/EXAONE-4.0-1.2B", "LGAI-EXAONE/EXAONE-4.0-32B"],
    gguf: GgufFamily::plain("exaone4"),
    columns: false,
    spec,
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, NORMED_AFTER)?;
    spec.stack.norm = NormSpec::rms(config.optional_number("rms_norm_eps")?.unwrap_or(1e-5));
    let window = match config.has("sliding_window") {
        true => config.optional_size("sliding_window")?,
        false => Some(4096),
    };
    if config.get("layer_types").is_none() && window.is_none() {
        return Err(
            config.error("layer_types", "missing, and there is no sliding_window to tell the layers by")
        );
    }
    // a text, which some configurations have, goes with `layer_types`
    let pattern = match config.get("layer_types") {
        Some(_) => 4,
        None => config.optional_size("sliding_window_pattern")?.unwrap_or(4),
    };
    let slides = |layer: usize| !(layer + 1).is_multiple_of(pattern);
    let rotates = |slides: bool| (slides || window.is_none()).then_some(0);
    spec.stack.layers = decoder::layer_types(config, window, slides, rotates)?;
    Ok(spec)
}
