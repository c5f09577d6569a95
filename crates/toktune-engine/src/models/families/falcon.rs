//! Falcon: a fused projection in three layouts, parallel halves of a block behind one norm or two, ALiBi in the first models.

use super::{Family, GgufFamily, bloom, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{HalfNorms, MEGATRON_STACK, StackNames};
use crate::models::relative::RelativeSpec;
use crate::models::spec::{LayerSpec, MlpSpec, ModelSpec, QkvLayout};
use crate::spec::Activation;

pub(super) const FALCON: Family = Family {
    name: "Falcon",
    model_types: &["falcon", "RefinedWeb", "RefinedWebModel"],
    architecture: "FalconForCausalLM",
    examples: &["tiiuae/falcon-7b", "tiiuae/falcon-rw-1b"],
    gguf: GgufFamily::plain("falcon"),
    columns: false,
    spec,
};

const STACK: StackNames =
    StackNames { block: "transformer.h.{}", final_norm: Some("transformer.ln_f"), ..MEGATRON_STACK };

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let hidden_size = decoder::size_of(config, &["n_embed", "hidden_size"])?;
    let heads = decoder::size_of(config, &["num_attention_heads", "n_head"])?;
    let layers = decoder::size_of(config, &["num_hidden_layers", "n_layer"])?;
    let new = config.flag("new_decoder_architecture", false)?;
    let key = if config.get("num_kv_heads").is_some() { "num_kv_heads" } else { "n_head_kv" };
    // the first models have `num_kv_heads` too, where it means nothing
    let kv_heads = match (new, config.flag("multi_query", true)?) {
        (true, _) => config.optional_size(key)?.unwrap_or(heads),
        (false, true) => 1,
        (false, false) => heads,
    };
    let bias = config.flag("bias", false)?;
    let mlp = MlpSpec {
        inner: config.optional_size("ffn_hidden_size")?.unwrap_or(hidden_size.saturating_mul(4)),
        activation: decoder::activation(config, "activation", Activation::Gelu)?,
        bias,
        fused: false,
    };
    let eps = config.optional_number("layer_norm_epsilon")?.unwrap_or(1e-5);
    let sizes = (config.size("vocab_size")?, hidden_size, layers);
    let mut spec = decoder::plain(sizes, (heads, kv_heads), mlp, eps, (bloom::MODEL, STACK));
    spec.tied = config.flag("tie_word_embeddings", true)?;
    let of = &mut spec.stack;
    (of.attention.qkv_bias, of.attention.output_bias) = (bias, bias);
    of.attention.layout = QkvLayout::Groups;
    of.max_positions = config.optional_size("max_position_embeddings")?;
    of.parallel = new || config.flag("parallel_attn", true)?;
    let two_norms = new && config.optional_size("num_ln_in_parallel_attn")?.unwrap_or(2) == 2;
    if two_norms {
        of.names.attention.norms = HalfNorms::before("ln_attn");
        of.names.mlp.norms = HalfNorms::before("ln_mlp");
    } else if of.parallel {
        of.names.mlp.norms = of.names.attention.norms;
    }
    if config.flag("alibi", false)? {
        of.relative = Some(RelativeSpec::RoundedAlibi { scale: of.attention.scale });
    } else {
        of.layers.fill(LayerSpec { rope: Some(0), ..LayerSpec::default() });
        of.ropes = vec![decoder::rope(config, of.attention.head_dim)?];
    }
    Ok(spec)
}
