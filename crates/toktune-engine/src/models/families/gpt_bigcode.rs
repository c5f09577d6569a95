//! GPT BigCode (StarCoder, SantaCoder): GPT-2 with one key head, and linear layers that are stored by rows.

use super::{Family, gpt2};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::spec::{ModelSpec, QkvLayout};

pub(super) const GPT_BIGCODE: Family = Family {
    name: "GPT BigCode",
    model_types: &["gpt_bigcode"],
    architecture: "GPTBigCodeForCausalLM",
    examples: &["bigcode/starcoder", "bigcode/tiny_starcoder_py"],
    gguf: None,
    columns: false,
    spec,
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = gpt2::spec(config)?;
    let attention = &mut spec.stack.attention;
    match config.flag("multi_query", true)? {
        true => attention.kv_heads = 1,
        // queries, keys and values of a head side by side
        false => attention.layout = QkvLayout::Groups,
    }
    Ok(spec)
}
