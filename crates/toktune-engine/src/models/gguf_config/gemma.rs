//! Gemma, Gemma 2 and Gemma 3. The weights of all their norms are stored with 1 already added.

use super::{Source, object};
use crate::error::Result;
use serde_json::{Map, Value, json};

/// Gemma. The base of the rotation is not in the file; it is 10000 in all models.
pub(super) fn gemma(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.rms_norm("gemma", "GemmaForCausalLM")?;
    config.extend(object(json!({
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_parameters": source.rope(10_000.0)?,
    })));
    Ok(config)
}

/// Gemma 2: a window in every other layer, from the first on, and soft caps. llama.cpp fixes the pattern, and the caps
/// and the window where the file has none.
pub(super) fn gemma2(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.rms_norm("gemma2", "Gemma2ForCausalLM")?;
    config.extend(object(json!({
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": score_scalar(source, 46)?,
        "attn_logit_softcapping": source.get::<f64>("attn_logit_softcapping")?.unwrap_or(50.0),
        "final_logit_softcapping": source.get::<f64>("final_logit_softcapping")?.unwrap_or(30.0),
        "sliding_window": source.get::<u64>("attention.sliding_window")?.unwrap_or(4096),
        "layer_types": source.layer_types(|i| i % 2 == 0)?,
        "rope_parameters": source.rope(10_000.0)?,
    })));
    Ok(config)
}

/// Gemma 3, its text model: a window in all but every sixth layer, with a rotation of its own.
pub(super) fn gemma3(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.rms_norm("gemma3_text", "Gemma3ForCausalLM")?;
    // llama.cpp fixes the pattern and the local base for this architecture; the keys are newer
    let pattern = source.get::<u64>("attention.sliding_window_pattern")?.unwrap_or(6).max(1);
    let local = source.get::<f64>("rope.freq_base_swa")?.unwrap_or(10_000.0);
    config.extend(object(json!({
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": score_scalar(source, 62)?,
        "sliding_window": source.require::<u64>("attention.sliding_window")?,
        "layer_types": source.layer_types(|i| (i + 1) % pattern != 0)?,
        "rope_parameters": {
            "full_attention": source.rope(1_000_000.0)?,
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
    })));
    Ok(config)
}

/// What the scores are scaled by the root of: the width of a head, but for the 27B models, which are known by their
/// layers, the model's width per head.
fn score_scalar(source: &Source<'_>, layers_of_27b: u64) -> Result<u64> {
    let (hidden, heads) =
        (source.require::<u64>("embedding_length")?, source.require::<u64>("attention.head_count")?);
    match hidden.checked_div(heads) {
        Some(width) if source.layers()? == layers_of_27b => Ok(width),
        _ => source.head_dim(),
    }
}
