//! The committed models that llama.cpp converts, changed where its files cannot hold what they are.

use super::HubModel;
use serde_json::{Value, json};

/// A model to be converted.
pub struct Case {
    /// The committed model.
    pub name: &'static str,
    /// Whether it is just that: then transformers' own logits are known.
    pub is_unchanged: bool,
    /// The model as a folder.
    pub model: HubModel,
}

fn unchanged(name: &'static str) -> Case {
    Case { name, is_unchanged: true, model: HubModel::read(name) }
}

fn changed(name: &'static str, change: impl Fn(HubModel) -> HubModel) -> Case {
    Case { name, is_unchanged: false, model: change(HubModel::read(name)) }
}

/// With these keys in the configuration.
fn with(name: &'static str, changes: Value) -> Case {
    changed(name, |model| model.with(changes.clone()))
}

/// A base that the converter leaves out: llama.cpp takes this one.
fn usual_rope() -> Value {
    json!({"rope_type": "default", "rope_theta": 10000.0})
}

/// The same, of a share of each head.
fn partial_rope(share: f64) -> Value {
    let mut rope = usual_rope();
    rope["partial_rotary_factor"] = share.into();
    json!({"rope_parameters": rope})
}

/// One case or more for every architecture that is read.
pub fn convertible() -> Vec<Case> {
    vec![
        unchanged("llama_tied"),
        unchanged("llama_untied"),
        unchanged("rope_linear"),
        unchanged("rope_yarn"),
        // the parameters that all models have, of which the file holds what they do to the frequencies
        with(
            "llama_rope3",
            json!({"rope_parameters": {
                "rope_type": "llama3", "rope_theta": 20000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            }}),
        ),
        // windows that files do not hold
        with(
            "mistral",
            json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "sliding_window": null}),
        ),
        with("qwen2", json!({"use_sliding_window": false, "layer_types": null, "sliding_window": null})),
        with("starcoder2", json!({"sliding_window": null})),
        unchanged("qwen3"),
        with("gemma", json!({"rope_parameters": usual_rope()})),
        with("gemma2", json!({"rope_parameters": usual_rope(), "query_pre_attn_scalar": 12})),
        // the pattern is fixed: a full layer after every five with a window
        changed("gemma3", |model| {
            model.repeated(2).with(json!({"query_pre_attn_scalar": 16, "layer_types": null}))
        }),
        unchanged("gpt2"),
        unchanged("phi3"),
        unchanged("phi3_longrope"),
        unchanged("granite"),
        unchanged("olmo2"),
        unchanged("olmo3"),
        unchanged("hunyuan"),
        // and so is this: a layer without rotation after every three with it
        changed("smollm3", |model| {
            model.repeated(2).with(json!({"no_rope_layers": [1, 1, 1, 0], "layer_types": null}))
        }),
        with("stablelm", partial_rope(0.25)),
        changed("stablelm", |model| {
            let model = model.without(&["post_attention_layernorm"]).with(partial_rope(0.25));
            model.with(json!({"use_parallel_residual": true}))
        }),
        with("falcon", json!({"rope_parameters": usual_rope(), "num_kv_heads": null})),
        // a file has no biases of its linear layers
        changed("falcon_new", |model| {
            let linears = ["query_key_value.bias", "dense.bias", "dense_h_to_4h.bias", "dense_4h_to_h.bias"];
            model.without(&linears).with(json!({"rope_parameters": usual_rope(), "bias": false}))
        }),
        unchanged("bloom"),
        with("gpt_neox", partial_rope(0.25)),
        with("gpt_neox_serial", partial_rope(1.0)),
        with("phi", partial_rope(0.4)),
        unchanged("cohere"),
        // the pattern is fixed here too
        changed("cohere2", |model| model.repeated(2).with(json!({"layer_types": null}))),
        unchanged("arcee"),
        unchanged("exaone4"),
        unchanged("exaone4_full"),
        unchanged("nemotron"),
        unchanged("olmo"),
    ]
}
