//! GPT-Neo: GPT-2 with projections of their own, scores that are not scaled, and a window in every other layer.

use super::{Family, decoder, gpt2};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{AttentionNames, StackNames};
use crate::models::spec::{LayerSpec, MlpSpec, ModelSpec, Positions};
use crate::spec::Activation;
use serde_json::Value;

pub(super) const GPT_NEO: Family = Family {
    name: "GPT-Neo",
    model_types: &["gpt_neo"],
    architecture: "GPTNeoForCausalLM",
    examples: &["EleutherAI/gpt-neo-125m", "roneneldan/TinyStories-33M"],
    gguf: None,
    columns: false,
    spec,
};

const STACK: StackNames = StackNames {
    attention: AttentionNames {
        q: "attn.attention.q_proj",
        k: "attn.attention.k_proj",
        v: "attn.attention.v_proj",
        o: "attn.attention.out_proj",
        ..gpt2::STACK.attention
    },
    ..gpt2::STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    let (hidden_size, heads) = (config.size("hidden_size")?, config.size("num_heads")?);
    let mlp = MlpSpec {
        inner: config.optional_size("intermediate_size")?.unwrap_or(hidden_size.saturating_mul(4)),
        activation: decoder::activation(config, "activation_function", Activation::GeluTanh)?,
        bias: true,
        fused: false,
    };
    let eps = config.optional_number("layer_norm_epsilon")?.unwrap_or(1e-5);
    let sizes = (config.size("vocab_size")?, hidden_size, config.size("num_layers")?);
    let mut spec = decoder::plain(sizes, (heads, heads), mlp, eps, (gpt2::MODEL, STACK));
    spec.tied = config.flag("tie_word_embeddings", true)?;
    let of = &mut spec.stack;
    of.attention.qkv_bias = false;
    of.attention.scale = 1.0;
    let window = config.optional_size("window_size")?.unwrap_or(256);
    of.layers = local_layers(config, of.layers.len())?
        .into_iter()
        .map(|local| LayerSpec { window: local.then_some(window), ..LayerSpec::default() })
        .collect();
    let positions = config.size("max_position_embeddings")?;
    of.max_positions = Some(positions);
    of.embedding.positions = Positions::Learned { rows: positions, offset: 0, padding: None };
    Ok(spec)
}

/// Which of the `count` layers have the window: `attention_layers` names each, `attention_types` has runs of them, `[[names, times], …]`.
fn local_layers(config: &ModelConfig, count: usize) -> Result<Vec<bool>> {
    let key = if config.get("attention_layers").is_some() { "attention_layers" } else { "attention_types" };
    let wrong = || config.error(key, format!("expected global or local for each of {count} layers"));
    let of = |name: &Value| match name.as_str() {
        Some("global") => Ok(false),
        Some("local") => Ok(true),
        _ => Err(wrong()),
    };
    let mut layers = Vec::with_capacity(count);
    match (key, config.get(key)) {
        ("attention_layers", Some(names)) => {
            layers = names.as_array().ok_or_else(wrong)?.iter().map(of).collect::<Result<_>>()?;
        }
        (_, Some(runs)) => {
            for run in runs.as_array().ok_or_else(wrong)? {
                let names = run.get(0).and_then(Value::as_array).ok_or_else(wrong)?;
                let names: Vec<bool> = names.iter().map(of).collect::<Result<_>>()?;
                let times = run.get(1).and_then(Value::as_u64).ok_or_else(wrong)?;
                // no more than there can be, whatever the number says
                let times = times.min(count as u64 + 1) as usize;
                layers.extend((0..times).flat_map(|_| names.iter().copied()).take(count + 1));
            }
        }
        (_, None) => layers = (0..count).map(|layer| layer % 2 == 1).collect(),
    }
    if layers.len() == count { Ok(layers) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn layers_are_told_by_runs_or_one_by_one() {
        let layers = |value: Value| {
            let config =
                ModelConfig::from_object("config.json", value.as_object().expect("an object").clone());
            local_layers(&config, 4).map_err(|error| error.to_string())
        };
        let runs = json!([[["global", "local"], 1], [["local"], 2]]);
        assert_eq!(layers(json!({"attention_types": runs})), Ok(vec![false, true, true, true]));
        let each = json!(["local", "local", "global", "global"]);
        assert_eq!(
            layers(json!({"attention_types": runs, "attention_layers": each})),
            Ok(vec![true, true, false, false])
        );
        for wrong in
            [json!([[["global"], 3]]), json!([[["local"], u64::MAX]]), json!([["local", 4]]), json!(3)]
        {
            assert!(layers(json!({"attention_types": wrong})).is_err_and(|e| e.contains("attention_types")));
        }
    }
}
