//! Decoders with root mean square norms: Llama and its kin, Qwen, OLMo 2 and 3, EXAONE, Hunyuan, Phi 3.

use super::{Source, object};
use crate::error::Result;
use serde_json::{Map, Value, json};

/// Llama, and Mistral, which has no architecture of its own: its window is not in the file.
pub(super) fn llama(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.rms_norm("llama", "LlamaForCausalLM")?;
    config.extend(object(json!({
        "hidden_act": "silu",
        "attention_bias": source.has("blk.0.attn_q.bias"),
        "mlp_bias": source.has("blk.0.ffn_up.bias"),
        "rope_parameters": source.llama_rope()?,
    })));
    Ok(config)
}

/// Arcee: Llama with an MLP without a gate, whose activation is fixed.
pub(super) fn arcee(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.rms_norm("arcee", "ArceeForCausalLM")?;
    config.extend(object(json!({
        "hidden_act": "relu2",
        "attention_bias": source.has("blk.0.attn_q.bias"),
        "mlp_bias": source.has("blk.0.ffn_up.bias"),
        "rope_parameters": source.llama_rope()?,
    })));
    Ok(config)
}

/// EXAONE 4: norms behind attention and MLP, norms of the heads of queries and keys; a window in three layers of four, or where
/// the file's list says, or none.
pub(super) fn exaone4(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.rms_norm("exaone4", "Exaone4ForCausalLM")?;
    let window = source.get::<u64>("attention.sliding_window")?.filter(|window| *window > 0);
    let types = match window {
        Some(_) => source.windows()?,
        None => source.layer_types(|_| false)?,
    };
    config.extend(object(json!({
        "hidden_act": "silu",
        "sliding_window": window,
        "layer_types": types,
        "rope_parameters": source.llama_rope()?,
    })));
    Ok(config)
}

/// Granite: Llama with four factors.
pub(super) fn granite(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.rms_norm("granite", "GraniteForCausalLM")?;
    // the converter leaves a factor out when the configuration has none: transformers' default is 1
    for (key, stored) in [
        ("attention_multiplier", "attention.scale"),
        ("embedding_multiplier", "embedding_scale"),
        ("residual_multiplier", "residual_scale"),
        ("logits_scaling", "logit_scale"),
    ] {
        config.insert(key.into(), source.get::<f64>(stored)?.unwrap_or(1.0).into());
    }
    config.extend(object(json!({
        "hidden_act": "silu",
        "attention_bias": source.has("blk.0.attn_q.bias"),
        "mlp_bias": source.has("blk.0.ffn_up.bias"),
        "rope_parameters": source.llama_rope()?,
    })));
    Ok(config)
}

/// SmolLM 3: Llama with a layer without rotation after every three with it, which llama.cpp fixes.
pub(super) fn smollm3(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.rms_norm("smollm3", "SmolLM3ForCausalLM")?;
    // transformers writes 1 for a layer that is rotated
    let rotated: Vec<u8> = (1..=source.layers()?.min(1 << 16)).map(|i| u8::from(i % 4 != 0)).collect();
    config.extend(object(json!({
        "hidden_act": "silu",
        "attention_bias": source.has("blk.0.attn_q.bias"),
        "no_rope_layers": rotated,
        "no_rope_layer_interval": 4,
        "rope_parameters": source.llama_rope()?,
    })));
    Ok(config)
}

/// Qwen 2 and 2.5. Biases of query, key and value need no key in transformers either. A window
/// (`use_sliding_window`), which no released model turns on, is not in the file.
pub(super) fn qwen2(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.rms_norm("qwen2", "Qwen2ForCausalLM")?;
    config.extend(object(json!({"hidden_act": "silu", "rope_parameters": source.rope(10_000.0)?})));
    Ok(config)
}

/// Qwen 3: norms on the heads of queries and keys, a width of heads of its own.
pub(super) fn qwen3(source: &Source<'_>) -> Result<Map<String, Value>> {
    with_norms_of_heads(source, "qwen3", "Qwen3ForCausalLM")
}

/// A model with norms of each query and key head, which may have biases.
fn with_norms_of_heads(source: &Source<'_>, model_type: &str, class: &str) -> Result<Map<String, Value>> {
    let mut config = source.rms_norm(model_type, class)?;
    config.extend(object(json!({
        "hidden_act": "silu",
        "attention_bias": source.has("blk.0.attn_q.bias"),
        "rope_parameters": source.rope(10_000.0)?,
    })));
    Ok(config)
}

/// OLMo 2: norms behind attention (`post_attention_norm`) and MLP (`post_ffw_norm`), none before; those of queries
/// and keys are over their whole width.
///
/// OLMo 3 has the same architecture, and a window in three layers of four, or where the file's list says. Those layers rotate
/// by the base alone; a scaling is that of the others.
pub(super) fn olmo2(source: &Source<'_>) -> Result<Map<String, Value>> {
    let window = source.get::<u64>("attention.sliding_window")?.filter(|window| *window > 0);
    let (model_type, class) = match window {
        None => ("olmo2", "Olmo2ForCausalLM"),
        Some(_) => ("olmo3", "Olmo3ForCausalLM"),
    };
    let mut config = source.rms_norm(model_type, class)?;
    let full = source.rope(10_000.0)?;
    let rope = match window {
        None => full,
        Some(window) => {
            let base =
                source.get::<f64>("rope.freq_base_swa")?.map_or(full["rope_theta"].clone(), Value::from);
            config.insert("sliding_window".into(), window.into());
            config.insert("layer_types".into(), source.windows()?.into());
            json!({
                "full_attention": full,
                "sliding_attention": {"rope_type": "default", "rope_theta": base},
            })
        }
    };
    config.extend(object(json!({
        "hidden_act": "silu",
        "attention_bias": source.has("blk.0.attn_q.bias"),
        "rope_parameters": rope,
    })));
    Ok(config)
}

/// Hunyuan, dense: norms of each query and key head behind the rotation, of whose base the file holds what `alpha` makes of it.
pub(super) fn hunyuan(source: &Source<'_>) -> Result<Map<String, Value>> {
    with_norms_of_heads(source, "hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM")
}

/// Phi 3, 3.5 and 4. Query, key and value lie in one tensor `attn_qkv`, gate and up projection in one `ffn_up`, as
/// in transformers' own `qkv_proj` and `gate_up_proj`.
///
/// A window of 0 is none. Files of before August 2024 do not have the key, and no window then: that of
/// Phi-3-mini-4k, 2047, is lost.
pub(super) fn phi3(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.rms_norm("phi3", "Phi3ForCausalLM")?;
    let head_dim = source.head_dim()?;
    let rotated = source.get::<u64>("rope.dimension_count")?.unwrap_or(head_dim);
    let context: Option<u64> = source.get("context_length")?;
    let original = source.get::<u64>("rope.scaling.original_context_length")?.or(context);
    let (long, short) = ("rope_factors_long.weight", "rope_factors_short.weight");
    let mut rope = match source.checkpoint.shape(long) {
        // the two sets of divisors are tensors; the type may be `longrope` or nothing at all
        Some(shape) => {
            let pairs = shape.iter().product();
            let mut rope = object(json!({
                "rope_type": "longrope",
                "rope_theta": source.get::<f64>("rope.freq_base")?.unwrap_or(10_000.0),
                "long_factor": source.checkpoint.vector(long, pairs)?,
                "short_factor": source.checkpoint.vector(short, pairs)?,
                "original_max_position_embeddings": original,
            }));
            if let Some(factor) = source.get::<f64>("rope.scaling.attn_factor")? {
                rope.insert("attention_factor".into(), factor.into());
            }
            rope
        }
        None => object(source.rope(10_000.0)?),
    };
    if rotated != head_dim {
        rope.insert("partial_rotary_factor".into(), (rotated as f64 / head_dim.max(1) as f64).into());
    }
    config.extend(object(json!({
        "hidden_act": "silu",
        "original_max_position_embeddings": original,
        "sliding_window": source.get::<u64>("attention.sliding_window")?.filter(|window| *window > 0),
        "rope_parameters": rope,
    })));
    Ok(config)
}
