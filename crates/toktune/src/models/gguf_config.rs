//! A GGUF file's metadata as the `config.json` that transformers would have for the same model.
//!
//! Families then read one form only, and a model merged from a GGUF file gets a configuration of its own.

use super::config::ModelConfig;
use super::families::FAMILIES;
use super::rope::{RopeSpec, RopeVariant};
use crate::error::{Error, Result, nearest};
use crate::weights::{Checkpoint, Gguf, Metadata};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The configuration of the model in a GGUF file.
///
/// # Errors
/// The architecture is not supported, or a key it needs is missing or of another type.
pub(super) fn from_metadata(path: &Path, checkpoint: &Checkpoint, gguf: &Gguf) -> Result<ModelConfig> {
    let metadata = gguf.metadata();
    let architecture: &str = metadata.require("general.architecture")?;
    let mut object = match architecture {
        "llama" => llama(path, checkpoint, metadata)?,
        "gemma3" => gemma3(metadata)?,
        other => {
            let known = || FAMILIES.iter().filter_map(|f| f.gguf);
            return Err(Error::UnsupportedModel {
                path: path.to_path_buf(),
                found: format!("GGUF architecture '{other}'"),
                nearest: nearest(other, known()).map(str::to_string),
                supported: known().map(str::to_string).collect(),
            });
        }
    };
    for (key, stored) in [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
    ] {
        if let Some(id) = metadata.get::<u64>(stored)? {
            object.insert(key.into(), id.into());
        }
    }
    Ok(ModelConfig::from_object(path, object))
}

/// What every decoder has, under transformers' names.
fn common(metadata: &Metadata, prefix: &str) -> Result<Map<String, Value>> {
    let key = |name: &str| format!("{prefix}.{name}");
    let heads: u64 = metadata.require(&key("attention.head_count"))?;
    let hidden: u64 = metadata.require(&key("embedding_length"))?;
    let kv_heads = metadata.get::<u64>(&key("attention.head_count_kv"))?.unwrap_or(heads);
    let head_dim = match metadata.get::<u64>(&key("attention.key_length"))? {
        Some(length) => Some(length),
        None => hidden.checked_div(heads),
    };
    let object = json!({
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": metadata.require::<u64>(&key("feed_forward_length"))?,
        "num_hidden_layers": metadata.require::<u64>(&key("block_count"))?,
        "max_position_embeddings": metadata.get::<u64>(&key("context_length"))?,
        "rms_norm_eps": metadata.require::<f64>(&key("attention.layer_norm_rms_epsilon"))?,
    });
    let Value::Object(object) = object else { return Ok(Map::new()) };
    Ok(object)
}

/// Tokens of the vocabulary: the file's own list is the measure, as for llama.cpp.
fn vocabulary(metadata: &Metadata) -> Result<Value> {
    let tokens = metadata.require::<&[String]>("tokenizer.ggml.tokens")?;
    Ok(tokens.len().into())
}

/// The tensor in which llama.cpp's converter stores what each rotary frequency is divided by.
const ROPE_DIVISORS: &str = "rope_freqs.weight";

fn llama(path: &Path, checkpoint: &Checkpoint, metadata: &Metadata) -> Result<Map<String, Value>> {
    let mut object = common(metadata, "llama")?;
    let theta = metadata.get::<f64>("llama.rope.freq_base")?.unwrap_or(10_000.0);
    let mut rope = json!({"rope_type": "default", "rope_theta": theta});
    if let Some(factor) = linear_factor(metadata, "llama")? {
        rope = json!({"rope_type": "linear", "rope_theta": theta, "factor": factor});
    }
    if let Some(shape) = checkpoint.shape(ROPE_DIVISORS) {
        let divisors = checkpoint.vector(ROPE_DIVISORS, shape.iter().product())?;
        rope = llama3(path, &divisors, theta)?;
    }
    object.insert("model_type".into(), "llama".into());
    object.insert("architectures".into(), json!(["LlamaForCausalLM"]));
    object.insert("vocab_size".into(), vocabulary(metadata)?);
    object.insert("hidden_act".into(), "silu".into());
    object.insert("rope_parameters".into(), rope);
    Ok(object)
}

/// The factor of linear rope scaling, under its present and its former key.
fn linear_factor(metadata: &Metadata, prefix: &str) -> Result<Option<f64>> {
    if let Some("none") = metadata.get::<&str>(&format!("{prefix}.rope.scaling.type"))? {
        return Ok(None);
    }
    let factor = match metadata.get::<f64>(&format!("{prefix}.rope.scaling.factor"))? {
        Some(factor) => Some(factor),
        None => metadata.get::<f64>(&format!("{prefix}.rope.scale_linear"))?,
    };
    Ok(factor.filter(|f| *f != 1.0))
}

/// The parameters of `llama3` scaling from the divisors the converter made of them.
///
/// The file holds the divisors only. The factor is the largest; the other parameters have been the same in every model
/// released, and the divisors they give are compared with those in the file, so that a new set is refused, not guessed.
fn llama3(path: &Path, divisors: &[f32], theta: f64) -> Result<Value> {
    let factor = divisors.iter().copied().fold(1.0f32, f32::max) as f64;
    let rope = json!({
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let config =
        |value: &Value| ModelConfig::from_object(path, value.as_object().cloned().unwrap_or_default());
    let dim = 2 * divisors.len();
    let plain = RopeSpec { theta, dim, variant: RopeVariant::Default }.frequencies(0).values;
    let section = config(&rope);
    let scaled = RopeSpec::read(&section, Some(&section), None, dim)?.frequencies(0).values;
    let same = plain.iter().zip(&scaled).zip(divisors).all(|((p, s), d)| (p / s - d).abs() <= 1e-3 * d);
    if same {
        Ok(rope)
    } else {
        Err(config(&rope).error(ROPE_DIVISORS, "the divisors are not those of llama3 scaling"))
    }
}

fn gemma3(metadata: &Metadata) -> Result<Map<String, Value>> {
    let mut object = common(metadata, "gemma3")?;
    let layers: u64 = metadata.require("gemma3.block_count")?;
    // llama.cpp fixes the pattern and the local base for this architecture; the keys are newer
    let pattern = metadata.get::<u64>("gemma3.attention.sliding_window_pattern")?.unwrap_or(6).max(1);
    let local = metadata.get::<f64>("gemma3.rope.freq_base_swa")?.unwrap_or(10_000.0);
    let theta = metadata.get::<f64>("gemma3.rope.freq_base")?.unwrap_or(1_000_000.0);
    let mut full = json!({"rope_type": "default", "rope_theta": theta});
    if let Some(factor) = linear_factor(metadata, "gemma3")? {
        full = json!({"rope_type": "linear", "rope_theta": theta, "factor": factor});
    }
    let kinds: Vec<&str> = (1..=layers.min(1 << 16))
        .map(|i| if i % pattern == 0 { "full_attention" } else { "sliding_attention" })
        .collect();
    // The 27B model scales its scores by its width per head, all others by the head's width.
    let (hidden, heads): (u64, u64) =
        (metadata.require("gemma3.embedding_length")?, metadata.require("gemma3.attention.head_count")?);
    let scalar = if layers == 62 { hidden.checked_div(heads) } else { object["head_dim"].as_u64() };
    object.insert("model_type".into(), "gemma3_text".into());
    object.insert("architectures".into(), json!(["Gemma3ForCausalLM"]));
    object.insert("vocab_size".into(), vocabulary(metadata)?);
    object.insert("hidden_activation".into(), "gelu_pytorch_tanh".into());
    object.insert("query_pre_attn_scalar".into(), scalar.into());
    object
        .insert("sliding_window".into(), metadata.require::<u64>("gemma3.attention.sliding_window")?.into());
    object.insert("layer_types".into(), kinds.into());
    object.insert(
        "rope_parameters".into(),
        json!({"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": local}}),
    );
    Ok(object)
}
