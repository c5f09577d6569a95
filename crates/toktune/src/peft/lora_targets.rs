//! The linear layers that PEFT adapts when a configuration names none, by the model's type.

/// PEFT 0.21's `TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING`, for the models that are here.
const TARGETS: [(&[&str], &[&str]); 8] = [
    (
        &[
            "llama",
            "mistral",
            "mixtral",
            "gemma",
            "gemma2",
            "gemma3_text",
            "qwen2",
            "qwen3",
            "opt",
            "stablelm",
            "bart",
            "gptj",
            "gpt_neo",
            "llama4",
        ],
        &["q_proj", "v_proj"],
    ),
    (&["gpt_neox", "bloom", "falcon", "RefinedWeb", "RefinedWebModel"], &["query_key_value"]),
    (&["bert", "roberta", "xlm-roberta", "electra"], &["query", "value"]),
    (&["t5", "mt5"], &["q", "v"]),
    (&["gpt2", "gpt_bigcode"], &["c_attn"]),
    (&["mpt"], &["Wqkv"]),
    (&["phi"], &["q_proj", "v_proj", "fc1", "fc2"]),
    (&["deberta-v2"], &["query_proj", "value_proj"]),
];

/// The names that PEFT takes for models of `model_type`; `None` where it asks for them.
pub(super) fn default_targets(model_type: &str) -> Option<&'static [&'static str]> {
    TARGETS.iter().find(|(types, _)| types.contains(&model_type)).map(|(_, targets)| *targets)
}
