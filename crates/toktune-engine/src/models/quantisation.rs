//! How the weights of a folder are quantised, by its configuration or by what its tensors are called.
//!
//! 8-bit floats with a scale for each block (`quant_method: fp8`, as DeepSeek and Qwen publish them) are read: each
//! weight is the product of float and scale in `f32`, as transformers dequantises it. So are the blocks of 4-bit floats of
//! GPT-OSS's experts (`quant_method: mxfp4`). Everything else is refused by its name before a shape could be wondered at. The blocks of GGUF files are the kernels'.

use super::config::ModelConfig;
use crate::error::{EngineError, Result};
use serde_json::{Map, Value};
use std::path::Path;
use toktune_weights::{Checkpoint, Scaling, WeightsError};

/// The fields in which a configuration tells: of transformers, of earlier compressed-tensors, and of MLX.
const FIELDS: [&str; 3] = ["quantization_config", "compression_config", "quantization"];

/// The blocks of DeepSeek's weights, which transformers takes where a configuration names none.
const DEFAULT_BLOCK: [usize; 2] = [128, 128];

/// The method of GPT-OSS's experts.
const BLOCKS: &str = "mxfp4";

/// Methods by the endings of their tensors' names, all of which are there.
const ENDINGS: [(&[&str], &str); 14] = [
    (&[".quant_map"], "bitsandbytes (4 bits)"),
    (&[".absmax"], "bitsandbytes (4 bits)"),
    (&[".SCB"], "bitsandbytes (8 bits)"),
    (&[".qweight", ".qzeros", ".g_idx"], "GPTQ"),
    (&[".qweight", ".qzeros"], "AWQ"),
    (&[".qweight", ".scales"], "GPTQ"),
    (&[".weight_packed"], "compressed-tensors"),
    (&[".W_q"], "HQQ"),
    (&[".codebooks", ".codes"], "AQLM"),
    (&["._data", "._scale"], "quanto"),
    (&[".weight_scales"], "EETQ"),
    (&[".scales", ".biases"], "MLX"),
    (&["_blocks", "_scales"], "MXFP4"),
    (&[".weight", ".weight_scale"], "compressed-tensors"),
];

/// Sets up reading of 8-bit floats, where a checkpoint has them.
///
/// # Errors
/// The weights are quantised in another way, or the blocks are no two sizes.
pub(super) fn prepare(config: &ModelConfig, checkpoint: &mut Checkpoint) -> Result<()> {
    if checkpoint.as_gguf().is_some() {
        return Ok(());
    }
    // only its experts are in blocks, and their reader knows
    let has_blocks = config.model_type() == "gpt_oss";
    if let Some((field, quantised)) = field(config) {
        if has_blocks && method(field, &quantised) == Some(BLOCKS) {
            return Ok(());
        }
        if method(field, &quantised) != Some("fp8") {
            return Err(refused(config, field, &quantised));
        }
        checkpoint.set_scaling(Scaling { block: block(config, field, &quantised)? });
        return Ok(());
    }
    let is_float8 = |name: &str| checkpoint.type_name(name).is_some_and(|kind| kind.starts_with("F8_E"));
    if checkpoint.names().any(|name| name.ends_with("_scale_inv")) && checkpoint.names().any(is_float8) {
        checkpoint.set_scaling(Scaling { block: Some(DEFAULT_BLOCK) });
        return Ok(());
    }
    let with = |ending: &&str| checkpoint.names().find(|name| name.ends_with(*ending));
    for (endings, method) in ENDINGS {
        let found: Option<Vec<&str>> = endings.iter().map(&with).collect();
        let found = found.filter(|_| !(has_blocks && method.eq_ignore_ascii_case(BLOCKS)));
        if let Some(first) = found.and_then(|found| found.last().copied()) {
            let (path, method) = (checkpoint.path().to_path_buf(), method.to_owned());
            return Err(
                WeightsError::Quantised { path, method, evidence: format!("tensor '{first}'") }.into()
            );
        }
    }
    Ok(())
}

/// Why a checkpoint cannot be opened: some methods have files of their own.
pub(super) fn explained(folder: &Path, error: EngineError) -> EngineError {
    let Ok(config) = ModelConfig::read(folder) else { return error };
    match field(&config) {
        Some((field, quantised)) if method(field, &quantised) != Some("fp8") => {
            refused(&config, field, &quantised)
        }
        _ => error,
    }
}

/// What a configuration says of the weights, and in which field; that of a text part counts too.
fn field(config: &ModelConfig) -> Option<(&'static str, Map<String, Value>)> {
    let text = config.text_part();
    let of = |config: &ModelConfig| {
        let filled = |field| config.get(field)?.as_object().filter(|object| !object.is_empty()).cloned();
        FIELDS.into_iter().find_map(|field| Some((field, filled(field)?)))
    };
    of(config).or_else(|| of(&text))
}

/// The method that it names; transformers knows bitsandbytes by other entries too.
fn method<'a>(field: &str, quantised: &'a Map<String, Value>) -> Option<&'a str> {
    let loads = |key: &str| quantised.get(key).and_then(Value::as_bool) == Some(true);
    match quantised.get("quant_method").and_then(Value::as_str) {
        Some(method) => Some(method),
        None if loads("load_in_4bit") || loads("load_in_8bit") => Some("bitsandbytes"),
        None if field == "compression_config" => Some("compressed-tensors"),
        None if quantised.contains_key("group_size") && quantised.contains_key("bits") => Some("MLX"),
        None => None,
    }
}

fn refused(config: &ModelConfig, field: &str, quantised: &Map<String, Value>) -> EngineError {
    let named = method(field, quantised).unwrap_or("a method without a name");
    let number =
        ["bits", "w_bit", "nbits"].into_iter().find_map(|key| quantised.get(key).and_then(Value::as_u64));
    let bits = match (quantised.get("load_in_4bit"), quantised.get("load_in_8bit")) {
        (Some(Value::Bool(true)), _) => Some(4),
        (_, Some(Value::Bool(true))) => Some(8),
        _ => number,
    };
    let method = bits.map_or_else(|| named.to_owned(), |bits| format!("{named}, {bits} bits"));
    let (path, evidence) = (config.path().to_path_buf(), field.to_owned());
    WeightsError::Quantised { path, method, evidence }.into()
}

/// Rows and columns of the blocks; `None` where there is one scale for a whole tensor.
fn block(config: &ModelConfig, field: &str, quantised: &Map<String, Value>) -> Result<Option<[usize; 2]>> {
    let value = match quantised.get("weight_block_size") {
        None => return Ok(Some(DEFAULT_BLOCK)),
        Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    let side = |at: usize| value.get(at)?.as_u64().filter(|side| (1..=1 << 31).contains(side));
    match (side(0), side(1), value.get(2)) {
        (Some(height), Some(width), None) => Ok(Some([height as usize, width as usize])),
        _ => Err(config.error(field, format!("weight_block_size: expected two sizes, found {value}"))),
    }
}

#[cfg(test)]
mod tests;
