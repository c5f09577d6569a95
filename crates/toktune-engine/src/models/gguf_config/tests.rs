//! Metadata as llama.cpp's converter writes it, and the configurations that it was made from.

use super::*;
use toktune_weights::testing::{GgufBytes, array, text};

/// A file with the keys that every architecture has.
struct File(&'static str, GgufBytes);

impl File {
    fn new(architecture: &'static str) -> Self {
        let tokens = array(8, 3, &["a", "b", "c"].map(text).concat());
        let bytes = GgufBytes::new()
            .pair("general.architecture", 8, &text(architecture))
            .pair("tokenizer.ggml.tokens", 9, &tokens)
            .pair("tokenizer.ggml.eos_token_id", 4, &2u32.to_le_bytes());
        let file = File(architecture, bytes);
        [
            ("embedding_length", 64),
            ("attention.head_count", 4),
            ("block_count", 4),
            ("feed_forward_length", 96),
            ("context_length", 512),
        ]
        .into_iter()
        .fold(file, |file, (key, value)| file.number(key, value))
    }

    fn number(self, key: &str, value: u32) -> Self {
        let key = format!("{}.{key}", self.0);
        File(self.0, self.1.pair(key, 4, &value.to_le_bytes()))
    }

    fn float(self, key: &str, value: f32) -> Self {
        let key = format!("{}.{key}", self.0);
        File(self.0, self.1.pair(key, 6, &value.to_le_bytes()))
    }

    fn text(self, key: &str, value: &str) -> Self {
        let key = format!("{}.{key}", self.0);
        File(self.0, self.1.pair(key, 8, &text(value)))
    }

    fn flag(self, key: &str, value: bool) -> Self {
        let key = format!("{}.{key}", self.0);
        File(self.0, self.1.pair(key, 7, &[value.into()]))
    }

    fn tensor(self, name: &str, values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        File(self.0, self.1.tensor(name, &[values.len() as u64], 0, &bytes))
    }

    fn read(&self) -> Result<Map<String, Value>> {
        let path = Path::new("m.gguf");
        let gguf = Gguf::from_bytes(path, toktune_weights::Bytes::owned(self.1.build()))?;
        let checkpoint = Checkpoint::Gguf(gguf);
        let Checkpoint::Gguf(gguf) = &checkpoint else { unreachable!("made above") };
        from_metadata(path, &checkpoint, gguf).map(|config| config.object().clone())
    }

    /// Compares what is expected; numbers to the precision of `f32`.
    #[track_caller]
    fn gives(&self, expected: Value) {
        let found = self.read().expect("translated");
        for (key, expected) in expected.as_object().expect("an object") {
            let value = found.get(key).unwrap_or(&Value::Null);
            assert!(same(value, expected), "{}: {key} is {value}, not {expected}", self.0);
        }
        assert_eq!((&found["vocab_size"], &found["eos_token_id"]), (&json!(3), &json!(2)));
        let listed = ARCHITECTURES.iter().any(|(name, _)| *name == self.0);
        assert!(listed && found["architectures"][0].is_string());
    }

    fn refused(&self) -> String {
        self.read().expect_err("refused").to_string()
    }
}

fn same(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            found.len() == expected.len()
                && expected.iter().all(|(key, value)| found.get(key).is_some_and(|found| same(found, value)))
        }
        (Value::Array(found), Value::Array(expected)) => {
            found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| same(a, b))
        }
        _ => match (found.as_f64(), expected.as_f64()) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * b.abs(),
            _ => found == expected,
        },
    }
}

fn rms(architecture: &'static str) -> File {
    File::new(architecture).float("attention.layer_norm_rms_epsilon", 1e-6)
}

fn layer(architecture: &'static str) -> File {
    File::new(architecture).float("attention.layer_norm_epsilon", 1e-5)
}

#[test]
fn llama_and_its_kin() {
    let common = json!({
        "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "intermediate_size": 96, "num_hidden_layers": 4, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
        "hidden_act": "silu", "tie_word_embeddings": true,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    });
    let keys = |file: File| file.number("attention.head_count_kv", 2).float("rope.freq_base", 500.0);
    keys(rms("llama")).gives(common);
    keys(rms("granite"))
        .float("attention.scale", 0.015625)
        .float("embedding_scale", 12.0)
        .float("residual_scale", 0.22)
        .float("logit_scale", 8.0)
        .gives(json!({
            "model_type": "granite", "attention_multiplier": 0.015625, "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22, "logits_scaling": 8.0, "attention_bias": false, "mlp_bias": false,
        }));
    keys(rms("granite")).gives(json!({"attention_multiplier": 1.0, "logits_scaling": 1.0}));
    keys(rms("smollm3")).tensor("output.weight", &[0.0]).gives(json!({
        "model_type": "smollm3", "no_rope_layers": [1, 1, 1, 0], "tie_word_embeddings": false,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    }));
}

#[test]
fn qwen_and_olmo() {
    let file = || rms("qwen2").float("rope.freq_base", 1e6);
    file().gives(
        json!({"model_type": "qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    );
    let yarn = || file().text("rope.scaling.type", "yarn").float("rope.scaling.factor", 4.0);
    yarn()
        .number("rope.scaling.original_context_length", 128)
        .float("rope.scaling.yarn_beta_fast", 16.0)
        .gives(json!({
            "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0,
                "original_max_position_embeddings": 128, "beta_fast": 16.0},
        }));
    assert!(yarn().refused().contains("there is no metadata 'qwen2.rope.scaling.original_context_length'"));
    rms("qwen3").number("attention.key_length", 32).tensor("blk.0.attn_q.bias", &[0.0]).gives(json!({
        "model_type": "qwen3", "head_dim": 32, "attention_bias": true, "architectures": ["Qwen3ForCausalLM"],
    }));
    rms("olmo2").gives(json!({"model_type": "olmo2", "attention_bias": false, "hidden_act": "silu"}));
    // OLMo 3 is known by its window; its scaling is that of the layers without one
    let windowed = || {
        rms("olmo2")
            .number("attention.sliding_window", 8)
            .float("rope.freq_base", 500.0)
            .text("rope.scaling.type", "linear")
            .float("rope.scaling.factor", 4.0)
    };
    let expected = |kinds: [&str; 4]| {
        json!({
            "model_type": "olmo3", "sliding_window": 8,
            "layer_types": kinds.map(|kind| format!("{kind}_attention")),
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
            },
        })
    };
    windowed().gives(expected(["sliding", "sliding", "sliding", "full"]));
    let listed = |flags: &[u8]| {
        let File(name, bytes) = windowed();
        let list = array(7, flags.len() as u64, flags);
        File(name, bytes.pair("olmo2.attention.sliding_window_pattern", 9, &list))
    };
    listed(&[0, 1, 0, 1]).gives(expected(["full", "sliding", "full", "sliding"]));
    let message = listed(&[0, 1]).refused();
    assert!(message.contains("sliding_window_pattern: expected 4 flags, one a layer, found 2"), "{message}");
    rms("hunyuan-dense").number("attention.key_length", 32).float("rope.freq_base", 99.0).gives(json!({
        "model_type": "hunyuan_v1_dense", "head_dim": 32, "architectures": ["HunYuanDenseV1ForCausalLM"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 99.0},
    }));
}

#[test]
fn phi() {
    rms("phi3")
        .number("attention.sliding_window", 2047)
        .number("rope.scaling.original_context_length", 512)
        .gives(json!({
            "model_type": "phi3", "sliding_window": 2047, "original_max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        }));
    let long = rms("phi3")
        .number("attention.sliding_window", 0)
        .number("rope.scaling.original_context_length", 128)
        .number("rope.dimension_count", 12)
        .float("rope.scaling.attn_factor", 1.19)
        .tensor("rope_factors_long.weight", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .tensor("rope_factors_short.weight", &[1.0, 1.0, 1.5, 1.5, 2.0, 2.0]);
    long.gives(json!({
        "sliding_window": null, "original_max_position_embeddings": 128, "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, "attention_factor": 1.19,
            "partial_rotary_factor": 0.75, "original_max_position_embeddings": 128,
            "long_factor": [1, 2, 3, 4, 5, 6], "short_factor": [1, 1, 1.5, 1.5, 2, 2]},
    }));
    // and what reads config.json takes it
    let config = ModelConfig::from_object("m.gguf", long.read().expect("translated"));
    let rope =
        RopeSpec::read(&config, config.section("rope_parameters").as_ref(), None, 16).expect("a rotation");
    assert_eq!((rope.dim, rope.frequencies(129).values.len(), rope.frequencies(1).scale), (12, 6, 1.19));
}

#[test]
fn gemma() {
    rms("gemma").number("attention.key_length", 32).gives(json!({
        "model_type": "gemma", "head_dim": 32, "hidden_act": "gelu_pytorch_tanh",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }));
    let alternating = json!(["sliding_attention", "full_attention", "sliding_attention", "full_attention"]);
    rms("gemma2")
        .number("attention.key_length", 32)
        .number("attention.sliding_window", 8)
        .float("attn_logit_softcapping", 40.0)
        .gives(json!({
            "model_type": "gemma2", "attn_logit_softcapping": 40.0, "final_logit_softcapping": 30.0,
            "sliding_window": 8, "query_pre_attn_scalar": 32, "layer_types": alternating,
        }));
    rms("gemma3").number("attention.sliding_window", 8).number("attention.sliding_window_pattern", 2).gives(
        json!({
            "model_type": "gemma3_text", "layer_types": alternating, "query_pre_attn_scalar": 16,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        }),
    );
}

#[test]
fn models_with_layer_norms() {
    layer("gpt2").gives(json!({
        "model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 4, "n_inner": 96, "n_positions": 512,
        "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new",
    }));
    layer("starcoder2").tensor("blk.0.attn_q.bias", &[0.0]).float("rope.freq_base", 99.0).gives(json!({
        "model_type": "starcoder2", "norm_epsilon": 1e-5, "use_bias": true, "intermediate_size": 96,
        "rope_parameters": {"rope_type": "default", "rope_theta": 99.0},
    }));
    // the key says what the tensors do not
    layer("stablelm")
        .number("rope.dimension_count", 4)
        .flag("use_parallel_residual", true)
        .tensor("blk.0.ffn_norm.weight", &[0.0])
        .gives(json!({
            "model_type": "stablelm", "layer_norm_eps": 1e-5, "use_qkv_bias": false, "qk_layernorm": false,
            "use_parallel_residual": false,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        }));
    layer("stablelm")
        .tensor("blk.0.attn_q_norm.weight", &[0.0])
        .gives(json!({"qk_layernorm": true, "use_parallel_residual": true}));
    layer("falcon").number("attention.head_count_kv", 1).gives(json!({
        "model_type": "falcon", "num_kv_heads": 1, "multi_query": true, "new_decoder_architecture": false,
        "ffn_hidden_size": 96, "layer_norm_epsilon": 1e-5, "num_hidden_layers": 4,
    }));
    let grouped = || layer("falcon").number("attention.head_count_kv", 2);
    grouped()
        .tensor("blk.0.attn_norm_2.weight", &[0.0])
        .gives(json!({"num_kv_heads": 2, "multi_query": false, "new_decoder_architecture": true}));
    assert!(
        grouped()
            .refused()
            .contains("falcon.attention.head_count_kv: 2 without blk.0.attn_norm_2: Falcon2-11B")
    );
    assert!(
        grouped()
            .tensor("blk.0.attn_norm_2.weight", &[0.0])
            .tensor("blk.0.attn_qkv.bias", &[0.0])
            .refused()
            .contains("blk.0.attn_qkv.bias: a Falcon with biases")
    );
    layer("gptneox").number("rope.dimension_count", 4).flag("use_parallel_residual", false).gives(json!({
        "model_type": "gpt_neox", "hidden_act": "gelu", "attention_bias": false, "use_parallel_residual": false,
        "rotary_pct": 0.25, "rotary_emb_base": 10000.0, "tie_word_embeddings": true,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    }));
    layer("phi2").number("rope.dimension_count", 8).gives(json!({
        "model_type": "phi", "hidden_act": "gelu_new", "layer_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    }));
    layer("command-r").float("logit_scale", 0.0625).float("rope.freq_base", 8e6).gives(json!({
        "model_type": "cohere", "logit_scale": 0.0625, "use_qk_norm": false, "attention_bias": false,
        "rope_parameters": {"rope_type": "default", "rope_theta": 8e6},
    }));
    layer("bloom").gives(json!({
        "model_type": "bloom", "hidden_size": 64, "n_head": 4, "n_layer": 4, "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": true,
    }));
}

#[test]
fn decoders_of_the_last_years() {
    let plain = json!({"rope_type": "default", "rope_theta": 10000.0});
    rms("arcee").tensor("blk.0.ffn_up.bias", &[0.0]).gives(json!({
        "model_type": "arcee", "hidden_act": "relu2", "attention_bias": false, "mlp_bias": true,
    }));
    let (sliding, full) = ("sliding_attention", "full_attention");
    rms("exaone4").gives(json!({"sliding_window": null, "layer_types": [full, full, full, full]}));
    rms("exaone4").number("attention.sliding_window", 8).gives(json!({
        "model_type": "exaone4", "sliding_window": 8, "layer_types": [sliding, sliding, sliding, full],
    }));
    layer("cohere2").float("logit_scale", 0.25).number("attention.sliding_window", 8).gives(json!({
        "model_type": "cohere2", "logit_scale": 0.25, "sliding_window": 8, "layer_norm_eps": 1e-5,
        "layer_types": [sliding, sliding, sliding, full], "rope_parameters": plain,
    }));
    assert!(
        layer("cohere2").float("logit_scale", 0.25).refused().contains("cohere2.attention.sliding_window")
    );
    layer("nemotron").number("rope.dimension_count", 8).gives(json!({
        "model_type": "nemotron", "hidden_act": "relu2", "norm_eps": 1e-5, "mlp_bias": false,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    }));
    layer("olmo").float("attention.clamp_kqv", 8.0).gives(json!({"model_type": "olmo", "clip_qkv": 8.0}));
    layer("olmo")
        .float("attention.clamp_kqv", 0.0)
        .gives(json!({"clip_qkv": null, "rope_parameters": plain}));
}

#[test]
fn what_cannot_be_translated_is_named() {
    for architecture in ["mamba", "llama4"] {
        let message = rms(architecture).refused();
        assert!(
            message.contains(&format!("GGUF architecture '{architecture}' is not supported")),
            "{message}"
        );
    }
    let message = File::new("qwen2").refused();
    assert!(message.contains("there is no metadata 'qwen2.attention.layer_norm_rms_epsilon'"), "{message}");
    let message = rms("llama").text("rope.scaling.type", "longrope").refused();
    assert!(
        message.contains("llama.rope.scaling.type: 'longrope' is not supported; supported: none"),
        "{message}"
    );
    for (kind, factor, expected) in [
        (Some("none"), Some(4.0), json!({"rope_type": "default", "rope_theta": 10000.0})),
        (None, Some(4.0), json!({"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0})),
        (Some("linear"), Some(1.0), json!({"rope_type": "default", "rope_theta": 10000.0})),
    ] {
        let file = rms("llama");
        let file = kind.into_iter().fold(file, |file, kind| file.text("rope.scaling.type", kind));
        let file = factor.into_iter().fold(file, |file, factor| file.float("rope.scaling.factor", factor));
        file.gives(json!({"rope_parameters": expected}));
    }
}
