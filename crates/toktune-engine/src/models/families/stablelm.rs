//! StableLM: Llama with layer norms and rotation of a part of each head.

use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{HalfNorms, LLAMA_MODEL, LLAMA_STACK};
use crate::models::spec::{ModelSpec, NormSpec, QkNorm};

pub(super) const STABLELM: Family = Family {
    name: "StableLM",
    model_types: &["stablelm"],
    architecture: "StableLmForCausalLM",
    examples: &["stabilityai/stablelm-2-1_6b", "stabilityai/stablelm-3b-4e1t"],
    gguf: GgufFamily::plain("stablelm"),
    columns: false,
    spec,
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, LLAMA_STACK)?;
    let of = &mut spec.stack;
    of.norm = NormSpec::layer(config.optional_number("layer_norm_eps")?.unwrap_or(1e-5));
    of.attention.qkv_bias = config.flag("use_qkv_bias", false)?;
    of.ropes = vec![decoder::partial_rope(config, of.attention.head_dim, 0.25)?];
    if config.flag("use_parallel_residual", false)? {
        of.parallel = true;
        of.names.mlp.norms = HalfNorms::before("input_layernorm");
    }
    if config.flag("qk_layernorm", false)? {
        of.attention.qk_norm = QkNorm::EachHead;
        of.names.attention.q_norm = Some("self_attn.q_layernorm.norms.{}");
        of.names.attention.k_norm = Some("self_attn.k_layernorm.norms.{}");
    }
    Ok(spec)
}
