//! What is in an adapter's folder.

use super::inspect::{Found, row};
use crate::failure::{Failure, Outcome};
use crate::load;
use crate::report;
use crate::report::spelling;
use serde_json::{Value, json};
use std::path::Path;
use toktune::Device;
use toktune::config::{CONFIG_FILE, LoraConfig, PeftConfig};
use toktune::peft::adapter_file;
use toktune::report::REPORT_FILE;
use toktune::weights::{Checkpoint, RowOrder};

/// Tokens of an adapter that are listed one by one.
const LISTED: usize = 64;

/// The part of a key that tells trained rows.
const ROWS: &str = "trainable_tokens_delta";

/// Reads the configuration and the tensors; `base` is a model whose tokenizer spells the tokens.
pub(super) fn look(folder: &Path, base: Option<&str>) -> Outcome<Found> {
    let config = PeftConfig::from_pretrained(folder)?;
    let stored = Checkpoint::open(&adapter_file(folder))?;
    let tokenizer = match load::adapter_tokenizer(folder)? {
        Some(own) => Some(own),
        None => base.map(|name| load::model(name, &Device::Cpu)).transpose()?.and_then(|(_, t)| t.ok()),
    };
    let tokens = config.token_indices();
    let mut table = head(&config, tokens.len());
    let mut tensors = Vec::new();
    for key in stored.names() {
        let shape = stored.shape(key).unwrap_or_default().to_vec();
        let dtype = stored.type_name(key).unwrap_or_default();
        if !key.ends_with(ROWS) {
            // updates are many and alike: they are counted above, and listed for programs
            if !key.contains(".lora_") {
                table.push(row("whole matrix", format!("{key} {shape:?} {dtype}")));
            }
            tensors.push(json!({"name": key, "shape": shape, "dtype": dtype}));
            continue;
        }
        let norms = norms(&stored, key, &shape)?;
        table.push(row("tensor", format!("{key} {shape:?} {dtype}")));
        tensors.push(json!({"name": key, "shape": shape, "dtype": dtype, "norms": norms}));
        let of_layer = tokens_of(&config, key);
        if shape.first() != Some(&of_layer.len()) {
            return Err(Failure::Failed(format!(
                "{}: tensor '{key}' has shape {shape:?}, but {CONFIG_FILE} names {} tokens",
                folder.display(),
                of_layer.len()
            )));
        }
        for (id, norm) in of_layer.iter().zip(&norms).take(LISTED) {
            let token = spelling(tokenizer.as_ref(), *id).map_or(String::new(), |token| format!(" {token}"));
            table.push(row("", format!("{id}{token}  norm {}", report::number(*norm))));
        }
        if of_layer.len() > LISTED {
            table.push(row("", format!("and {} more", of_layer.len() - LISTED)));
        }
    }
    let own_tokenizer = folder.join("tokenizer.json").is_file();
    table.push(row(
        "tokenizer",
        if own_tokenizer { "in the folder: tokens were added" } else { "the base's" },
    ));
    let report_file = folder.join(REPORT_FILE);
    let report_file = report_file.is_file().then(|| report_file.display().to_string());
    table.extend(report_file.as_ref().map(|path| row("report", path)));
    let spelled: Vec<Value> =
        tokens.iter().map(|id| json!({"id": id, "token": spelling(tokenizer.as_ref(), *id)})).collect();
    let mut json = json!({
        "kind": "adapter", "peft_type": config.peft_type(),
        "base": config.common().base_model_name_or_path, "tokens": spelled, "tensors": tensors,
        "report": report_file,
    });
    match &config {
        PeftConfig::TrainableTokens(config) => json["target_modules"] = json!(config.target_modules),
        PeftConfig::Lora(config) => {
            json["target_modules"] = json!(config.target_modules);
            json["r"] = config.r.into();
            json["lora_alpha"] = config.lora_alpha.into();
        }
    }
    Ok(Found { title: "adapter", rows: table, json })
}

fn head(config: &PeftConfig, tokens: usize) -> Vec<(String, String)> {
    let base = config.common().base_model_name_or_path.clone().unwrap_or_else(|| "not named".into());
    let (method, target) = match config {
        PeftConfig::TrainableTokens(config) => ("Trainable Tokens".to_string(), &config.target_modules),
        PeftConfig::Lora(lora) => (lora_line(lora), &lora.target_modules),
    };
    let target = target.as_ref().map_or("the embedding".into(), ToString::to_string);
    vec![
        row("method", method),
        row("base", base),
        row("target", target),
        row("tokens", report::count(tokens as u64)),
    ]
}

fn lora_line(config: &LoraConfig) -> String {
    let root = if config.use_rslora { ", scaled by the root of r" } else { "" };
    let tokens = if config.trainable_token_indices.is_some() { " and trained tokens" } else { "" };
    format!("LoRA{tokens}, r {}, alpha {}{root}", config.r, config.lora_alpha)
}

/// The tokens of the rows under `key`.
fn tokens_of<'a>(config: &'a PeftConfig, key: &str) -> &'a [u32] {
    let layer = key.trim_start_matches("base_model.model.").trim_end_matches(ROWS);
    config.tokens_of(layer.trim_end_matches("token_adapter.").trim_end_matches('.'))
}

/// The length of each row of a stored matrix.
fn norms(stored: &Checkpoint, key: &str, shape: &[usize]) -> Outcome<Vec<f64>> {
    let &[rows, width] = shape else {
        return Err(Failure::Failed(format!(
            "{}: tensor '{key}' has shape {shape:?}, expected rows",
            stored.path().display()
        )));
    };
    let values = stored.matrix(key, rows, width, RowOrder::Plain)?.decode_rows(0..rows);
    let norm = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    Ok(values.chunks_exact(width.max(1)).map(norm).collect())
}
