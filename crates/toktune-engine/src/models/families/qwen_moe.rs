//! Qwen 3 with experts in most layers.

use super::qwen::HEAD_NORMS;
use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{ExpertNames, LLAMA_MODEL, LLAMA_STACK, StackNames};
use crate::models::spec::{ExpertsSpec, ModelSpec};

pub(super) const QWEN3_MOE: Family = Family {
    name: "Qwen 3 MoE",
    model_types: &["qwen3_moe"],
    architecture: "Qwen3MoeForCausalLM",
    examples: &["Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-Coder-30B-A3B-Instruct"],
    // llama.cpp stores the experts of a layer as one tensor, which is not read
    gguf: None,
    columns: false,
    spec,
};

/// As checkpoints have them; in memory transformers 5 fuses the experts of a layer.
const STACK: StackNames = StackNames {
    attention: HEAD_NORMS,
    experts: Some(ExpertNames {
        router: "mlp.gate",
        gate: "mlp.experts.{}.gate_proj",
        up: "mlp.experts.{}.up_proj",
        down: "mlp.experts.{}.down_proj",
    }),
    ..LLAMA_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK)?;
    decoder::biases(config, &mut spec)?;
    decoder::no_router_loss(config)?;
    // whatever the configuration says of it, only the attention has biases
    spec.stack.mlp.bias = false;
    if config.flag("use_sliding_window", false)? {
        decoder::one_window(config, &mut spec, Some(4096))?;
    }
    let experts = ExpertsSpec {
        // transformers 5 writes the second
        count: decoder::size_of(config, &["num_experts", "num_local_experts"])?,
        chosen: config.optional_size("num_experts_per_tok")?.unwrap_or(8),
        inner: config.size("moe_intermediate_size")?,
        normalised: config.flag("norm_topk_prob", false)?,
    };
    let step = config.optional_size("decoder_sparse_step")?.unwrap_or(1);
    let dense = layers_without(config)?;
    for (i, layer) in spec.stack.layers.iter_mut().enumerate() {
        let is_sparse = (i + 1).is_multiple_of(step) && !dense.contains(&(i as u64));
        layer.experts = is_sparse.then_some(experts);
    }
    Ok(spec)
}

/// The layers of `mlp_only_layers`, which have one MLP.
fn layers_without(config: &ModelConfig) -> Result<Vec<u64>> {
    let Some(layers) = config.get("mlp_only_layers") else { return Ok(Vec::new()) };
    let numbers = layers.as_array().and_then(|all| all.iter().map(|n| n.as_u64()).collect());
    numbers.ok_or_else(|| {
        config.error("mlp_only_layers", format!("expected a list of layers' numbers, found {layers}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(change: Value) -> Result<ModelSpec> {
        let mut config = json!({
            "vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 4,
            "intermediate_size": 8, "moe_intermediate_size": 4, "num_experts": 4, "num_experts_per_tok": 2
        });
        let (Some(object), Value::Object(change)) = (config.as_object_mut(), change) else {
            panic!("objects")
        };
        object.extend(change);
        spec(&ModelConfig::from_object("config.json", object.clone()))
    }

    fn sparse(change: Value) -> Vec<bool> {
        read(change).expect("a model").stack.layers.iter().map(|layer| layer.experts.is_some()).collect()
    }

    #[test]
    fn layers_have_experts_as_transformers_has_it() {
        assert_eq!(sparse(json!({})), [true; 4]);
        assert_eq!(sparse(json!({"decoder_sparse_step": 2})), [false, true, false, true]);
        assert_eq!(
            sparse(json!({"decoder_sparse_step": 2, "mlp_only_layers": [1]})),
            [false, false, false, true]
        );
        assert_eq!(sparse(json!({"num_experts": null, "num_local_experts": 3})), [true; 4]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (change, key) in [
            (json!({"mlp_only_layers": ["one"]}), "mlp_only_layers"),
            (json!({"output_router_logits": true}), "output_router_logits"),
            (json!({"num_experts": null}), "num_experts"),
        ] {
            let message = read(change).expect_err(key).to_string();
            assert!(message.contains(key), "{message}");
        }
        let (key, problem) =
            read(json!({"num_experts_per_tok": 5})).expect("read").check().expect_err("5 of 4");
        assert!(key == "num_experts_per_tok" && problem == "5 of 4 experts", "{problem}");
    }
}
