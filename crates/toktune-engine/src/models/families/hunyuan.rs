//! Hunyuan (dense, version 1): Llama with norms of each query and key head that come after the rotation, and a rotary base
//! that a fixed factor stretches.

use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::rope::{RopeSpec, RopeVariant};
use crate::models::spec::ModelSpec;
use crate::spec::names::{AttentionNames, LLAMA_MODEL, LLAMA_STACK, StackNames};

pub(super) const HUNYUAN: Family = Family {
    name: "Hunyuan",
    model_types: &["hunyuan_v1_dense"],
    architecture: "HunYuanDenseV1ForCausalLM",
    examples: &["tencent/Hunyuan-0.5B-Instruct", "tencent/Hunyuan-1.8B-Instruct"],
    gguf: GgufFamily::plain("hunyuan-dense"),
    columns: false,
    spec,
};

const STACK: StackNames = StackNames {
    attention: AttentionNames {
        q_norm: Some("self_attn.query_layernorm"),
        k_norm: Some("self_attn.key_layernorm"),
        ..LLAMA_STACK.attention
    },
    ..LLAMA_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK)?;
    let bias = config.flag("attention_bias", false)?;
    (spec.stack.attention.qkv_bias, spec.stack.attention.output_bias) = (bias, bias);
    spec.stack.attention.norm_rotated = true;
    if config.get("rms_norm_eps").is_none() {
        spec.stack.norm.eps = 1e-5;
    }
    spec.stack.ropes.iter_mut().try_for_each(|rope| stretch(config, rope))?;
    Ok(spec)
}

/// A rotation that is called `dynamic` and has an `alpha` depends on no length: `alpha` stretches its base, once and for all.
fn stretch(config: &ModelConfig, rope: &mut RopeSpec) -> Result<()> {
    let Some(section) = decoder::rope_section(config) else { return Ok(()) };
    let alpha = section.optional_number("alpha")?.filter(|alpha| *alpha != 0.0);
    let (RopeVariant::Dynamic { .. }, Some(alpha)) = (&rope.variant, alpha) else { return Ok(()) };
    if alpha < 0.0 {
        return Err(section.error("alpha", format!("expected more than 0, found {alpha}")));
    }
    let dim = rope.dim as f64;
    rope.theta *= alpha.powf(dim / (dim - 2.0));
    rope.variant = RopeVariant::Default;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rope(scaling: Value) -> Result<RopeSpec> {
        let object = json!({
            "model_type": "hunyuan_v1_dense", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 4, "vocab_size": 9, "max_position_embeddings": 128, "head_dim": 16,
            "rope_theta": 10000.0, "rope_scaling": scaling,
        });
        let config = ModelConfig::from_object("config.json", object.as_object().cloned().unwrap_or_default());
        spec(&config).map(|spec| spec.stack.ropes[0].clone())
    }

    #[test]
    fn an_alpha_makes_dynamic_scaling_a_fixed_base() {
        // as the configurations on the Hub have it
        let fixed = rope(json!({
            "alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0, "type": "dynamic",
        }));
        let fixed = fixed.expect("a rotation");
        assert_eq!((fixed.theta, fixed.variant), (1e4 * 1e3f64.powf(16.0 / 14.0), RopeVariant::Default));
        for alpha in [json!(null), json!(0.0)] {
            let plain = rope(json!({"alpha": alpha, "factor": 2.0, "type": "dynamic"})).expect("a rotation");
            let expected = RopeVariant::Dynamic { factor: 2.0, max_positions: 128.0 };
            assert_eq!((plain.theta, plain.variant), (1e4, expected));
        }
        let message = rope(json!({"alpha": -1.0, "factor": 1.0, "type": "dynamic"})).expect_err("refused");
        assert!(message.to_string().contains("alpha: expected more than 0, found -1"), "{message}");
    }
}
