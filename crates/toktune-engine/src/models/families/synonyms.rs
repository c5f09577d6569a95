//! Keys of configurations that transformers knows by two names.

use crate::models::config::ModelConfig;

type Pairs = &'static [(&'static str, &'static str)];

const GPT2: Pairs = &[
    ("hidden_size", "n_embd"),
    ("max_position_embeddings", "n_positions"),
    ("num_attention_heads", "n_head"),
    ("num_hidden_layers", "n_layer"),
];
const BLOOM: Pairs = &[("num_hidden_layers", "n_layer"), ("num_attention_heads", "n_head")];
const DISTILBERT: Pairs =
    &[("hidden_size", "dim"), ("num_attention_heads", "n_heads"), ("num_hidden_layers", "n_layers")];
const T5: Pairs = &[
    ("hidden_size", "d_model"),
    ("num_attention_heads", "num_heads"),
    ("num_hidden_layers", "num_layers"),
    ("head_dim", "d_kv"),
];
const BART: Pairs = &[
    ("hidden_size", "d_model"),
    ("num_attention_heads", "encoder_attention_heads"),
    ("num_hidden_layers", "encoder_layers"),
];
const XGLM: Pairs = &[
    ("num_attention_heads", "attention_heads"),
    ("hidden_size", "d_model"),
    ("num_hidden_layers", "num_layers"),
];
const GPT_NEO: Pairs = &[("num_attention_heads", "num_heads"), ("num_hidden_layers", "num_layers")];
const MPT: Pairs =
    &[("num_attention_heads", "n_heads"), ("hidden_size", "d_model"), ("num_hidden_layers", "n_layers")];
const ERNIE_MOE: Pairs = &[("num_experts", "moe_num_experts"), ("num_experts_per_tok", "moe_k")];
const OLMOE: Pairs = &[("num_local_experts", "num_experts")];
const ROUTED_EXPERTS: Pairs = &[("num_local_experts", "n_routed_experts")];
const EXPERTS: Pairs = &[("num_experts", "num_local_experts")];

/// The `attribute_map` of a model's configuration in transformers 5: the name that all models have, and its own.
fn attribute_map(model_type: &str) -> Pairs {
    match model_type {
        "gpt2" | "gptj" | "gpt_bigcode" => GPT2,
        "xglm" => XGLM,
        "gpt_neo" => GPT_NEO,
        "mpt" => MPT,
        "ernie4_5_moe" => ERNIE_MOE,
        "olmoe" | "flex_olmo" => OLMOE,
        "glm4_moe" | "dots1" | "solar_open" => ROUTED_EXPERTS,
        "bloom" => BLOOM,
        "distilbert" => DISTILBERT,
        "t5" | "mt5" => T5,
        "bart" | "mbart" | "marian" | "pegasus" | "m2m_100" => BART,
        "mixtral" | "gpt_oss" => EXPERTS,
        _ => &[],
    }
}

/// The configuration with its own names alone. Where both are there the one that all models have is taken, as transformers
/// does.
pub(in crate::models) fn own_names(config: &ModelConfig) -> ModelConfig {
    let mut object = config.object().clone();
    for (common, own) in attribute_map(config.model_type()) {
        if let Some(value) = config.get(common) {
            object.insert((*own).into(), value.clone());
        }
    }
    ModelConfig::from_object(config.path(), object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_common_name_is_taken_where_both_are_there() {
        let config = |value: serde_json::Value| {
            ModelConfig::from_object("config.json", value.as_object().expect("an object").clone())
        };
        let both = config(json!({"model_type": "gpt2", "n_embd": 32, "hidden_size": 64, "n_layer": 3}));
        let own = own_names(&both);
        assert_eq!((own.size("n_embd").expect("a size"), own.size("n_layer").expect("a size")), (64, 3));
        let bart = own_names(&config(json!({"model_type": "bart", "d_model": 32, "hidden_size": 64})));
        assert_eq!(bart.size("d_model").expect("a size"), 64);
        let llama = own_names(&config(json!({"model_type": "llama", "hidden_size": 64})));
        assert!(!llama.has("d_model"));
    }
}
