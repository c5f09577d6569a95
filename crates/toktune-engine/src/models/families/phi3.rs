//! Phi-3 and Phi-4-mini: Llama with fused projections, a window in every layer, and LongRoPE.

use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{AttentionNames, LLAMA_MODEL, LLAMA_STACK, MlpNames, StackNames};
use crate::models::spec::{ModelSpec, QkvLayout};

pub(super) const PHI3: Family = Family {
    name: "Phi-3",
    model_types: &["phi3"],
    architecture: "Phi3ForCausalLM",
    examples: &["microsoft/Phi-3-mini-4k-instruct", "microsoft/Phi-4-mini-instruct"],
    gguf: GgufFamily::plain("phi3"),
    columns: false,
    spec,
};

const STACK: StackNames = StackNames {
    attention: AttentionNames { q: "self_attn.qkv_proj", k: "", v: "", ..LLAMA_STACK.attention },
    mlp: MlpNames { gate: None, up: "mlp.gate_up_proj", ..LLAMA_STACK.mlp },
    ..LLAMA_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK)?;
    spec.stack.attention.layout = QkvLayout::Blocks;
    spec.stack.mlp.fused = true;
    if config.get("rms_norm_eps").is_none() {
        spec.stack.norm.eps = 1e-5;
    }
    decoder::one_window(config, &mut spec, None)?;
    Ok(spec)
}
