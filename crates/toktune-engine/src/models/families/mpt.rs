//! MPT: ALiBi, norms without biases, a fused projection within a limit.

use super::{Family, decoder, gpt2};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{AttentionNames, HalfNorms, LLAMA_STACK, MlpNames, StackNames};
use crate::models::relative::RelativeSpec;
use crate::models::spec::{MlpSpec, ModelSpec, NormKind, QkvLayout};
use crate::spec::Activation;

pub(super) const MPT: Family = Family {
    name: "MPT",
    model_types: &["mpt"],
    architecture: "MptForCausalLM",
    examples: &["mosaicml/mpt-7b", "mosaicml/mpt-7b-instruct"],
    gguf: None,
    columns: false,
    spec,
};

const STACK: StackNames = StackNames {
    block: "transformer.blocks.{}",
    final_norm: Some("transformer.norm_f"),
    attention: AttentionNames {
        q: "attn.Wqkv",
        k: "",
        v: "",
        o: "attn.out_proj",
        norms: HalfNorms::before("norm_1"),
        ..LLAMA_STACK.attention
    },
    mlp: MlpNames {
        gate: None,
        up: "ffn.up_proj",
        down: "ffn.down_proj",
        norms: HalfNorms::before("norm_2"),
    },
    ..LLAMA_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let (hidden_size, heads) = (config.size("d_model")?, config.size("n_heads")?);
    // whatever the configuration says, transformers computes these alone
    let mlp = MlpSpec {
        inner: hidden_size.saturating_mul(4),
        activation: Activation::Gelu,
        bias: false,
        fused: false,
    };
    let eps = config.optional_number("layer_norm_epsilon")?.unwrap_or(1e-5);
    let sizes = (config.size("vocab_size")?, hidden_size, config.size("n_layers")?);
    let mut spec = decoder::plain(sizes, (heads, heads), mlp, eps, (gpt2::MODEL, STACK));
    spec.tied = config.flag("tie_word_embeddings", true)?;
    let of = &mut spec.stack;
    of.norm.kind = NormKind::Layer { bias: false };
    (of.attention.qkv_bias, of.attention.output_bias) = (false, false);
    of.attention.layout = QkvLayout::Blocks;
    of.relative = Some(RelativeSpec::Alibi);
    of.max_positions = config.optional_size("max_seq_len")?;
    let Some(attention) = config.section("attn_config") else { return Ok(spec) };
    // models with these are not what transformers makes of them
    for (key, usual) in [("alibi", true), ("qk_ln", false), ("prefix_lm", false)] {
        if attention.flag(key, usual)? != usual {
            return Err(attention.error(key, format!("expected {usual}")));
        }
    }
    of.attention.limit = decoder::limit(&attention, "clip_qkv")?;
    if let Some(scale) = attention.optional_number("softmax_scale")? {
        of.attention.scale = scale as f32;
    }
    Ok(spec)
}
