//! XGLM: sinusoids as positions, a scaled embedding, layer norms before the branches.

use super::opt;
use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, StackNames};
use crate::models::spec::{MlpSpec, ModelSpec, Positions, Sinusoids};
use crate::spec::Activation;

pub(super) const XGLM: Family = Family {
    name: "XGLM",
    model_types: &["xglm"],
    architecture: "XGLMForCausalLM",
    examples: &["facebook/xglm-564M", "facebook/xglm-1.7B"],
    gguf: None,
    columns: false,
    spec,
};

const STACK: StackNames = StackNames {
    block: "model.layers.{}",
    positions: None,
    final_norm: Some("model.layer_norm"),
    ..opt::STACK
};

/// Rows of sinusoids before that of the first position, one of them the padding's.
const OFFSET: usize = 2;

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    if config.flag("add_cross_attention", false)? {
        return Err(config.error("add_cross_attention", "not supported"));
    }
    if let Some(padding) = config.optional_number("pad_token_id")?.filter(|id| *id >= OFFSET as f64) {
        let problem = format!("{padding} takes the row of a position away; expected 0 or 1");
        return Err(config.error("pad_token_id", problem));
    }
    let (hidden_size, heads) = (config.size("d_model")?, config.size("attention_heads")?);
    let mlp = MlpSpec {
        inner: config.size("ffn_dim")?,
        activation: decoder::activation(config, "activation_function", Activation::Gelu)?,
        bias: true,
        fused: false,
    };
    let sizes = (config.size("vocab_size")?, hidden_size, config.size("num_layers")?);
    let mut spec = decoder::plain(sizes, (heads, heads), mlp, 1e-5, (LLAMA_MODEL, STACK));
    spec.tied = config.flag("tie_word_embeddings", true)?;
    if config.flag("scale_embedding", true)? {
        spec.stack.embedding.scale = (hidden_size as f64).sqrt() as f32;
    }
    let kind = Sinusoids::Tensor2Tensor;
    spec.stack.embedding.positions = Positions::Sinusoidal { offset: OFFSET, kind, padding: None };
    Ok(spec)
}
