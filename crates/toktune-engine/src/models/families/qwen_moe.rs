//! Qwen 2 and 3 with experts in most layers; in Qwen 2 every row passes through one of them, behind a gate.

use super::qwen::HEAD_NORMS;
use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{EXPERTS, ExpertNames, HalfNorms, LLAMA_MODEL, LLAMA_STACK, MlpNames, StackNames};
use crate::models::spec::{ExpertsSpec, ModelSpec, Routing};

pub(super) const QWEN2_MOE: Family = Family {
    name: "Qwen 2 MoE",
    model_types: &["qwen2_moe"],
    architecture: "Qwen2MoeForCausalLM",
    examples: &["Qwen/Qwen1.5-MoE-A2.7B", "Qwen/Qwen2-57B-A14B-Instruct"],
    // llama.cpp stores the experts of a layer as one tensor, which is not read
    gguf: None,
    columns: false,
    spec: spec_2,
};

pub(super) const QWEN3_MOE: Family = Family {
    name: "Qwen 3 MoE",
    model_types: &["qwen3_moe"],
    architecture: "Qwen3MoeForCausalLM",
    examples: &["Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-Coder-30B-A3B-Instruct"],
    gguf: None,
    columns: false,
    spec,
};

const STACK: StackNames = StackNames { attention: HEAD_NORMS, experts: Some(EXPERTS), ..LLAMA_STACK };

/// The names of Qwen's experts, with the one that every row passes through.
pub(super) const GATED_EXPERTS: ExpertNames = ExpertNames {
    shared: Some(MlpNames {
        gate: Some("mlp.shared_expert.gate_proj"),
        up: "mlp.shared_expert.up_proj",
        down: "mlp.shared_expert.down_proj",
        norms: HalfNorms { before: None, after: None, sum: None },
    }),
    shared_gate: Some("mlp.shared_expert_gate"),
    ..EXPERTS
};

const STACK_2: StackNames = StackNames { experts: Some(GATED_EXPERTS), ..LLAMA_STACK };

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK)?;
    decoder::biases(config, &mut spec)?;
    // whatever the configuration says of it, only the attention has biases
    spec.stack.mlp.bias = false;
    if config.flag("use_sliding_window", false)? {
        decoder::one_window(config, &mut spec, Some(4096))?;
    }
    let experts = experts(config, 8)?;
    put_experts(config, &mut spec, experts)?;
    Ok(spec)
}

fn spec_2(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK_2)?;
    spec.stack.attention.qkv_bias = config.flag("qkv_bias", true)?;
    let window = match config.flag("use_sliding_window", false)? {
        true => config.optional_size("sliding_window")?.or(Some(4096)),
        false => None,
    };
    let first_without = config.optional_number("max_window_layers")?.unwrap_or(28.0) as usize;
    let slides = |layer: usize| layer.is_multiple_of(2) && layer < first_without;
    spec.stack.layers = decoder::layer_types(config, window, slides, |_| Some(0))?;
    let shared = config.optional_size("shared_expert_intermediate_size")?.unwrap_or(5632);
    let experts = ExpertsSpec { shared: Some(shared), ..experts(config, 4)? };
    put_experts(config, &mut spec, experts)?;
    Ok(spec)
}

/// The experts as Qwen's configurations describe them.
pub(super) fn experts(config: &ModelConfig, chosen: usize) -> Result<ExpertsSpec> {
    decoder::no_router_loss(config)?;
    let chosen = config.optional_size("num_experts_per_tok")?.unwrap_or(chosen);
    let routing = Routing::softmax(chosen, config.flag("norm_topk_prob", false)?);
    // transformers 5 writes the second
    let count = decoder::size_of(config, &["num_experts", "num_local_experts"])?;
    Ok(ExpertsSpec::new(count, config.size("moe_intermediate_size")?, routing))
}

/// Gives the layers that have experts these.
pub(super) fn put_experts(config: &ModelConfig, spec: &mut ModelSpec, experts: ExpertsSpec) -> Result<()> {
    let step = config.optional_size("decoder_sparse_step")?.unwrap_or(1);
    let dense = layers_without(config)?;
    for (i, layer) in spec.stack.layers.iter_mut().enumerate() {
        let is_sparse = (i + 1).is_multiple_of(step) && !dense.contains(&(i as u64));
        layer.experts = is_sparse.then_some(experts);
    }
    Ok(())
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
