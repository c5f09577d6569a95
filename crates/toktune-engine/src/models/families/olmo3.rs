//! OLMo 3: OLMo 2 with a window in three layers of four, which rotate without the scaling that the others have.

use super::{Family, GgufFamily, decoder, olmo2};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::rope::RopeSpec;
use crate::models::spec::ModelSpec;

pub(super) const OLMO3: Family = Family {
    name: "OLMo 3",
    model_types: &["olmo3"],
    architecture: "Olmo3ForCausalLM",
    examples: &["allenai/Olmo-3-7B-Instruct", "allenai/Olmo-3-1025-7B"],
    gguf: GgufFamily::plain("olmo2"),
    columns: false,
    spec,
};

/// Indices into the ropes below.
const FULL: usize = 0;
const SLIDING: usize = 1;

/// The base of a rotation where the configuration has none.
const THETA: f64 = 500_000.0;

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = olmo2::spec(config)?;
    let window = match config.has("sliding_window") {
        true => config.optional_size("sliding_window")?,
        false => Some(4096),
    };
    let slides = |layer: usize| !(layer + 1).is_multiple_of(4);
    let rope = |slides: bool| Some(if slides { SLIDING } else { FULL });
    spec.stack.layers = decoder::layer_types(config, window, slides, rope)?;
    let of = |kind: &str, scaled: bool, theta: f64| {
        let section = decoder::rope_section_of(config, kind, scaled);
        RopeSpec::read(config, Some(&section), Some(theta), spec.stack.attention.head_dim)
    };
    // transformers gives the base at the top to the full layers alone
    let theta = config.optional_number("rope_theta")?.unwrap_or(THETA);
    spec.stack.ropes = vec![of("full_attention", true, theta)?, of("sliding_attention", false, THETA)?];
    Ok(spec)
}
