//! What most decoders' configurations have in common, since Llama.

use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::kind::ModelKind;
use crate::models::names::{ModelNames, StackNames};
use crate::models::rope::RopeSpec;
use crate::models::spec::{
    AttentionSpec, EmbeddingSpec, HeadSpec, LayerSpec, MlpSpec, ModelSpec, NormSpec, StackSpec,
};
use crate::spec::Activation;

/// Most blocks that a configuration may ask for.
pub(super) const MOST_LAYERS: usize = 1 << 16;

/// A decoder with the keys of Llama: root-mean-square norms, rotary positions, grouped heads, a gated MLP. Families change
/// what they have otherwise.
pub(super) fn read(config: &ModelConfig, names: ModelNames, stack: StackNames) -> Result<ModelSpec> {
    let (hidden_size, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let head_dim = config.optional_size("head_dim")?.unwrap_or(hidden_size / heads);
    let kv_heads = config.optional_size("num_key_value_heads")?.unwrap_or(heads);
    let layer = LayerSpec { rope: Some(0), ..LayerSpec::default() };
    Ok(ModelSpec {
        kind: ModelKind::Causal,
        vocab_size: config.size("vocab_size")?,
        tied: config.flag("tie_word_embeddings", false)?,
        stack: StackSpec {
            hidden_size,
            embedding: EmbeddingSpec::plain(hidden_size),
            attention: AttentionSpec::causal(heads, kv_heads, head_dim),
            mlp: MlpSpec {
                inner: config.size("intermediate_size")?,
                activation: activation(config, "hidden_act", Activation::Silu)?,
                bias: false,
                fused: false,
            },
            norm: NormSpec::rms(config.optional_number("rms_norm_eps")?.unwrap_or(1e-6)),
            parallel: false,
            residual_scale: 1.0,
            max_positions: config.optional_size("max_position_embeddings")?,
            relative: None,
            layers: vec![layer; config.size("num_hidden_layers")?.min(MOST_LAYERS)],
            ropes: vec![rope(config, head_dim)?],
            temperature: None,
            names: stack,
        },
        encoder: None,
        decoder_inputs: None,
        head: HeadSpec::default(),
        names,
    })
}

/// A decoder of a family that has its own keys: causal attention without rotation and a plain MLP, both with biases, layer
/// norms. Families change what they have otherwise.
pub(super) fn plain(
    (vocab_size, hidden_size, layers): (usize, usize, usize),
    (heads, kv_heads): (usize, usize),
    mlp: MlpSpec,
    norm_eps: f64,
    (names, stack): (ModelNames, StackNames),
) -> ModelSpec {
    let attention = AttentionSpec::causal(heads, kv_heads, hidden_size / heads.max(1));
    ModelSpec {
        kind: ModelKind::Causal,
        vocab_size,
        tied: true,
        stack: StackSpec {
            hidden_size,
            embedding: EmbeddingSpec::plain(hidden_size),
            attention: AttentionSpec { qkv_bias: true, output_bias: true, ..attention },
            mlp,
            norm: NormSpec::layer(norm_eps),
            parallel: false,
            residual_scale: 1.0,
            max_positions: None,
            relative: None,
            layers: vec![LayerSpec::default(); layers.min(MOST_LAYERS)],
            ropes: Vec::new(),
            temperature: None,
            names: stack,
        },
        encoder: None,
        decoder_inputs: None,
        head: HeadSpec::default(),
        names,
    }
}

/// A size under the first of `keys` that is there.
pub(super) fn size_of(config: &ModelConfig, keys: &[&str]) -> Result<usize> {
    let key = keys.iter().find(|key| config.get(key).is_some()).or(keys.first());
    config.size(key.copied().unwrap_or_default())
}

/// The rotary embedding of a model that has one for all layers: `rope_parameters` since transformers 5, `rope_theta` with
/// `rope_scaling` before.
pub(super) fn rope(config: &ModelConfig, head_dim: usize) -> Result<RopeSpec> {
    rope_from(config, head_dim, 10_000.0)
}

/// The section of one rotary embedding. As in transformers, `rope_scaling` (where it is not empty) stands above
/// `rope_parameters` when a configuration has both.
pub(super) fn rope_section(config: &ModelConfig) -> Option<ModelConfig> {
    let former = config.section("rope_scaling").filter(|section| !section.object().is_empty());
    former.or_else(|| config.section("rope_parameters"))
}

/// The section of the layers of one `kind`, for models whose kinds of layers rotate in their own ways: the one in
/// `rope_parameters`, with what `rope_scaling` says over it where `scaled`.
pub(super) fn rope_section_of(config: &ModelConfig, kind: &str, scaled: bool) -> ModelConfig {
    let own = config.section("rope_parameters").and_then(|of| of.section(kind));
    let new_form = config.get("rope_parameters").is_some();
    let mut section = own.map(|own| own.object().clone()).unwrap_or_default();
    if !new_form || section.is_empty() {
        // with this beside it, the `type` of the former form is not read
        section.entry("rope_type").or_insert_with(|| "default".into());
    }
    if let Some(scaling) = config.section("rope_scaling").filter(|_| scaled) {
        section.extend(scaling.object().clone());
    }
    ModelConfig::from_object(config.path(), section)
}

/// The same where the base is `theta` unless the configuration says otherwise.
pub(super) fn rope_from(config: &ModelConfig, head_dim: usize, theta: f64) -> Result<RopeSpec> {
    let theta = config.optional_number("rope_theta")?.unwrap_or(theta);
    RopeSpec::read(config, rope_section(config).as_ref(), Some(theta), head_dim)
}

/// The same where a share of each head is rotated unless the configuration says otherwise.
pub(super) fn partial_rope(config: &ModelConfig, head_dim: usize, share: f64) -> Result<RopeSpec> {
    let mut rope = rope(config, head_dim)?;
    let section = rope_section(config);
    let key = "partial_rotary_factor";
    if config.get(key).is_none() && section.is_none_or(|section| section.get(key).is_none()) {
        rope.dim = (head_dim as f64 * share.clamp(0.0, 1.0)) as usize;
    }
    Ok(rope)
}

/// The activation under `key`, by its name in transformers.
pub(super) fn activation(config: &ModelConfig, key: &str, default: Activation) -> Result<Activation> {
    let Some(name) = config.optional_text(key)? else { return Ok(default) };
    activation_named(&name).ok_or_else(|| {
        let expected = "silu, swish, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu or relu2";
        config.error(key, format!("expected {expected}, found {name}"))
    })
}

/// An activation by its name in transformers.
pub(super) fn activation_named(name: &str) -> Option<Activation> {
    match name {
        "silu" | "swish" => Some(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" | "gelu_python_tanh" => Some(Activation::GeluTanh),
        "gelu" | "gelu_python" => Some(Activation::Gelu),
        "relu" => Some(Activation::Relu),
        "relu2" => Some(Activation::SquaredRelu),
        _ => None,
    }
}

/// The window that all layers have, if there is one.
pub(super) fn one_window(config: &ModelConfig, spec: &mut ModelSpec, default: Option<usize>) -> Result<()> {
    let window = match config.get("sliding_window") {
        Some(_) => config.optional_size("sliding_window")?,
        None if config.has("sliding_window") => None,
        None => default,
    };
    spec.stack.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(())
}

/// Biases of the attention's projections under `attention_bias`, and of the MLP under `mlp_bias`.
pub(super) fn biases(config: &ModelConfig, spec: &mut ModelSpec) -> Result<()> {
    let bias = config.flag("attention_bias", false)?;
    (spec.stack.attention.qkv_bias, spec.stack.attention.output_bias) = (bias, bias);
    spec.stack.mlp.bias = config.flag("mlp_bias", false)?;
    Ok(())
}

/// Refuses a configuration that does not say how wide a head is, where the class takes something else than
/// `hidden_size / num_attention_heads` for it.
pub(super) fn head_dim_is_said(config: &ModelConfig) -> Result<()> {
    match config.has("head_dim") {
        true => Ok(()),
        false => Err(config.error("head_dim", "missing; heads are not hidden_size / num_attention_heads")),
    }
}

/// A limit of queries, keys and values; none where there is no such key, or 0.
pub(super) fn limit(config: &ModelConfig, key: &str) -> Result<Option<f32>> {
    match config.optional_number(key)? {
        Some(limit) if limit < 0.0 => Err(config.error(key, format!("expected more than 0, found {limit}"))),
        limit => Ok(limit.filter(|limit| *limit > 0.0).map(|limit| limit as f32)),
    }
}

/// Refuses a mixture of experts whose router has a loss of its own, which would be added to that of the labels.
pub(super) fn no_router_loss(config: &ModelConfig) -> Result<()> {
    match config.flag("output_router_logits", false)? {
        true => {
            Err(config
                .error("output_router_logits", "true adds a loss of the router, which is not supported"))
        }
        false => Ok(()),
    }
}

/// The windows of Qwen's layers: with `use_sliding_window`, those from `max_window_layers` on.
pub(super) fn late_windows(config: &ModelConfig, spec: &mut ModelSpec) -> Result<()> {
    let window = match config.flag("use_sliding_window", false)? {
        true => config.optional_size("sliding_window")?.or(Some(4096)),
        false => None,
    };
    let first = config.optional_number("max_window_layers")?.unwrap_or(28.0) as usize;
    spec.stack.layers = layer_types(config, window, |layer| layer >= first, |_| Some(0))?;
    Ok(())
}

/// The layers, of which those that slide have the window: `layer_types` says which since transformers 4.52, before it
/// `slides(layer)` does. `rope(slides)` is the rotary embedding of a layer.
pub(super) fn layer_types(
    config: &ModelConfig,
    window: Option<usize>,
    slides: impl Fn(usize) -> bool,
    rope: impl Fn(bool) -> Option<usize>,
) -> Result<Vec<LayerSpec>> {
    let count = config.size("num_hidden_layers")?.min(MOST_LAYERS);
    let layer = |slides: bool| LayerSpec {
        window: window.filter(|_| slides),
        rope: rope(slides),
        ..LayerSpec::default()
    };
    let Some(types) = config.get("layer_types") else {
        return Ok((0..count).map(|i| layer(slides(i))).collect());
    };
    let types = types.as_array().filter(|t| t.len() == count);
    let types = types.ok_or_else(|| config.error("layer_types", format!("expected a list of {count}")))?;
    let of = |kind: &serde_json::Value| match kind.as_str() {
        Some("full_attention") => Ok(layer(false)),
        Some("sliding_attention") => Ok(layer(true)),
        _ => Err(config
            .error("layer_types", format!("expected full_attention or sliding_attention, found {kind}"))),
    };
    types.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use crate::models::config::ModelConfig;
    use crate::models::families::of_model_type;
    use crate::models::rope::{RopeSpec, RopeVariant};
    use crate::spec::Activation;
    use serde_json::{Value, json};

    fn spec(model_type: &str, keys: Value) -> crate::spec::ModelSpec {
        let mut object = json!({
            "model_type": model_type, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 99, "max_position_embeddings": 128,
            "head_dim": 16,
        });
        object.as_object_mut().expect("an object").extend(keys.as_object().expect("an object").clone());
        let config = ModelConfig::from_object("config.json", object.as_object().expect("an object").clone());
        (of_model_type(&config).expect("a family").spec)(&config).expect("a description")
    }

    fn rope(model_type: &str, keys: Value) -> RopeSpec {
        spec(model_type, keys).stack.ropes[0].clone()
    }

    /// What `AutoConfig` of transformers 5.23 makes of the same keys.
    #[test]
    fn keys_of_a_rotation_that_stand_twice_are_taken_as_transformers_takes_them() {
        let former = json!({"type": "linear", "factor": 4.0});
        let new = json!({"rope_type": "default", "rope_theta": 5000.0});
        let linear = |factor: f64| RopeVariant::Linear { factor };
        for (model_type, keys, theta, variant) in [
            ("llama", json!({"rope_scaling": former, "rope_parameters": new}), 10_000.0, linear(4.0)),
            (
                "llama",
                json!({"rope_scaling": former, "rope_parameters": new, "rope_theta": 7e3}),
                7e3,
                linear(4.0),
            ),
            ("llama", json!({"rope_parameters": new, "rope_theta": 7e3}), 5e3, RopeVariant::Default),
            (
                "qwen3",
                json!({"rope_parameters": {"type": "linear", "factor": 2.0}, "rope_theta": 7e3}),
                7e3,
                linear(2.0),
            ),
            ("mistral", json!({"rope_scaling": {}, "rope_parameters": new}), 5e3, RopeVariant::Default),
            (
                "qwen2",
                json!({"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 3.0}}),
                1e4,
                RopeVariant::Default,
            ),
            ("mixtral", json!({"rope_scaling": former, "rope_parameters": new}), 1e6, linear(4.0)),
            ("smollm3", json!({"rope_scaling": former, "rope_parameters": new}), 2e6, linear(4.0)),
            ("cohere", json!({}), 5e5, RopeVariant::Default),
            (
                "gpt_neox",
                json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0}, "rope_theta": 7e3}),
                1e4,
                linear(2.0),
            ),
            ("gpt_neox", json!({"rotary_emb_base": 3e3, "rope_theta": 7e3}), 3e3, RopeVariant::Default),
            ("gemma3_text", json!({"rope_parameters": new}), 1e6, RopeVariant::Default),
            (
                "gemma3_text",
                json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}, "rope_theta": 7e3}),
                7e3,
                RopeVariant::Default,
            ),
            (
                "gemma3_text",
                json!({
                    "rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_theta": 7e3,
                    "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5e5}},
                }),
                5e5,
                linear(4.0),
            ),
            ("gemma3_text", json!({"rope_scaling": former}), 1e6, RopeVariant::Default),
            ("olmo3", json!({"rope_parameters": new}), 5e5, RopeVariant::Default),
            (
                "olmo3",
                json!({"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_theta": 7e3}),
                7e3,
                linear(4.0),
            ),
        ] {
            let found = rope(model_type, keys.clone());
            assert_eq!((found.theta, found.variant), (theta, variant), "{model_type} {keys}");
        }
        // the sliding layers of OLMo 3 have neither the scaling nor the base that stands at the top
        let keys = json!({"rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_theta": 7e3});
        let sliding = spec("olmo3", keys).stack.ropes[1].clone();
        assert_eq!((sliding.theta, sliding.variant), (5e5, RopeVariant::Default));
        let windows =
            |keys| spec("olmo3", keys).stack.layers.iter().map(|layer| layer.window).collect::<Vec<_>>();
        assert_eq!(windows(json!({})), [Some(4096), Some(4096)]);
        assert_eq!(windows(json!({"sliding_window": null})), [None, None]);
        let share = |keys| rope("gpt_neox", keys).dim;
        assert_eq!(share(json!({"rotary_pct": 0.5, "partial_rotary_factor": 0.75})), 8);
        let both = json!({"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 0.25}});
        assert_eq!(rope("llama", both).dim, 4);
    }

    #[test]
    fn gemmas_activation_is_under_the_key_that_its_class_reads() {
        for (model_type, keys, expected) in [
            ("gemma", json!({"hidden_act": "gelu", "hidden_activation": "silu"}), Activation::GeluTanh),
            ("gemma", json!({"hidden_act": "silu"}), Activation::Silu),
            ("gemma2", json!({"hidden_act": "gelu", "hidden_activation": "silu"}), Activation::Silu),
            ("gemma3_text", json!({"hidden_act": "gelu"}), Activation::GeluTanh),
            ("gemma3_text", json!({"hidden_activation": "gelu"}), Activation::Gelu),
        ] {
            assert_eq!(spec(model_type, keys.clone()).stack.mlp.activation, expected, "{model_type} {keys}");
        }
    }
}
