//! StarCoder 2: Llama with layer norms, biases, a plain MLP and a window in every layer.

use super::{Family, GgufFamily, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{LLAMA_MODEL, LLAMA_STACK, MlpNames, StackNames};
use crate::models::spec::{ModelSpec, NormSpec};
use crate::spec::Activation;

pub(super) const STARCODER2: Family = Family {
    name: "StarCoder 2",
    model_types: &["starcoder2"],
    architecture: "Starcoder2ForCausalLM",
    examples: &["bigcode/starcoder2-3b"],
    gguf: GgufFamily::plain("starcoder2"),
    columns: false,
    spec,
};

const STACK: StackNames = StackNames {
    mlp: MlpNames { gate: None, up: "mlp.c_fc", down: "mlp.c_proj", ..LLAMA_STACK.mlp },
    ..LLAMA_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK)?;
    spec.tied = config.flag("tie_word_embeddings", true)?;
    let bias = config.flag("use_bias", true)?;
    (spec.stack.attention.qkv_bias, spec.stack.attention.output_bias) = (bias, bias);
    spec.stack.mlp.bias = bias;
    spec.stack.mlp.activation = decoder::activation(config, "hidden_act", Activation::GeluTanh)?;
    spec.stack.norm = NormSpec::layer(config.optional_number("norm_epsilon")?.unwrap_or(1e-5));
    decoder::one_window(config, &mut spec, None)?;
    Ok(spec)
}
