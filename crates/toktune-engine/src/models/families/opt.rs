//! OPT: learnt positions from the third row on, norms before or after each half of a block, and an embedding that may have
//! a width of its own.

use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{
    AttentionNames, HalfNorms, LLAMA_MODEL, LLAMA_STACK, MlpNames, ModelNames, StackNames,
};
use crate::models::spec::{MlpSpec, ModelSpec, Positions};
use crate::spec::Activation;

pub(super) const OPT: Family = Family {
    name: "OPT",
    model_types: &["opt"],
    architecture: "OPTForCausalLM",
    examples: &["facebook/opt-125m", "facebook/opt-350m"],
    gguf: None,
    columns: false,
    spec,
};

const MODEL: ModelNames = ModelNames { embed: "model.decoder.embed_tokens", ..LLAMA_MODEL };

pub(super) const STACK: StackNames = StackNames {
    block: "model.decoder.layers.{}",
    positions: Some("model.decoder.embed_positions"),
    final_norm: Some("model.decoder.final_layer_norm"),
    attention: AttentionNames {
        o: "self_attn.out_proj",
        norms: HalfNorms::before("self_attn_layer_norm"),
        ..LLAMA_STACK.attention
    },
    mlp: MlpNames { gate: None, up: "fc1", down: "fc2", norms: HalfNorms::before("final_layer_norm") },
    ..LLAMA_STACK
};

/// The first row of the learnt positions that is used.
const OFFSET: usize = 2;

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let hidden_size = config.size("hidden_size")?;
    let heads = config.size("num_attention_heads")?;
    let bias = config.flag("enable_bias", true)?;
    if !config.flag("layer_norm_elementwise_affine", true)? {
        return Err(config.error("layer_norm_elementwise_affine", "norms without weights are not supported"));
    }
    let mlp = MlpSpec {
        inner: config.size("ffn_dim")?,
        activation: decoder::activation(config, "activation_function", Activation::Relu)?,
        bias,
        fused: false,
    };
    let sizes = (config.size("vocab_size")?, hidden_size, config.size("num_hidden_layers")?);
    let mut spec = decoder::plain(sizes, (heads, heads), mlp, 1e-5, (MODEL, STACK));
    spec.tied = config.flag("tie_word_embeddings", true)?;
    let of = &mut spec.stack;
    (of.attention.qkv_bias, of.attention.output_bias) = (bias, bias);
    let positions = config.size("max_position_embeddings")?;
    of.max_positions = Some(positions);
    of.embedding.positions =
        Positions::Learned { rows: positions.saturating_add(OFFSET), offset: OFFSET, padding: None };
    let width = config.optional_size("word_embed_proj_dim")?.unwrap_or(hidden_size);
    if width != hidden_size {
        of.embedding.width = width;
        of.names.project_in = Some("model.decoder.project_in");
        of.names.project_out = Some("model.decoder.project_out");
    }
    if !config.flag("do_layer_norm_before", true)? {
        of.names.attention.norms = HalfNorms::sum("self_attn_layer_norm");
        of.names.mlp.norms = HalfNorms::sum("final_layer_norm");
        of.names.final_norm = None;
    }
    if config.flag("_remove_final_layer_norm", false)? {
        of.names.final_norm = None;
    }
    Ok(spec)
}
