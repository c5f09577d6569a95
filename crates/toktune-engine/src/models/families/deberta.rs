//! DeBERTa 2 and 3: BERT with an attention in which content and distance meet.

use super::Family;
use super::encoder::{BERT_KEYS, BERT_STACK, read};
use crate::error::Result;
use crate::models::config::ModelConfig;
use crate::models::names::{AttentionNames, ModelNames, StackNames};
use crate::models::relative::{DisentangledSpec, RelativeSpec};
use crate::models::spec::{ModelSpec, NormSpec, Positions};

pub(super) const DEBERTA_V2: Family = Family {
    name: "DeBERTa 2 and 3",
    model_types: &["deberta-v2"],
    architecture: "DebertaV2ForMaskedLM",
    examples: &["microsoft/deberta-v3-base", "microsoft/mdeberta-v3-base"],
    gguf: None,
    columns: false,
    spec,
};

const MODEL: ModelNames = ModelNames {
    prefix: "deberta.",
    embed: "deberta.embeddings.word_embeddings",
    // the head that the third version was trained with; transformers makes a fresh one in its place
    aliases: &[
        ("cls.predictions.transform.", "lm_predictions.lm_head."),
        ("cls.predictions.bias", "lm_predictions.lm_head.bias"),
    ],
    ..super::bert::MODEL
};

const STACK: StackNames = StackNames {
    block: "deberta.encoder.layer.{}",
    positions: Some("deberta.embeddings.position_embeddings"),
    token_types: Some("deberta.embeddings.token_type_embeddings"),
    embedding_norm: Some("deberta.embeddings.LayerNorm"),
    attention: AttentionNames {
        q: "attention.self.query_proj",
        k: "attention.self.key_proj",
        v: "attention.self.value_proj",
        ..BERT_STACK.attention
    },
    ..BERT_STACK
};

fn spec(config: &ModelConfig) -> Result<ModelSpec> {
    if config.optional_number("conv_kernel_size")?.unwrap_or(0.0) > 0.0 {
        return Err(config.error("conv_kernel_size", "a convolution after the first block is not supported"));
    }
    let mut spec = read(config, &BERT_KEYS, MODEL, STACK)?;
    let of = &mut spec.stack;
    of.norm = NormSpec::layer(config.optional_number("layer_norm_eps")?.unwrap_or(1e-7));
    if !config.flag("position_biased_input", true)? {
        of.embedding.positions = Positions::None;
        of.names.positions = None;
    }
    if config.optional_number("type_vocab_size")?.unwrap_or(0.0) <= 0.0 {
        of.names.token_types = None;
    }
    let width = config.optional_size("embedding_size")?.unwrap_or(of.hidden_size);
    if width != of.hidden_size {
        if of.names.positions.is_some() || of.names.token_types.is_some() {
            let problem =
                format!("{width} beside hidden_size {}, with positions or token types", of.hidden_size);
            return Err(config.error("embedding_size", problem));
        }
        of.embedding.width = width;
        of.names.project_in = Some("deberta.embeddings.embed_proj");
    }
    if let Some(head_dim) = config.optional_size("attention_head_size")? {
        of.attention.head_dim = head_dim;
    }
    let kinds = kinds(config)?;
    let has = |kind: &str| kinds.iter().any(|found| found == kind);
    // each kind adds to the variance of the scores, relative attention or not
    let terms = 1 + usize::from(has("c2p")) + usize::from(has("p2c"));
    of.attention.scale = 1.0 / ((of.attention.head_dim * terms) as f32).sqrt();
    if config.flag("relative_attention", false)? {
        relative(config, &mut spec, has("c2p"), has("p2c"))?;
    }
    Ok(spec)
}

/// What meets what, from a list or a text with bars.
fn kinds(config: &ModelConfig) -> Result<Vec<String>> {
    let Some(value) = config.get("pos_att_type") else { return Ok(Vec::new()) };
    let kinds: Option<Vec<String>> = match value {
        serde_json::Value::String(text) => {
            Some(text.split('|').map(|kind| kind.trim().to_lowercase()).collect())
        }
        other => serde_json::from_value(other.clone()).ok(),
    };
    let known = |kinds: &Vec<String>| kinds.iter().all(|kind| ["c2p", "p2c", ""].contains(&kind.as_str()));
    let expected = || format!("expected c2p, p2c or both, found {value}");
    kinds.filter(known).ok_or_else(|| config.error("pos_att_type", expected()))
}

fn relative(config: &ModelConfig, spec: &mut ModelSpec, as_keys: bool, as_queries: bool) -> Result<()> {
    // 0 and below say that there is none
    let above_zero = |key: &str| -> Result<Option<usize>> {
        match config.optional_number(key)? {
            Some(number) if number < 1.0 => Ok(None),
            _ => config.optional_size(key),
        }
    };
    let max_distance = match above_zero("max_relative_positions")? {
        Some(distance) => distance,
        None => config.size("max_position_embeddings")?,
    };
    let buckets = above_zero("position_buckets")?;
    if buckets == Some(1) {
        return Err(config.error("position_buckets", "expected at least 2, found 1"));
    }
    let of = &mut spec.stack;
    let span = buckets.unwrap_or(max_distance);
    let rows = DisentangledSpec { span, buckets, max_distance, as_keys, as_queries };
    of.relative = Some(RelativeSpec::Disentangled(rows));
    of.names.relative = Some("deberta.encoder.rel_embeddings");
    let norms = config.optional_text("norm_rel_ebd")?.unwrap_or_default().to_lowercase();
    if norms.split('|').any(|norm| norm.trim() == "layer_norm") {
        of.names.relative_norm = Some("deberta.encoder.LayerNorm");
    }
    if !config.flag("share_att_key", false)? {
        of.names.attention.distance_k = Some("attention.self.pos_key_proj");
        of.names.attention.distance_q = Some("attention.self.pos_query_proj");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Device;
    use crate::models::{AutoModel, ModelKind};
    use serde_json::{Value, json};
    use std::path::Path;

    fn fixture(file: &str) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../toktune/tests/fixtures/deberta_v2");
        std::fs::read(folder.join(file)).expect("a file of the fixture")
    }

    #[test]
    fn the_head_of_the_third_version_is_found() {
        let bytes = fixture("model.safetensors");
        let end = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let header = String::from_utf8(bytes[8..end].to_vec()).expect("a header");
        let header = header.replace("cls.predictions.transform.", "lm_predictions.lm_head.");
        let header = header.replace("cls.predictions.bias", "lm_predictions.lm_head.bias");
        let folder = tempfile::tempdir().expect("a folder");
        let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[end..]].concat();
        std::fs::write(folder.path().join("model.safetensors"), file).expect("written");
        std::fs::write(folder.path().join("config.json"), fixture("config.json")).expect("written");
        let model = AutoModel::from_pretrained(folder.path(), &Device::Cpu).expect("a model");
        assert_eq!(model.kind(), ModelKind::MaskedLm);
        assert!(model.is_tied());
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (key, value, found) in [
            ("conv_kernel_size", json!(3), "convolution"),
            ("pos_att_type", json!(["c2c"]), "c2c"),
            ("pos_att_type", json!(7), "found 7"),
            ("position_buckets", json!(1), "at least 2"),
        ] {
            let Ok(Value::Object(mut object)) = serde_json::from_slice(&fixture("config.json")) else {
                panic!("an object")
            };
            object.insert(key.into(), value);
            let message = spec(&ModelConfig::from_object("config.json", object)).expect_err(key).to_string();
            assert!(message.contains(key) && message.contains(found), "{message}");
        }
        let config = json!({
            "vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1,
            "intermediate_size": 8, "max_position_embeddings": 16, "embedding_size": 4
        });
        let Value::Object(object) = config else { panic!("an object") };
        let error =
            spec(&ModelConfig::from_object("config.json", object)).expect_err("positions of another width");
        assert!(error.to_string().contains("embedding_size"), "{error}");
    }
}
