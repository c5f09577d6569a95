//! GPT-NeoX, and so Pythia: a fused projection, rotation of a part of each head, parallel halves of a block.

use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{AttentionNames, LLAMA_MODEL, MEGATRON_STACK, ModelNames, StackNames};
use crate::models::rope::RopeSpec;
use crate::models::spec::{LayerSpec, MlpSpec, ModelSpec, QkvLayout};
use crate::spec::Activation;

pub(super) const GPT_NEOX: Family = Family {
    name: "GPT-NeoX",
    model_types: &["gpt_neox"],
    architecture: "GPTNeoXForCausalLM",
    examples: &["EleutherAI/pythia-160m", "EleutherAI/pythia-410m"],
    gguf: GgufFamily::plain("gptneox"),
    columns: false,
    spec,
};

const MODEL: ModelNames = ModelNames {
    prefix: "gpt_neox.",
    embed: "gpt_neox.embed_in",
    // the module was `embed_out` until transformers 5, and the tensor still is
    head_files: &["embed_out"],
    ..LLAMA_MODEL
};

const STACK: StackNames = StackNames {
    block: "gpt_neox.layers.{}",
    final_norm: Some("gpt_neox.final_layer_norm"),
    attention: AttentionNames {
        q: "attention.query_key_value",
        o: "attention.dense",
        ..MEGATRON_STACK.attention
    },
    ..MEGATRON_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let (hidden_size, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let mlp = MlpSpec {
        inner: config.size("intermediate_size")?,
        activation: decoder::activation(config, "hidden_act", Activation::Gelu)?,
        bias: true,
        fused: false,
    };
    let eps = config.optional_number("layer_norm_eps")?.unwrap_or(1e-5);
    let sizes = (config.size("vocab_size")?, hidden_size, config.size("num_hidden_layers")?);
    let mut spec = decoder::plain(sizes, (heads, heads), mlp, eps, (MODEL, STACK));
    spec.tied = config.flag("tie_word_embeddings", false)?;
    let bias = config.flag("attention_bias", true)?;
    let of = &mut spec.stack;
    (of.attention.qkv_bias, of.attention.output_bias) = (bias, bias);
    of.attention.layout = QkvLayout::Groups;
    of.parallel = config.flag("use_parallel_residual", true)?;
    of.max_positions = config.optional_size("max_position_embeddings")?;
    of.layers.fill(LayerSpec { rope: Some(0), ..LayerSpec::default() });
    let head_dim = of.attention.head_dim;
    // beside the section only these names are read, those of other families are not
    let mut section = decoder::rope_section(config).map(|of| of.object().clone()).unwrap_or_default();
    for (own, key, default) in
        [("rotary_emb_base", "rope_theta", 10_000.0), ("rotary_pct", "partial_rotary_factor", 0.25)]
    {
        let value = config.optional_number(own)?.unwrap_or(default);
        section.entry(key).or_insert_with(|| value.into());
    }
    let section = ModelConfig::from_object(config.path(), section);
    of.ropes = vec![RopeSpec::read(config, Some(&section), None, head_dim)?];
    Ok(spec)
}
