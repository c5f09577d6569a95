//! GLM 4: half of each head rotates, a fused gate and up projection, biases of queries, keys and values; GLM 4.5 has experts behind
//! its first layers.

use super::qwen::HEAD_NORMS;
use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{
    AttentionNames, EXPERTS, ExpertNames, HalfNorms, LLAMA_MODEL, LLAMA_STACK, MlpNames, SHARED_EXPERTS,
    StackNames,
};
use crate::models::spec::{
    ExpertGroups, ExpertScores, ExpertsSpec, ModelSpec, NormSpec, Normalised, Routing,
};
use crate::spec::Pairing;

pub(super) const GLM: Family = Family {
    name: "GLM",
    model_types: &["glm"],
    architecture: "GlmForCausalLM",
    examples: &["zai-org/glm-4-9b-chat-hf", "zai-org/glm-edge-1.5b-chat"],
    gguf: None,
    columns: false,
    spec: |config| dense(config, STACK),
};

pub(super) const GLM4: Family = Family {
    name: "GLM 4",
    model_types: &["glm4"],
    architecture: "Glm4ForCausalLM",
    examples: &["zai-org/GLM-4-9B-0414", "zai-org/GLM-4-32B-0414"],
    gguf: None,
    columns: false,
    spec: |config| dense(config, SANDWICHED),
};

pub(super) const GLM4_MOE: Family = Family {
    name: "GLM 4 MoE",
    model_types: &["glm4_moe"],
    architecture: "Glm4MoeForCausalLM",
    examples: &["zai-org/GLM-4.5-Air", "zai-org/GLM-4.6"],
    gguf: None,
    columns: false,
    spec: mixture,
};

const STACK: StackNames =
    StackNames { mlp: MlpNames { gate: None, up: "mlp.gate_up_proj", ..LLAMA_STACK.mlp }, ..LLAMA_STACK };

const SANDWICHED: StackNames = StackNames {
    attention: AttentionNames {
        norms: HalfNorms { after: Some("post_self_attn_layernorm"), ..LLAMA_STACK.attention.norms },
        ..LLAMA_STACK.attention
    },
    mlp: MlpNames {
        norms: HalfNorms { after: Some("post_mlp_layernorm"), ..LLAMA_STACK.mlp.norms },
        ..STACK.mlp
    },
    ..STACK
};

const MIXTURE: StackNames = StackNames { experts: Some(CORRECTED_EXPERTS), ..LLAMA_STACK };

/// The names of the experts of DeepSeek 3 and its kin.
pub(super) const CORRECTED_EXPERTS: ExpertNames = ExpertNames {
    correction: Some("mlp.gate.e_score_correction_bias"),
    shared: Some(SHARED_EXPERTS),
    ..EXPERTS
};

fn dense(config: &ModelConfig, names: StackNames) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, names)?;
    decoder::head_dim_is_said(config)?;
    let of = &mut spec.stack;
    of.attention.qkv_bias = config.flag("attention_bias", true)?;
    of.attention.pairing = Pairing::Neighbours;
    of.mlp.fused = true;
    of.norm = NormSpec::rms(config.optional_number("rms_norm_eps")?.unwrap_or(1.5625e-7));
    of.ropes = vec![decoder::partial_rope(config, of.attention.head_dim, 0.5)?];
    Ok(spec)
}

fn mixture(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, MIXTURE)?;
    decoder::no_router_loss(config)?;
    let of = &mut spec.stack;
    if config.flag("use_qk_norm", false)? {
        of.names.attention = HEAD_NORMS;
    }
    of.attention.qkv_bias = config.flag("attention_bias", false)?;
    of.norm = NormSpec::rms(config.optional_number("rms_norm_eps")?.unwrap_or(1e-5));
    of.ropes = vec![decoder::partial_rope(config, of.attention.head_dim, 0.5)?];
    let dense = config.optional_number("first_k_dense_replace")?.unwrap_or(1.0) as usize;
    let experts = corrected_experts(config)?;
    of.layers.iter_mut().skip(dense).for_each(|layer| layer.experts = Some(experts));
    Ok(spec)
}

/// The experts of DeepSeek 3 and its kin: a logistic function, groups, a correction of the choice, and shared ones.
pub(super) fn corrected_experts(config: &ModelConfig) -> Result<ExpertsSpec> {
    let inner = config.size("moe_intermediate_size")?;
    let groups = ExpertGroups {
        count: config.optional_size("n_group")?.unwrap_or(1),
        chosen: config.optional_size("topk_group")?.unwrap_or(1),
        counted: 2,
    };
    let routing = Routing {
        chosen: config.optional_size("num_experts_per_tok")?.unwrap_or(8),
        scores: ExpertScores::Sigmoid,
        groups: Some(groups),
        normalised: match config.flag("norm_topk_prob", true)? {
            true => Normalised::Sum { plus: 1e-20 },
            false => Normalised::No,
        },
        scale: config.optional_number("routed_scaling_factor")?.unwrap_or(1.0) as f32,
        weighs_input: false,
    };
    let count = decoder::size_of(config, &["n_routed_experts", "num_local_experts"])?;
    let shared = config.optional_size("n_shared_experts")?.unwrap_or(1).saturating_mul(inner);
    Ok(ExpertsSpec { shared: Some(shared), ..ExpertsSpec::new(count, inner, routing) })
}
