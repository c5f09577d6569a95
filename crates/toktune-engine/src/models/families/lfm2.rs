//! LFM 2: short convolutions in most layers, attention in the others.

use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, LLAMA_STACK, StackNames};
use crate::models::spec::ModelSpec;
use crate::spec::{
    AttentionNames, ConvolutionNames, ConvolutionSpec, HalfNorms, LayerSpec, Mixer, MlpNames, NormSpec,
};

pub(super) const LFM2: Family = Family {
    name: "LFM2",
    model_types: &["lfm2"],
    architecture: "Lfm2ForCausalLM",
    examples: &["LiquidAI/LFM2-1.2B"],
    gguf: None,
    columns: false,
    spec,
};

const STACK: StackNames = StackNames {
    final_norm: Some("model.embedding_norm"),
    attention: AttentionNames {
        o: "self_attn.out_proj",
        q_norm: Some("self_attn.q_layernorm"),
        k_norm: Some("self_attn.k_layernorm"),
        norms: HalfNorms::before("operator_norm"),
        ..LLAMA_STACK.attention
    },
    convolution: Some(ConvolutionNames { input: "conv.in_proj", taps: "conv.conv", output: "conv.out_proj" }),
    mlp: MlpNames {
        gate: Some("feed_forward.w1"),
        up: "feed_forward.w3",
        down: "feed_forward.w2",
        norms: HalfNorms::before("ffn_norm"),
    },
    ..LLAMA_STACK
};

/// Widest convolution that a configuration may ask for.
const MOST_TAPS: usize = 1 << 10;

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK)?;
    let tied = config.flag("tie_word_embeddings", true)?;
    // the former name stands above the other
    spec.tied = config.flag("tie_embedding", tied)?;
    spec.stack.norm = NormSpec::rms(config.optional_number("norm_eps")?.unwrap_or(1e-5));
    spec.stack.ropes = vec![decoder::rope_from(config, spec.stack.attention.head_dim, 1_000_000.0)?];
    spec.stack.mlp.inner = inner(config, spec.stack.mlp.inner)?;
    let taps = config.optional_size("conv_L_cache")?.unwrap_or(3);
    if taps > MOST_TAPS {
        return Err(config.error("conv_L_cache", format!("{taps} is more than {MOST_TAPS}")));
    }
    let of = ConvolutionSpec { taps, bias: config.flag("conv_bias", false)? };
    let attends = attends(config, spec.stack.layers.len())?;
    for (layer, attends) in spec.stack.layers.iter_mut().zip(attends) {
        if !attends {
            *layer = LayerSpec { mixer: Mixer::Convolution(of), ..LayerSpec::default() };
        }
    }
    Ok(spec)
}

/// The width inside the MLP, which the configuration says only roughly.
fn inner(config: &ModelConfig, stated: usize) -> Result<usize> {
    let stated = config.optional_size("block_ff_dim")?.unwrap_or(stated);
    if !config.flag("block_auto_adjust_ff_dim", true)? {
        return Ok(stated);
    }
    let mut inner = (2.0 * stated as f64 / 3.0) as usize;
    let is_null = config.get("block_ffn_dim_multiplier").is_some_and(|value| value.is_null());
    if !is_null {
        let factor = config.optional_number("block_ffn_dim_multiplier")?.unwrap_or(1.0);
        inner = (factor * inner as f64) as usize;
        let multiple = config.optional_size("block_multiple_of")?.unwrap_or(256);
        let rounded = inner.div_ceil(multiple.max(1)).checked_mul(multiple.max(1));
        inner =
            rounded.ok_or_else(|| config.error("block_multiple_of", format!("{multiple} is too large")))?;
    }
    Ok(inner)
}

/// The layers with attention: `layer_types`, or before there were these the numbers in `full_attn_idxs`, or all.
fn attends(config: &ModelConfig, count: usize) -> Result<Vec<bool>> {
    let list = |key: &str| config.get(key).filter(|value| !value.is_null());
    if let Some(types) = list("layer_types") {
        let types = types.as_array().filter(|types| types.len() == count);
        let types =
            types.ok_or_else(|| config.error("layer_types", format!("expected a list of {count}")))?;
        let of = |kind: &serde_json::Value| match kind.as_str() {
            Some("full_attention") => Ok(true),
            Some("conv") => Ok(false),
            _ => Err(config.error("layer_types", format!("expected full_attention or conv, found {kind}"))),
        };
        return types.iter().map(of).collect();
    }
    let Some(numbers) = list("full_attn_idxs") else { return Ok(vec![true; count]) };
    let numbers = numbers.as_array().map(|of| of.iter().map(|n| n.as_u64()).collect::<Option<Vec<u64>>>());
    let expected = || config.error("full_attn_idxs", "expected a list of numbers".to_owned());
    let numbers = numbers.flatten().ok_or_else(expected)?;
    Ok((0..count as u64).map(|layer| numbers.contains(&layer)).collect())
}
