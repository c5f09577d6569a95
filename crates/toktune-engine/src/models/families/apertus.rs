//! Apertus: Llama with norms of the q and k heads and an MLP without a gate, whose activation has parameters of each layer.

use super::qwen::HEAD_NORMS;
use super::{Family, decoder};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{AttentionNames, HalfNorms, LLAMA_MODEL, LLAMA_STACK, MlpNames, StackNames};
use crate::models::spec::{ModelSpec, NormSpec};
use crate::spec::Activation;
use toktune_kernels::gated::Xielu;

pub(super) const APERTUS: Family = Family {
    name: "Apertus",
    model_types: &["apertus"],
    architecture: "ApertusForCausalLM",
    examples: &["swiss-ai/Apertus-8B-Instruct-2509", "swiss-ai/Apertus-70B-Instruct-2509"],
    gguf: None,
    columns: false,
    spec,
};

const STACK: StackNames = StackNames {
    attention: AttentionNames { norms: HalfNorms::before("attention_layernorm"), ..HEAD_NORMS },
    mlp: MlpNames { gate: None, norms: HalfNorms::before("feedforward_layernorm"), ..LLAMA_STACK.mlp },
    activation: Some("mlp.act_fn"),
    ..LLAMA_STACK
};

/// What a layer's activation has where no tensor says otherwise.
const XIELU: Xielu = Xielu { positive: 0.8, negative: 0.8, beta: 0.5, eps: -1e-6 };

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let act = config.optional_text("hidden_act")?.unwrap_or_else(|| "xielu".into());
    // the other activations are known to the reader
    let mut object = config.object().clone();
    let is_xielu = act == "xielu";
    if is_xielu {
        object.remove("hidden_act");
    }
    let config = &ModelConfig::from_object(config.path(), object);
    let mut spec = decoder::read(config, LLAMA_MODEL, STACK)?;
    let of = &mut spec.stack;
    if is_xielu {
        of.mlp.activation = Activation::Xielu(XIELU);
    }
    let bias = config.flag("attention_bias", false)?;
    (of.attention.qkv_bias, of.attention.output_bias) = (bias, bias);
    of.norm = NormSpec::rms(config.optional_number("rms_norm_eps")?.unwrap_or(1e-5));
    if decoder::rope_section(config).is_none() {
        return Err(config.error("rope_parameters", "missing"));
    }
    of.ropes = vec![decoder::rope_from(config, of.attention.head_dim, 12e6)?];
    Ok(spec)
}
