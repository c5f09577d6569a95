//! Qwen 2 and 3: Llama with biases of queries, keys and values (Qwen 2, 2.5) or norms of queries and keys (Qwen 3).

use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{AttentionNames, LLAMA_MODEL, LLAMA_STACK, StackNames};
use crate::models::spec::ModelSpec;

pub(super) const QWEN2: Family = Family {
    name: "Qwen 2",
    model_types: &["qwen2"],
    architecture: "Qwen2ForCausalLM",
    examples: &["Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2-1.5B"],
    gguf: GgufFamily::plain("qwen2"),
    columns: false,
    spec: spec_2,
};

pub(super) const QWEN3: Family = Family {
    name: "Qwen 3",
    model_types: &["qwen3"],
    architecture: "Qwen3ForCausalLM",
    examples: &["Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B"],
    gguf: GgufFamily::plain("qwen3"),
    columns: false,
    spec: spec_3,
};

/// Norms of each query and key head, by the names that most families give them.
pub(super) const HEAD_NORMS: AttentionNames = AttentionNames {
    q_norm: Some("self_attn.q_norm"),
    k_norm: Some("self_attn.k_norm"),
    ..LLAMA_STACK.attention
};

const STACK_3: StackNames = StackNames { attention: HEAD_NORMS, ..LLAMA_STACK };

pub(super) fn spec_2(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, LLAMA_STACK)?;
    spec.stack.attention.qkv_bias = true;
    decoder::late_windows(config, &mut spec)?;
    Ok(spec)
}

pub(super) fn spec_3(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK_3)?;
    if config.get("head_dim").is_none() {
        return Err(config
            .error("head_dim", "missing; Qwen 3 has heads that are not hidden_size / num_attention_heads"));
    }
    decoder::biases(config, &mut spec)?;
    decoder::late_windows(config, &mut spec)?;
    Ok(spec)
}
