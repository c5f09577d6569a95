//! Decoders with layer norms: GPT-2, StarCoder 2, StableLM, Falcon, BLOOM, GPT-NeoX, Phi, Cohere, Nemotron, OLMo.

use super::{Source, object};
use crate::error::Result;
use serde_json::{Map, Value, json};

/// GPT-2. Query, key and value lie in one tensor `attn_qkv`, in this order; all matrices are stored as linear layers
/// have them, `[out, in]`, where transformers' own (`Conv1D`) are `[in, out]`; the positions' embedding is
/// `position_embd`. Old files hold a copy of the embedding as `output`, though the head is always tied.
pub(super) fn gpt2(source: &Source<'_>) -> Result<Map<String, Value>> {
    Ok(object(json!({
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": source.vocabulary()?,
        "n_embd": source.require::<u64>("embedding_length")?,
        "n_head": source.require::<u64>("attention.head_count")?,
        "n_layer": source.layers()?,
        "n_inner": source.require::<u64>("feed_forward_length")?,
        "n_positions": source.require::<u64>("context_length")?,
        "layer_norm_epsilon": epsilon(source)?,
        "activation_function": "gelu_new",
        "tie_word_embeddings": source.tied(),
    })))
}

/// StarCoder 2. Its window (4096 in all released models) is not in the file: llama.cpp has none, so longer
/// sequences are not those of transformers.
pub(super) fn starcoder2(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.common("starcoder2", "Starcoder2ForCausalLM")?;
    config.extend(object(json!({
        "hidden_act": "gelu_pytorch_tanh",
        "norm_epsilon": epsilon(source)?,
        "use_bias": source.has("blk.0.attn_q.bias"),
        "rope_parameters": source.rope(10_000.0)?,
    })));
    Ok(config)
}

/// StableLM. The key `use_parallel_residual` is true where the original says nothing and means false, so that the
/// tensors are asked, as llama.cpp does: without a norm before the MLP it runs beside the attention. The norms of
/// the heads of queries and keys are stacked, `[heads, head_dim]`. The base of the rotation is not in the file; it
/// is 10000 in all models.
pub(super) fn stablelm(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.common("stablelm", "StableLmForCausalLM")?;
    let (rope, _) = partial_rope(source)?;
    config.extend(object(json!({
        "hidden_act": "silu",
        "layer_norm_eps": epsilon(source)?,
        "use_qkv_bias": source.has("blk.0.attn_q.bias"),
        "qk_layernorm": source.has("blk.0.attn_q_norm.weight"),
        "use_parallel_residual": !source.has("blk.0.ffn_norm.weight"),
        "rope_parameters": rope,
    })));
    Ok(config)
}

/// Falcon 7B, 40B and 180B. The rows of `attn_qkv` are all queries, all keys, all values, where transformers' own
/// are grouped by the heads of keys; with a single such head that is the same. The larger two norm attention and
/// MLP apart (`attn_norm_2` and `attn_norm`: `ln_attn` and `ln_mlp`).
///
/// Falcon2-11B has several heads of keys and one norm, and a base of the rotation that its files do not hold: it is
/// refused.
pub(super) fn falcon(source: &Source<'_>) -> Result<Map<String, Value>> {
    let heads: u64 = source.require("attention.head_count")?;
    let kv_heads = source.get::<u64>("attention.head_count_kv")?.unwrap_or(1);
    let two_norms = source.has("blk.0.attn_norm_2.weight");
    if kv_heads != 1 && !two_norms {
        let problem = format!(
            "{kv_heads} without blk.0.attn_norm_2: Falcon2-11B, whose rotation the file does not tell, is not supported"
        );
        return Err(source.error("attention.head_count_kv", problem));
    }
    if source.has("blk.0.attn_qkv.bias") {
        let problem = "a Falcon with biases, which llama.cpp does not convert, is not supported";
        return Err(source.config(&Value::Null).error("blk.0.attn_qkv.bias", problem));
    }
    Ok(object(json!({
        "model_type": "falcon",
        "architectures": ["FalconForCausalLM"],
        "vocab_size": source.vocabulary()?,
        "hidden_size": source.require::<u64>("embedding_length")?,
        "num_attention_heads": heads,
        "num_kv_heads": kv_heads,
        "ffn_hidden_size": source.require::<u64>("feed_forward_length")?,
        "num_hidden_layers": source.layers()?,
        "max_position_embeddings": source.get::<u64>("context_length")?.unwrap_or(2048),
        "layer_norm_epsilon": epsilon(source)?,
        "new_decoder_architecture": two_norms,
        "multi_query": !two_norms,
        "parallel_attn": true,
        "alibi": false,
        "bias": false,
        "activation": "gelu",
        "rope_parameters": source.rope(10_000.0)?,
        "tie_word_embeddings": source.tied(),
    })))
}

/// BLOOM. The rows of `attn_qkv` are all queries, all keys, all values, where transformers' own are
/// `[heads, 3, head_dim]`; the norm behind the embedding is `token_embd_norm`.
pub(super) fn bloom(source: &Source<'_>) -> Result<Map<String, Value>> {
    Ok(object(json!({
        "model_type": "bloom",
        "architectures": ["BloomForCausalLM"],
        "vocab_size": source.vocabulary()?,
        "hidden_size": source.require::<u64>("embedding_length")?,
        "n_head": source.require::<u64>("attention.head_count")?,
        "n_layer": source.layers()?,
        "seq_length": source.get::<u64>("context_length")?,
        "layer_norm_epsilon": epsilon(source)?,
        "tie_word_embeddings": source.tied(),
    })))
}

/// GPT-NeoX, and so Pythia. The rows of `attn_qkv` are moved as BLOOM's. The base of the rotation is not in the file; it is
/// 10000 in all models. Neither is the activation, which is exact in Pythia and approximate in GPT-NeoX-20B.
pub(super) fn gpt_neox(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.common("gpt_neox", "GPTNeoXForCausalLM")?;
    let (rope, share) = partial_rope(source)?;
    config.extend(object(json!({
        "hidden_act": "gelu",
        "layer_norm_eps": epsilon(source)?,
        "attention_bias": source.has("blk.0.attn_qkv.bias"),
        "use_parallel_residual": source.get::<bool>("use_parallel_residual")?.unwrap_or(true),
        // the names until transformers 5
        "rotary_pct": share,
        "rotary_emb_base": rope["rope_theta"],
        "rope_parameters": rope,
    })));
    Ok(config)
}

/// Phi 1, 1.5 and 2. The base of the rotation is not in the file; it is 10000 in all models.
pub(super) fn phi(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.common("phi", "PhiForCausalLM")?;
    let (rope, _) = partial_rope(source)?;
    config.extend(object(json!({
        "hidden_act": "gelu_new",
        "layer_norm_eps": epsilon(source)?,
        "rope_parameters": rope,
    })));
    Ok(config)
}

/// Cohere (Command-R), with norms of its heads or without.
pub(super) fn cohere(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.common("cohere", "CohereForCausalLM")?;
    config.extend(object(json!({
        "hidden_act": "silu",
        "layer_norm_eps": epsilon(source)?,
        "logit_scale": source.require::<f64>("logit_scale")?,
        "attention_bias": source.has("blk.0.attn_q.bias"),
        "use_qk_norm": source.has("blk.0.attn_q_norm.weight"),
        "rope_parameters": source.rope(10_000.0)?,
    })));
    Ok(config)
}

/// Cohere 2: a window in three layers of four, or where the file's list says.
pub(super) fn cohere2(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.common("cohere2", "Cohere2ForCausalLM")?;
    config.extend(object(json!({
        "hidden_act": "silu",
        "layer_norm_eps": epsilon(source)?,
        "logit_scale": source.require::<f64>("logit_scale")?,
        "sliding_window": source.require::<u64>("attention.sliding_window")?,
        "layer_types": source.windows()?,
        "attention_bias": false,
        "rope_parameters": source.rope(10_000.0)?,
    })));
    Ok(config)
}

/// Nemotron: an MLP without a gate, whose activation is fixed. The weights of its norms have 1 in them already.
pub(super) fn nemotron(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.common("nemotron", "NemotronForCausalLM")?;
    let (rope, _) = partial_rope(source)?;
    config.extend(object(json!({
        "hidden_act": "relu2",
        "norm_eps": epsilon(source)?,
        "attention_bias": source.has("blk.0.attn_q.bias"),
        "mlp_bias": source.has("blk.0.ffn_up.bias"),
        "rope_parameters": rope,
    })));
    Ok(config)
}

/// OLMo: norms without weights.
pub(super) fn olmo(source: &Source<'_>) -> Result<Map<String, Value>> {
    let mut config = source.common("olmo", "OlmoForCausalLM")?;
    config.extend(object(json!({
        "hidden_act": "silu",
        "clip_qkv": source.get::<f64>("attention.clamp_kqv")?.filter(|limit| *limit > 0.0),
        "attention_bias": source.has("blk.0.attn_q.bias"),
        "rope_parameters": source.rope(10_000.0)?,
    })));
    Ok(config)
}

/// A rotation of a share of each head, and the share.
fn partial_rope(source: &Source<'_>) -> Result<(Map<String, Value>, f64)> {
    let mut rope = object(source.rope(10_000.0)?);
    let head_dim = source.head_dim()?;
    let rotated = source.get::<u64>("rope.dimension_count")?.unwrap_or(head_dim);
    let share = rotated as f64 / head_dim.max(1) as f64;
    rope.insert("partial_rotary_factor".into(), share.into());
    Ok((rope, share))
}

fn epsilon(source: &Source<'_>) -> Result<f64> {
    source.require("attention.layer_norm_epsilon")
}
