//! Phi 1, 1.5 and 2: parallel halves of a block behind one norm, rotation of a part of each head, a head with a bias.

use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{AttentionNames, HalfNorms, LLAMA_MODEL, LLAMA_STACK, MlpNames, StackNames};
use crate::models::spec::{LayerSpec, MlpSpec, ModelSpec};
use crate::spec::Activation;

pub(super) const PHI: Family = Family {
    name: "Phi",
    model_types: &["phi"],
    architecture: "PhiForCausalLM",
    examples: &["microsoft/phi-1_5", "microsoft/phi-2"],
    gguf: GgufFamily::plain("phi2"),
    columns: false,
    spec,
};

const STACK: StackNames = StackNames {
    final_norm: Some("model.final_layernorm"),
    attention: AttentionNames { o: "self_attn.dense", ..LLAMA_STACK.attention },
    mlp: MlpNames { gate: None, up: "mlp.fc1", down: "mlp.fc2", norms: HalfNorms::before("input_layernorm") },
    ..LLAMA_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let (hidden_size, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let kv_heads = config.optional_size("num_key_value_heads")?.unwrap_or(heads);
    let mlp = MlpSpec {
        inner: config.size("intermediate_size")?,
        activation: decoder::activation(config, "hidden_act", Activation::GeluTanh)?,
        bias: true,
        fused: false,
    };
    let eps = config.optional_number("layer_norm_eps")?.unwrap_or(1e-5);
    let sizes = (config.size("vocab_size")?, hidden_size, config.size("num_hidden_layers")?);
    let mut spec = decoder::plain(sizes, (heads, kv_heads), mlp, eps, (LLAMA_MODEL, STACK));
    spec.tied = config.flag("tie_word_embeddings", false)?;
    spec.head.bias = true;
    let of = &mut spec.stack;
    of.parallel = true;
    of.max_positions = config.optional_size("max_position_embeddings")?;
    of.layers.fill(LayerSpec { rope: Some(0), ..LayerSpec::default() });
    of.ropes = vec![decoder::partial_rope(config, of.attention.head_dim, 0.5)?];
    if config.flag("qk_layernorm", false)? {
        of.names.attention.q_norm = Some("self_attn.q_layernorm");
        of.names.attention.k_norm = Some("self_attn.k_layernorm");
    }
    Ok(spec)
}
