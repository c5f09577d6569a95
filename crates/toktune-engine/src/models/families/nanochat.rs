//! NanoChat: norms without weights, one of them before the first layer, pairs that turn the other way round before the norms of
//! their heads, an MLP without a gate, and capped logits.

use super::qwen::HEAD_NORMS;
use super::{Family, decoder, gemma2};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, LLAMA_STACK, MlpNames, StackNames};
use crate::models::spec::{ModelSpec, QkNorm};
use crate::spec::Activation;

pub(super) const NANOCHAT: Family = Family {
    name: "NanoChat",
    model_types: &["nanochat"],
    architecture: "NanoChatForCausalLM",
    examples: &["karpathy/nanochat-d32"],
    gguf: None,
    columns: false,
    spec,
};

const STACK: StackNames = StackNames {
    // the norm after the last block is also the one before the first
    embedding_norm: Some("model.norm"),
    attention: HEAD_NORMS,
    mlp: MlpNames { gate: None, up: "mlp.fc1", down: "mlp.fc2", ..LLAMA_STACK.mlp },
    ..LLAMA_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK)?;
    let of = &mut spec.stack;
    let bias = config.flag("attention_bias", false)?;
    (of.attention.qkv_bias, of.attention.output_bias) = (bias, bias);
    of.mlp.activation = decoder::activation(config, "hidden_act", Activation::SquaredRelu)?;
    of.norm.bare = true;
    of.attention.qk_norm = QkNorm::Bare;
    of.attention.norm_rotated = true;
    of.ropes[0].reversed = true;
    spec.head.soft_cap = gemma2::soft_cap(config, "final_logit_softcapping", 15.0)?;
    Ok(spec)
}
