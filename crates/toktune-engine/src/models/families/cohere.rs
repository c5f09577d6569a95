//! Cohere (Command-R): parallel halves of a block behind one norm without a bias, and neighbours that rotate together.

use super::qwen::HEAD_NORMS;
use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{HalfNorms, LLAMA_MODEL, LLAMA_STACK, MlpNames, StackNames};
use crate::models::spec::{ModelSpec, NormKind, NormSpec, QkNorm};
use crate::spec::Pairing;

pub(super) const COHERE: Family = Family {
    name: "Cohere",
    model_types: &["cohere"],
    architecture: "CohereForCausalLM",
    examples: &["CohereLabs/c4ai-command-r-v01", "CohereLabs/c4ai-command-r-plus"],
    gguf: GgufFamily::plain("command-r"),
    columns: false,
    spec,
};

const STACK: StackNames = StackNames {
    mlp: MlpNames { norms: HalfNorms::before("input_layernorm"), ..LLAMA_STACK.mlp },
    ..LLAMA_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = read(config, 500_000.0)?;
    if config.flag("use_qk_norm", false)? {
        spec.stack.attention.qk_norm = QkNorm::EachHead;
        spec.stack.names.attention = HEAD_NORMS;
    }
    Ok(spec)
}

/// The model without norms of heads; `theta` is the base of its rotation where nothing says so.
pub(super) fn read(config: &ModelConfig, theta: f64) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK)?;
    decoder::biases(config, &mut spec)?;
    spec.stack.ropes = vec![decoder::rope_from(config, spec.stack.attention.head_dim, theta)?];
    spec.tied = config.flag("tie_word_embeddings", true)?;
    spec.head.scale = config.optional_number("logit_scale")?.unwrap_or(0.0625) as f32;
    spec.stack.parallel = true;
    spec.stack.attention.pairing = Pairing::Neighbours;
    let eps = config.optional_number("layer_norm_eps")?.unwrap_or(1e-5);
    spec.stack.norm = NormSpec { kind: NormKind::Layer { bias: false }, ..NormSpec::layer(eps) };
    Ok(spec)
}
