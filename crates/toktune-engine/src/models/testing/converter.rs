//! What llama.cpp's converter makes of a model of the Hub.
//!
//! Names, keys and changes to tensors are those of its `conversion/*.py` and `gguf-py/gguf/tensor_mapping.py`; where it
//! writes a number that all models of an architecture share, the model's own is taken.

use super::{HubModel, Named};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use serde_json::Value;
use toktune_weights::testing::{GgufBytes, array, text};

/// The architectures for which it leaves the rotary embedding out, where there is one.
const WITHOUT_ROPE: [&str; 8] = ["gemma", "gemma2", "stablelm", "falcon", "bloom", "gpt2", "gptneox", "phi2"];

/// Those whose rows of queries and keys it interleaves.
const INTERLEAVED: [&str; 5] = ["llama", "granite", "smollm3", "arcee", "olmo"];

/// Those with a norm behind the attention that has the name others give to the one before the MLP.
const NORMS_BEHIND: [&str; 4] = ["gemma2", "gemma3", "olmo2", "exaone4"];

/// The file; matrices with rows of whole blocks in the `kind` of their name.
pub(super) fn convert(model: &HubModel, kind: impl Fn(&str) -> GgmlDType) -> GgufBytes {
    let architecture = match model.config["model_type"].as_str().expect("a type") {
        "mistral" => "llama",
        "gemma3_text" => "gemma3",
        "gpt_neox" => "gptneox",
        "phi" => "phi2",
        "cohere" => "command-r",
        "olmo3" => "olmo2",
        "hunyuan_v1_dense" => "hunyuan-dense",
        other => other,
    };
    let metadata = Metadata { model, architecture, bytes: GgufBytes::new() };
    let mut file = metadata.common().own().bytes;
    let extra = extra_tensors(model, architecture);
    let tensors = model.tensors.iter().map(|tensor| {
        let (name, shape, values) = changed(model, architecture, tensor);
        (stored_name(architecture, &name), shape, values)
    });
    for (name, shape, values) in tensors.chain(extra) {
        let kind = kind(&name);
        let quantised = shape.len() == 2 && shape[1].is_multiple_of(kind.block_size());
        let kind = if quantised { kind } else { GgmlDType::F32 };
        let id = match kind {
            GgmlDType::F32 => 0,
            GgmlDType::F16 => 1,
            GgmlDType::Q4_0 => 2,
            GgmlDType::Q4_1 => 3,
            GgmlDType::Q5_0 => 6,
            GgmlDType::Q5_1 => 7,
            GgmlDType::Q8_0 => 8,
            GgmlDType::Q2K => 10,
            GgmlDType::Q4K => 12,
            GgmlDType::Q5K => 13,
            GgmlDType::Q6K => 14,
            GgmlDType::BF16 => 30,
            other => unreachable!("not used here: {other:?}"),
        };
        let tensor = Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).expect("a tensor");
        let stored = QTensor::quantize(&tensor, kind).and_then(|q| Ok(q.data()?.into_owned()));
        let dims: Vec<u64> = shape.iter().rev().map(|d| *d as u64).collect();
        file = file.tensor(&name, &dims, id, &stored.expect("quantised"));
    }
    file
}

struct Metadata<'a> {
    model: &'a HubModel,
    architecture: &'a str,
    bytes: GgufBytes,
}

impl Metadata<'_> {
    fn number(self, key: &str, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.pair(key, 4, &(value as u32).to_le_bytes()),
            None => self,
        }
    }

    fn float(self, key: &str, value: Option<f64>) -> Self {
        match value {
            Some(value) => self.pair(key, 6, &(value as f32).to_le_bytes()),
            None => self,
        }
    }

    fn word(self, key: &str, value: &str) -> Self {
        self.pair(key, 8, &text(value))
    }

    /// A value of the model's own, by GGUF's number of its type.
    fn pair(self, key: &str, id: u32, value: &[u8]) -> Self {
        let key = format!("{}.{key}", self.architecture);
        Self { bytes: self.bytes.pair(key, id, value), ..self }
    }

    /// The first of these numbers of the configuration that there is.
    fn of(&self, keys: &[&str]) -> Option<u64> {
        keys.iter().find_map(|key| self.model.config.get(*key)?.as_u64())
    }

    fn rope(&self, key: &str) -> Option<f64> {
        self.rope_section()?.get(key)?.as_f64()
    }

    fn rope_section(&self) -> Option<&Value> {
        let all = self.model.config.get("rope_parameters")?;
        Some(all.get("full_attention").unwrap_or(all))
    }

    /// What every architecture has.
    fn common(mut self) -> Self {
        let tokens = self.of(&["vocab_size"]).expect("a size");
        let list: Vec<u8> = (0..tokens).flat_map(|i| text(format!("t{i}"))).collect();
        self.bytes = self
            .bytes
            .pair("general.architecture", 8, &text(self.architecture))
            .pair("tokenizer.ggml.tokens", 9, &array(8, tokens, &list))
            .pair("tokenizer.ggml.eos_token_id", 4, &2u32.to_le_bytes());
        let hidden = self.of(&["hidden_size", "n_embd"]).expect("a width");
        let inner = self.of(&["intermediate_size", "n_inner", "ffn_hidden_size"]);
        let heads = self.of(&["num_attention_heads", "n_head"]);
        let kv_heads = match self.architecture {
            "gpt2" => None,
            "bloom" => heads,
            "falcon" => Some(self.of(&["num_kv_heads"]).unwrap_or(1)),
            _ => self.of(&["num_key_value_heads"]),
        };
        let layers = self.of(&["num_hidden_layers", "n_layer"]);
        let context = self.of(&["max_position_embeddings", "n_positions"]).unwrap_or(2048);
        let number = |key: &str| self.model.config.get(key).and_then(Value::as_f64);
        let rms_eps = number("rms_norm_eps");
        let eps =
            ["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"].into_iter().find_map(number);
        let head_dim = self.of(&["head_dim"]).filter(|_| self.architecture != "granite");
        let with_rope = !WITHOUT_ROPE.contains(&self.architecture);
        let metadata = self
            .number("block_count", layers)
            .number("context_length", Some(context))
            .number("embedding_length", Some(hidden))
            .number("feed_forward_length", Some(inner.unwrap_or(4 * hidden)))
            .number("attention.head_count", heads)
            .number("attention.head_count_kv", kv_heads)
            .number("attention.key_length", head_dim)
            .number("attention.value_length", head_dim)
            .float("attention.layer_norm_rms_epsilon", rms_eps)
            .float("attention.layer_norm_epsilon", eps);
        if with_rope { metadata.scaled_rope() } else { metadata }
    }

    fn scaled_rope(self) -> Self {
        let kind =
            self.rope_section().and_then(|rope| rope["rope_type"].as_str()).unwrap_or("default").to_owned();
        let (theta, factor) = (self.rope("rope_theta"), self.rope("factor"));
        // Hunyuan's base is stretched before it is written
        let width = self.of(&["head_dim"]).unwrap_or(0) as f64;
        let stretch = self.rope("alpha").map_or(1.0, |alpha| alpha.powf(width / (width - 2.0)));
        let theta = theta.map(|theta| theta * stretch);
        let original = self.rope("original_max_position_embeddings").map(|length| length as u64);
        let local = self.model.config["rope_parameters"].pointer("/sliding_attention/rope_theta");
        let local = local.and_then(Value::as_f64);
        let metadata = self.float("rope.freq_base", theta).float("rope.freq_base_swa", local);
        match kind.as_str() {
            "linear" => metadata.word("rope.scaling.type", "linear").float("rope.scaling.factor", factor),
            "yarn" => metadata
                .word("rope.scaling.type", "yarn")
                .float("rope.scaling.factor", factor)
                .number("rope.scaling.original_context_length", original),
            "longrope" => metadata.word("rope.scaling.type", "longrope"),
            _ => metadata,
        }
    }

    /// What its architecture has beside that.
    fn own(self) -> Self {
        let number = |key: &str| self.model.config.get(key).and_then(Value::as_f64);
        let heads = self.of(&["num_attention_heads"]).unwrap_or(1);
        let width = self.of(&["head_dim"]).or(self.of(&["hidden_size"]).map(|hidden| hidden / heads));
        let share = self.rope("partial_rotary_factor").unwrap_or(1.0);
        let rotated = width.map(|width| (width as f64 * share) as u64);
        let window = self.of(&["sliding_window"]);
        match self.architecture {
            "llama" | "smollm3" => self.number("rope.dimension_count", rotated),
            "granite" => {
                let [attention, embedding, residual, logits] =
                    ["attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"]
                        .map(number);
                self.number("rope.dimension_count", rotated)
                    .float("attention.scale", attention)
                    .float("embedding_scale", embedding)
                    .float("residual_scale", residual)
                    .float("logit_scale", logits)
            }
            "gemma2" => {
                let [scores, logits] = ["attn_logit_softcapping", "final_logit_softcapping"].map(number);
                self.number("attention.sliding_window", window)
                    .float("attn_logit_softcapping", scores)
                    .float("final_logit_softcapping", logits)
            }
            "gemma3" => self.number("attention.sliding_window", window),
            "olmo" => self.float("attention.clamp_kqv", number("clip_qkv")),
            "nemotron" => self.number("rope.dimension_count", rotated).word("rope.scaling.type", "none"),
            "cohere2" => self
                .number("attention.sliding_window", window)
                .float("logit_scale", number("logit_scale"))
                .word("rope.scaling.type", "none"),
            "exaone4" if window.is_none() => self,
            "olmo2" | "exaone4" => match self.model.config.get("layer_types").and_then(Value::as_array) {
                Some(types) => {
                    let flags: Vec<u8> =
                        types.iter().map(|kind| u8::from(kind == "sliding_attention")).collect();
                    let list = array(7, flags.len() as u64, &flags);
                    self.number("attention.sliding_window", window).pair(
                        "attention.sliding_window_pattern",
                        9,
                        &list,
                    )
                }
                None => self,
            },
            "phi3" => {
                let original = self.of(&["original_max_position_embeddings"]);
                let longer = self.of(&["max_position_embeddings"]).zip(original);
                let scale = longer.map_or(1.0, |(max, original)| max as f64 / original as f64);
                let log = original.map_or(1.0, |original| (original as f64).ln());
                let long = self.rope_section().is_some_and(|rope| rope.get("long_factor").is_some());
                let factor = if scale > 1.0 { (1.0 + scale.ln() / log).sqrt() } else { 1.0 };
                self.number("rope.dimension_count", rotated)
                    .number("rope.scaling.original_context_length", original)
                    .number("attention.sliding_window", Some(window.unwrap_or(0)))
                    .float("rope.scaling.attn_factor", long.then_some(factor))
            }
            "phi2" => self.number("rope.dimension_count", rotated),
            "command-r" => self.float("logit_scale", number("logit_scale")).word("rope.scaling.type", "none"),
            "stablelm" | "gptneox" => {
                let parallel = self.model.config["use_parallel_residual"].as_bool().unwrap_or(true);
                self.number("rope.dimension_count", rotated).pair(
                    "use_parallel_residual",
                    7,
                    &[parallel.into()],
                )
            }
            _ => self,
        }
    }
}

/// The rotary frequencies' divisors.
fn extra_tensors(model: &HubModel, architecture: &str) -> Vec<Named> {
    let Some(rope) = model.config.get("rope_parameters") else { return Vec::new() };
    let number = |key: &str| rope[key].as_f64().expect("a number");
    let list = |key: &str| serde_json::from_value::<Vec<f32>>(rope[key].clone()).expect("numbers");
    let vector = |name: &str, values: Vec<f32>| (name.to_owned(), vec![values.len()], values);
    if architecture == "phi3" && rope.get("long_factor").is_some() {
        return vec![
            vector("rope_factors_long.weight", list("long_factor")),
            vector("rope_factors_short.weight", list("short_factor")),
        ];
    }
    if rope["rope_type"] != "llama3" {
        return Vec::new();
    }
    let (dim, theta, factor) =
        (model.config["head_dim"].as_u64().expect("a width"), number("rope_theta"), number("factor"));
    let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
    // it looks for the length at the top of the configuration, and not here
    let context =
        model.config.get("original_max_position_embeddings").and_then(Value::as_f64).unwrap_or(8192.0);
    let divisor = |i: u64| {
        let wavelength = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / dim as f64);
        if wavelength < context / high {
            1.0
        } else if wavelength > context / low {
            factor
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    vec![vector("rope_freqs.weight", (0..dim / 2).map(|i| divisor(i) as f32).collect())]
}

/// A tensor as it is stored, still under its own name.
fn changed(model: &HubModel, architecture: &str, (name, shape, values): &Named) -> Named {
    let number = |keys: &[&str]| {
        let found = keys.iter().find_map(|key| model.config.get(*key)?.as_u64());
        found.map(|number| number as usize)
    };
    let (mut shape, mut values) = (shape.clone(), values.clone());
    let width = values.len() / shape[0];
    let heads = number(&["num_attention_heads", "n_head"]).expect("heads");
    let of = |part: &str| name.contains(part);
    if INTERLEAVED.contains(&architecture) && (of("q_proj") || of("k_proj")) {
        let heads = if of("q_proj") { heads } else { number(&["num_key_value_heads"]).unwrap_or(heads) };
        let head = shape[0] / heads;
        values = moved(&values, width, |row| {
            let (first, at) = (row / head * head, row % head);
            first + at % 2 * (head / 2) + at / 2
        });
    } else if (architecture.starts_with("gemma") || architecture == "nemotron")
        && name.ends_with("norm.weight")
    {
        values.iter_mut().for_each(|x| *x += 1.0);
    } else if architecture == "gpt2" && shape.len() == 2 && (of(".c_attn") || of(".c_proj") || of(".c_fc")) {
        let (rows, cols) = (shape[0], shape[1]);
        values = (0..rows * cols).map(|at| values[at % rows * cols + at / rows]).collect();
        shape.reverse();
    } else if ["bloom", "gptneox"].contains(&architecture) && of("query_key_value") {
        // [heads, 3, head] becomes [3, heads, head]
        let head = shape[0] / heads / 3;
        values = moved(&values, width, |row| {
            let (part, of_head, at) = (row / (heads * head), row / head % heads, row % head);
            (of_head * 3 + part) * head + at
        });
    } else if architecture == "falcon" && of("query_key_value") {
        let groups = number(&["num_kv_heads"]).unwrap_or(1);
        let (head, queries) = (shape[0] / (heads + 2 * groups), heads / groups);
        values = moved(&values, width, |row| {
            let (place, at) = (row / head, row % head);
            let old = match place.checked_sub(heads) {
                None => place / queries * (queries + 2) + place % queries,
                Some(place) => place % groups * (queries + 2) + queries + place / groups,
            };
            old * head + at
        });
    }
    (name.clone(), shape, values)
}

/// Rows in another order: row `row` is what row `from(row)` was.
fn moved(values: &[f32], width: usize, from: impl Fn(usize) -> usize) -> Vec<f32> {
    (0..values.len() / width).flat_map(|row| values[from(row) * width..][..width].to_vec()).collect()
}

/// The name of a tensor in the file.
fn stored_name(architecture: &str, name: &str) -> String {
    let Some((stem, ending)) = name.rsplit_once('.').filter(|(_, end)| ["weight", "bias"].contains(end))
    else {
        return name.to_owned();
    };
    let bare = ["model.", "transformer.", "gpt_neox."].iter().find_map(|prefix| stem.strip_prefix(prefix));
    let bare = bare.unwrap_or(stem);
    let in_block =
        bare.strip_prefix("layers.").or(bare.strip_prefix("h.")).and_then(|rest| rest.split_once('.'));
    let Some((block, part)) = in_block else {
        let stored = match bare {
            "embed_tokens" | "wte" | "word_embeddings" | "embed_in" => "token_embd",
            "word_embeddings_layernorm" => "token_embd_norm",
            "wpe" => "position_embd",
            "norm" | "ln_f" | "final_layer_norm" | "final_layernorm" => "output_norm",
            "lm_head" | "embed_out" => "output",
            // its own already
            other => other,
        };
        return format!("{stored}.{ending}");
    };
    let stored = match part {
        "input_layernorm" | "ln_1" | "ln_mlp" => "attn_norm",
        "ln_attn" => "attn_norm_2",
        "post_attention_layernorm" if NORMS_BEHIND.contains(&architecture) => "post_attention_norm",
        "post_attention_layernorm" | "pre_feedforward_layernorm" | "ln_2" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "self_attn.q_norm" | "self_attn.query_layernorm" => "attn_q_norm",
        "self_attn.k_norm" | "self_attn.key_layernorm" => "attn_k_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.qkv_proj"
        | "attn.c_attn"
        | "self_attention.query_key_value"
        | "attention.query_key_value" => "attn_qkv",
        "self_attn.o_proj"
        | "attn.c_proj"
        | "self_attention.dense"
        | "attention.dense"
        | "self_attn.dense" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" | "mlp.gate_up_proj" | "mlp.c_fc" | "mlp.dense_h_to_4h" | "mlp.fc1" => "ffn_up",
        "mlp.down_proj" | "mlp.c_proj" | "mlp.dense_4h_to_h" | "mlp.fc2" => "ffn_down",
        other => panic!("the converter has no name for {other}"),
    };
    format!("blk.{block}.{stored}.{ending}")
}
