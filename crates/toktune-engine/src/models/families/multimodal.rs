//! The text part of models that read images too: a decoder beneath `model.language_model`, described by `text_config`.
//!
//! Without an image in a row such a model computes what its decoder does: the positions of Qwen's three axes are equal
//! then, which is the plain rotation. The vision tower and the projector are neither loaded nor changed.

use super::{Family, gemma3, llama, llama4, ministral, mistral, qwen};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, LLAMA_STACK, ModelNames};
use crate::models::spec::ModelSpec;
use serde_json::json;

/// A family whose text part is a decoder of another.
const fn family(
    name: &'static str,
    model_types: &'static [&'static str],
    architecture: &'static str,
    examples: &'static [&'static str],
    spec: fn(&ModelConfig) -> Result<ModelSpec>,
) -> Family {
    Family { name, model_types, architecture, examples, gguf: None, columns: false, spec }
}

pub(super) const GEMMA3: Family = family(
    "Gemma 3 with images",
    &["gemma3"],
    "Gemma3ForConditionalGeneration",
    &["google/gemma-3-4b-it", "google/gemma-3-12b-it"],
    |config| read(config, &FORMER, "gemma3_text", config.flag("tie_word_embeddings", true)?),
);

pub(super) const LLAVA: Family = family(
    "Llava",
    &["llava"],
    "LlavaForConditionalGeneration",
    &["llava-hf/llava-1.5-7b-hf", "mistral-community/pixtral-12b"],
    |config| read(config, &FORMER, "llama", tied_anywhere(config)?),
);

pub(super) const MISTRAL3: Family = family(
    "Mistral 3",
    &["mistral3"],
    "Mistral3ForConditionalGeneration",
    &["mistralai/Mistral-Small-3.1-24B-Instruct-2503", "mistralai/Ministral-3-8B-Instruct-2512"],
    |config| read(config, &FORMER, "mistral", config.flag("tie_word_embeddings", true)?),
);

pub(super) const LLAMA4: Family = family(
    "Llama 4 with images",
    &["llama4"],
    "Llama4ForConditionalGeneration",
    &["meta-llama/Llama-4-Scout-17B-16E-Instruct", "meta-llama/Llama-4-Maverick-17B-128E-Instruct"],
    whole_beneath,
);

pub(super) const QWEN2_VL: Family = family(
    "Qwen 2 VL",
    &["qwen2_vl"],
    "Qwen2VLForConditionalGeneration",
    &["Qwen/Qwen2-VL-2B-Instruct"],
    |config| read(config, &FORMER_QWEN, "qwen2_vl_text", tied_anywhere(config)?),
);

pub(super) const QWEN2_5_VL: Family = family(
    "Qwen 2.5 VL",
    &["qwen2_5_vl"],
    "Qwen2_5_VLForConditionalGeneration",
    &["Qwen/Qwen2.5-VL-3B-Instruct"],
    |config| read(config, &FORMER_QWEN, "qwen2_5_vl_text", tied_anywhere(config)?),
);

pub(super) const QWEN3_VL: Family = family(
    "Qwen 3 VL",
    &["qwen3_vl"],
    "Qwen3VLForConditionalGeneration",
    &["Qwen/Qwen3-VL-2B-Instruct"],
    |config| read(config, &FORMER_QWEN, "qwen3_vl_text", config.flag("tie_word_embeddings", false)?),
);

/// Those of this file.
pub(super) const ALL: [&Family; 7] = [&GEMMA3, &LLAVA, &MISTRAL3, &LLAMA4, &QWEN2_VL, &QWEN2_5_VL, &QWEN3_VL];

/// The module that the decoder is, with its dot.
const INNER: &str = "model.language_model.";

/// How checkpoints of before transformers 4.52 name the tensors, which transformers 5 writes still.
const FORMER: Aliases = [(INNER, "language_model.model."), ("lm_head.", "language_model.lm_head.")];

/// The same of Qwen's.
const FORMER_QWEN: Aliases = [(INNER, "model."), (INNER, "language_model.model.")];

type Aliases = [(&'static str, &'static str); 2];

/// The flag as models have it that once kept it with the text part.
fn tied_anywhere(config: &ModelConfig) -> Result<bool> {
    let nested =
        config.section("text_config").map(|text| text.flag("tie_word_embeddings", false)).transpose()?;
    Ok(config.flag("tie_word_embeddings", false)? || nested.unwrap_or(false))
}

fn read(
    config: &ModelConfig,
    aliases: &'static Aliases,
    default_type: &'static str,
    tied: bool,
) -> Result<ModelSpec> {
    let text = config.text_part();
    // the first of Qwen's have the keys of the text part at the top, with the type of the whole
    let own_type = match text.model_type() {
        "" => default_type,
        top if top == config.model_type() => default_type,
        own => own,
    };
    let text = with_defaults(&text, own_type);
    let mut spec = match own_type {
        "gemma3_text" => gemma3::spec(&text)?,
        "llama" => llama::spec(&text)?,
        "mistral" => mistral::spec(&text)?,
        "ministral3" => ministral::spec_3(&text)?,
        "qwen2" | "qwen2_vl_text" | "qwen2_5_vl_text" => qwen::spec_2(&text)?,
        "qwen3" | "qwen3_vl_text" => qwen::spec_3(&text)?,
        other => {
            let expected = "gemma3_text, llama, mistral, ministral3, qwen2 or qwen3, or Qwen's own";
            return Err(config.error("text_config.model_type", format!("expected {expected}, found {other}")));
        }
    };
    spec.tied = tied;
    spec.names = ModelNames { embed: "model.language_model.embed_tokens", aliases, ..LLAMA_MODEL };
    spec.stack.names.block = "model.language_model.layers.{}";
    spec.stack.names.final_norm = LLAMA_STACK.final_norm.map(|_| "model.language_model.norm");
    Ok(spec)
}

/// A model whose text part is a whole one with a head of its own, beneath `language_model` (Llama 4).
fn whole_beneath(config: &ModelConfig) -> Result<ModelSpec> {
    if tied_anywhere(config)? {
        return Err(config.error("tie_word_embeddings", "true is not supported beside images"));
    }
    let mut spec = llama4::spec(&with_defaults(&config.text_part(), "llama4_text"))?;
    spec.names = ModelNames {
        embed: "language_model.model.embed_tokens",
        head: "language_model.lm_head",
        ..LLAMA_MODEL
    };
    spec.stack.names.block = "language_model.model.layers.{}";
    spec.stack.names.final_norm = Some("language_model.model.norm");
    Ok(spec)
}

/// The text part with what transformers takes where it says nothing: configurations are saved without what is usual.
fn with_defaults(text: &ModelConfig, model_type: &str) -> ModelConfig {
    let usual = match model_type {
        "gemma3_text" => json!({
            "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131_072,
        }),
        "ministral3" => json!({
            "vocab_size": 131_072, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 34,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262_144,
        }),
        "llama4_text" => json!({
            "vocab_size": 202_048, "hidden_size": 5120, "intermediate_size": 8192, "num_hidden_layers": 48,
            "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131_072,
        }),
        "mistral" => json!({
            "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131_072,
        }),
        "qwen2_vl_text" | "qwen2_5_vl_text" => json!({
            "vocab_size": 152_064, "hidden_size": 8192, "intermediate_size": 29_568, "num_hidden_layers": 80,
            "num_attention_heads": 64, "num_key_value_heads": 8, "max_position_embeddings": 32_768,
            "rms_norm_eps": 1e-5, "max_window_layers": 80, "rope_theta": 1_000_000.0,
        }),
        "qwen3_vl_text" => json!({
            "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 22_016, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128,
            "max_position_embeddings": 128_000, "rope_theta": 500_000.0,
        }),
        "qwen2" | "qwen3" => json!({
            "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 22_016, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32_768,
        }),
        _ => json!({
            "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "max_position_embeddings": 2048,
        }),
    };
    let mut object = text.object().clone();
    for (key, value) in usual.as_object().into_iter().flatten() {
        object.entry(key).or_insert_with(|| value.clone());
    }
    ModelConfig::from_object(text.path(), object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::families::of_model_type;
    use serde_json::Value;

    fn spec(value: Value) -> Result<ModelSpec> {
        let config = ModelConfig::from_object("config.json", value.as_object().expect("an object").clone());
        (of_model_type(&config)?.spec)(&config)
    }

    /// As the Hub has them, which leaves out what is usual.
    #[test]
    fn what_a_configuration_leaves_out_is_what_transformers_takes() {
        let gemma = spec(json!({"model_type": "gemma3", "text_config": {
            "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
        }}))
        .expect("gemma-3-4b");
        let of = &gemma.stack.attention;
        assert_eq!((of.heads, of.kv_heads, of.head_dim, gemma.vocab_size), (8, 4, 256, 262_208));
        assert!(
            gemma.tied
                && gemma.stack.layers[5].window.is_none()
                && gemma.stack.layers[4].window == Some(1024)
        );
        let llava = spec(json!({"model_type": "llava", "text_config": {
            "model_type": "llama", "rms_norm_eps": 1e-5, "vocab_size": 32064, "max_position_embeddings": 4096,
        }}))
        .expect("llava-1.5-7b");
        let of = (&llava.stack.attention, llava.stack.hidden_size, llava.stack.layers.len());
        assert_eq!((of.0.heads, of.0.kv_heads, of.0.head_dim, of.1, of.2), (32, 32, 128, 4096, 32));
        let qwen = spec(json!({
            "model_type": "qwen2_5_vl", "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
            "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151_936, "rope_theta": 1e6,
            "use_sliding_window": false, "sliding_window": 32768, "max_window_layers": 70, "tie_word_embeddings": true,
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        }))
        .expect("Qwen2.5-VL-3B");
        assert!(qwen.tied && qwen.stack.layers.iter().all(|layer| layer.window.is_none()));
        assert_eq!((qwen.stack.ropes[0].theta, qwen.stack.attention.qkv_bias), (1e6, true));
    }

    #[test]
    fn flags_of_tying_count_where_transformers_reads_them() {
        for (model_type, top, nested, expected) in [
            ("llava", None, Some(true), true),
            ("qwen2_vl", Some(false), Some(true), true),
            ("qwen3_vl", None, Some(true), false),
            ("qwen3_vl", Some(true), None, true),
            ("mistral3", None, Some(false), true),
            ("mistral3", Some(false), Some(true), false),
            ("gemma3", Some(false), Some(true), false),
        ] {
            let mut config = json!({"model_type": model_type, "text_config": {}});
            for (flag, at) in [(top, "/"), (nested, "/text_config")] {
                let object = if at == "/" { Some(&mut config) } else { config.pointer_mut(at) };
                if let (Some(flag), Some(Value::Object(object))) = (flag, object) {
                    object.insert("tie_word_embeddings".into(), flag.into());
                }
            }
            assert_eq!(spec(config.clone()).expect("a description").tied, expected, "{config}");
        }
        let error =
            spec(json!({"model_type": "llava", "text_config": {"model_type": "phi"}})).expect_err("refused");
        assert!(error.to_string().contains("text_config.model_type"), "{error}");
    }
}
