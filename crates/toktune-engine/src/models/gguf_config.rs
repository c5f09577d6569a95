//! A GGUF file's metadata as the `config.json` that transformers would have for the same model.
//!
//! Families then read one form only, and a model merged from a GGUF file gets a configuration of its own. What the
//! metadata do not say and llama.cpp fixes for an architecture is filled in here; where they have lost something
//! that no file can give back, the function of the architecture says so. The facts about names and tensors are
//! those of llama.cpp's converter (`conversion/*.py`) and of its model files (`src/models/*.cpp`).
//!
//! The rows of query and key projections are interleaved ([`RowOrder::Interleaved`](toktune_weights::RowOrder)) by
//! the converter for `llama`, `arcee`, `granite`, `olmo` and `smollm3`, and for no other architecture here.

use super::config::ModelConfig;
use super::families::{FAMILIES, unsupported};
use super::rope::{RopeSpec, RopeVariant};
use crate::error::{EngineError, Result};
use serde_json::{Map, Value, json};
use std::path::Path;
use toktune_weights::{Checkpoint, FromValue, Gguf, Metadata};

mod gemma;
mod layer_norm;
mod rms_norm;
#[cfg(test)]
mod tests;

/// Makes the configuration of one architecture.
type Translate = fn(&Source<'_>) -> Result<Map<String, Value>>;

/// The architectures that are translated.
const ARCHITECTURES: [(&str, Translate); 24] = [
    ("llama", rms_norm::llama),
    ("granite", rms_norm::granite),
    ("smollm3", rms_norm::smollm3),
    ("arcee", rms_norm::arcee),
    ("exaone4", rms_norm::exaone4),
    ("qwen2", rms_norm::qwen2),
    ("qwen3", rms_norm::qwen3),
    ("olmo2", rms_norm::olmo2),
    ("hunyuan-dense", rms_norm::hunyuan),
    ("phi3", rms_norm::phi3),
    ("gemma", gemma::gemma),
    ("gemma2", gemma::gemma2),
    ("gemma3", gemma::gemma3),
    ("gpt2", layer_norm::gpt2),
    ("starcoder2", layer_norm::starcoder2),
    ("stablelm", layer_norm::stablelm),
    ("falcon", layer_norm::falcon),
    ("bloom", layer_norm::bloom),
    ("gptneox", layer_norm::gpt_neox),
    ("phi2", layer_norm::phi),
    ("command-r", layer_norm::cohere),
    ("cohere2", layer_norm::cohere2),
    ("nemotron", layer_norm::nemotron),
    ("olmo", layer_norm::olmo),
];

/// The configuration of the model in a GGUF file.
///
/// # Errors
/// The architecture is not supported, or a key it needs is missing or of another type.
pub(super) fn from_metadata(path: &Path, checkpoint: &Checkpoint, gguf: &Gguf) -> Result<ModelConfig> {
    let metadata = gguf.metadata();
    let architecture: &str = metadata.require("general.architecture")?;
    let Some((_, translate)) = ARCHITECTURES.iter().find(|(name, _)| *name == architecture) else {
        let known = FAMILIES.iter().filter_map(|f| f.gguf).map(|gguf| gguf.architecture);
        return Err(unsupported(path, format!("GGUF architecture '{architecture}'"), architecture, known));
    };
    let mut object = translate(&Source { path, checkpoint, metadata, architecture })?;
    for (key, stored) in [
        ("bos_token_id", "tokenizer.ggml.bos_token_id"),
        ("eos_token_id", "tokenizer.ggml.eos_token_id"),
        ("pad_token_id", "tokenizer.ggml.padding_token_id"),
    ] {
        if let Some(id) = metadata.get::<u64>(stored)? {
            object.insert(key.into(), id.into());
        }
    }
    Ok(ModelConfig::from_object(path, object))
}

/// A GGUF file, as the functions of the architectures read it.
struct Source<'a> {
    path: &'a Path,
    checkpoint: &'a Checkpoint,
    metadata: &'a Metadata,
    /// Before every key of the model.
    architecture: &'a str,
}

/// The tensor in which the converter stores what each rotary frequency is divided by.
const ROPE_DIVISORS: &str = "rope_freqs.weight";

impl<'a> Source<'a> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// A value of the model that may be missing.
    fn get<T: FromValue<'a>>(&self, name: &str) -> Result<Option<T>> {
        Ok(self.metadata.get(&self.key(name))?)
    }

    fn require<T: FromValue<'a>>(&self, name: &str) -> Result<T> {
        Ok(self.metadata.require(&self.key(name))?)
    }

    /// Whether there is a tensor: what the metadata do not say of biases and norms.
    fn has(&self, tensor: &str) -> bool {
        self.checkpoint.contains(tensor)
    }

    fn error(&self, name: &str, problem: impl Into<String>) -> EngineError {
        EngineError::Config { path: self.path.to_path_buf(), key: self.key(name), problem: problem.into() }
    }

    /// A section, or a whole configuration, to be read by what reads `config.json`.
    fn config(&self, value: &Value) -> ModelConfig {
        ModelConfig::from_object(self.path, value.as_object().cloned().unwrap_or_default())
    }

    /// Width of a head.
    fn head_dim(&self) -> Result<u64> {
        let (hidden, heads) =
            (self.require::<u64>("embedding_length")?, self.require::<u64>("attention.head_count")?);
        match self.get("attention.key_length")? {
            Some(length) => Ok(length),
            None => hidden
                .checked_div(heads)
                .ok_or_else(|| self.error("attention.head_count", "expected more than 0, found 0")),
        }
    }

    /// What every decoder with root mean square norms has, under transformers' names.
    fn rms_norm(&self, model_type: &str, class: &str) -> Result<Map<String, Value>> {
        let mut object = self.common(model_type, class)?;
        object.insert("rms_norm_eps".into(), self.require::<f64>("attention.layer_norm_rms_epsilon")?.into());
        Ok(object)
    }

    /// The names that most configurations have.
    fn common(&self, model_type: &str, class: &str) -> Result<Map<String, Value>> {
        let heads: u64 = self.require("attention.head_count")?;
        Ok(object(json!({
            "model_type": model_type,
            "architectures": [class],
            "vocab_size": self.vocabulary()?,
            "hidden_size": self.require::<u64>("embedding_length")?,
            "num_attention_heads": heads,
            "num_key_value_heads": self.get::<u64>("attention.head_count_kv")?.unwrap_or(heads),
            "head_dim": self.head_dim()?,
            "intermediate_size": self.require::<u64>("feed_forward_length")?,
            "num_hidden_layers": self.layers()?,
            "max_position_embeddings": self.get::<u64>("context_length")?,
            "tie_word_embeddings": self.tied(),
        })))
    }

    fn layers(&self) -> Result<u64> {
        self.require("block_count")
    }

    /// Tokens of the vocabulary: the file's own list is the measure, as for llama.cpp.
    fn vocabulary(&self) -> Result<usize> {
        Ok(self.metadata.require::<&[String]>("tokenizer.ggml.tokens")?.len())
    }

    /// A file says by its tensors whether the head is the embedding.
    fn tied(&self) -> bool {
        !self.has("output.weight")
    }

    /// For each layer, whether `is_sliding` (counted from 0) has a window, as transformers names it.
    fn layer_types(&self, is_sliding: impl Fn(u64) -> bool) -> Result<Vec<&'static str>> {
        let name = |i| if is_sliding(i) { "sliding_attention" } else { "full_attention" };
        // no model has nearly so many; what is beyond them is found out by the tensors that are missing
        Ok((0..self.layers()?.min(1 << 16)).map(name).collect())
    }

    /// Which layers have a window: the converter of most models writes a flag for each; else all but every fourth.
    fn windows(&self) -> Result<Vec<&'static str>> {
        const KEY: &str = "attention.sliding_window_pattern";
        let Some(flags) = self.get::<&[bool]>(KEY)? else { return self.layer_types(|i| (i + 1) % 4 != 0) };
        let layers = self.layers()?;
        if flags.len() as u64 != layers {
            return Err(
                self.error(KEY, format!("expected {layers} flags, one a layer, found {}", flags.len()))
            );
        }
        self.layer_types(|i| flags[i as usize])
    }

    /// The rotary embedding, with `theta` where the file has none.
    fn rope(&self, theta: f64) -> Result<Value> {
        let theta = self.get::<f64>("rope.freq_base")?.unwrap_or(theta);
        let kind = self.get::<&str>("rope.scaling.type")?;
        let factor = match self.get::<f64>("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            // its former key
            None => self.get::<f64>("rope.scale_linear")?,
        };
        match (kind, factor.filter(|factor| *factor != 1.0)) {
            (Some("none"), _) | (None | Some("linear"), None) => {
                Ok(json!({"rope_type": "default", "rope_theta": theta}))
            }
            (None | Some("linear"), Some(factor)) => {
                Ok(json!({"rope_type": "linear", "rope_theta": theta, "factor": factor}))
            }
            (Some("yarn"), _) => {
                let mut rope = object(json!({
                    "rope_type": "yarn",
                    "rope_theta": theta,
                    "factor": self.require::<f64>("rope.scaling.factor")?,
                    "original_max_position_embeddings": self.require::<u64>("rope.scaling.original_context_length")?,
                }));
                for (key, stored) in [
                    ("attention_factor", "rope.scaling.yarn_attn_factor"),
                    ("beta_fast", "rope.scaling.yarn_beta_fast"),
                    ("beta_slow", "rope.scaling.yarn_beta_slow"),
                ] {
                    if let Some(value) = self.get::<f64>(stored)? {
                        rope.insert(key.into(), value.into());
                    }
                }
                Ok(rope.into())
            }
            (Some(other), _) => {
                let problem = format!("'{other}' is not supported; supported: none, linear, yarn");
                Err(self.error("rope.scaling.type", problem))
            }
        }
    }

    /// The rotary embedding of Llama and its kin, which may have `llama3` scaling.
    ///
    /// The file holds the divisors only. The factor is the largest; the other parameters have been the same in every model
    /// released, and the divisors they give are compared with those in the file, so that a new set is refused, not guessed.
    fn llama_rope(&self) -> Result<Value> {
        let Some(shape) = self.checkpoint.shape(ROPE_DIVISORS) else { return self.rope(10_000.0) };
        let divisors = self.checkpoint.vector(ROPE_DIVISORS, shape.iter().product())?;
        let theta = self.get::<f64>("rope.freq_base")?.unwrap_or(10_000.0);
        let factor = divisors.iter().copied().fold(1.0f32, f32::max) as f64;
        let rope = json!({
            "rope_type": "llama3",
            "rope_theta": theta,
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        });
        let (section, dim) = (self.config(&rope), 2 * divisors.len());
        let plain =
            RopeSpec { theta, dim, variant: RopeVariant::Default, reversed: false }.frequencies(0).values;
        let scaled = RopeSpec::read(&section, Some(&section), None, dim)?.frequencies(0).values;
        let same = plain.iter().zip(&scaled).zip(&divisors).all(|((p, s), d)| (p / s - d).abs() <= 1e-3 * d);
        if same {
            Ok(rope)
        } else {
            Err(section.error(ROPE_DIVISORS, "the divisors are not those of llama3 scaling"))
        }
    }
}

/// The object that a JSON literal is.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}
