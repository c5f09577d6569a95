//! OLMo 2: Llama with norms after each half of a block instead of before it, and norms of all queries and of all keys.

use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{AttentionNames, HalfNorms, LLAMA_MODEL, LLAMA_STACK, MlpNames, StackNames};
use crate::models::spec::{ModelSpec, QkNorm};

pub(super) const OLMO2: Family = Family {
    name: "OLMo 2",
    model_types: &["olmo2"],
    architecture: "Olmo2ForCausalLM",
    examples: &["allenai/OLMo-2-0425-1B"],
    gguf: GgufFamily::plain("olmo2"),
    columns: false,
    spec,
};

/// The names of Llama with norms behind the halves of a block, and of queries and keys.
pub(super) const NORMED_AFTER: StackNames = StackNames {
    attention: AttentionNames {
        q_norm: Some("self_attn.q_norm"),
        k_norm: Some("self_attn.k_norm"),
        norms: HalfNorms { before: None, after: Some("post_attention_layernorm"), sum: None },
        ..LLAMA_STACK.attention
    },
    mlp: MlpNames {
        norms: HalfNorms { before: None, after: Some("post_feedforward_layernorm"), sum: None },
        ..LLAMA_STACK.mlp
    },
    ..LLAMA_STACK
};

pub(super) fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, NORMED_AFTER)?;
    decoder::biases(config, &mut spec)?;
    spec.stack.attention.qk_norm = QkNorm::Width;
    if config.get("rms_norm_eps").is_none() {
        spec.stack.norm.eps = 1e-5;
    }
    Ok(spec)
}
