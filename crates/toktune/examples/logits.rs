//! The logits of rows of token ids, one JSON list of lists a line: what `tools/interop` compares with PEFT.
//!
//!     cargo run --example logits -- MODEL ROWS.jsonl [NAME=ADAPTER ...] [--names NAME,NAME,...]
//!
//! With `--names` each row has an adapter of its own (`__base__` for none), else the first adapter acts on all. A tokenizer
//! in an adapter's folder says how many rows the model needs.

use std::path::Path;
use toktune::peft::PeftModel;
use toktune::weights::WeightsError;
use toktune::{AutoModelForCausalLM, AutoTokenizer, Device};

fn rows(path: &Path) -> toktune::Result<Vec<Vec<u32>>> {
    let text = std::fs::read_to_string(path).map_err(WeightsError::io(path))?;
    let row = |line: &str| -> Option<Vec<u32>> {
        let row: serde_json::Value = serde_json::from_str(line).ok()?;
        row.get("input_ids")?.as_array()?.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect()
    };
    let fault = || WeightsError::Serialise(format!("{}: expected rows with input_ids", path.display()));
    Ok(text.lines().map(|line| row(line).ok_or_else(fault)).collect::<Result<_, _>>()?)
}

fn main() -> toktune::Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let at = arguments.iter().position(|argument| argument == "--names");
    let names = at.map(|at| arguments.split_off(at)).and_then(|rest| rest.get(1).cloned());
    let [model, data, adapters @ ..] = arguments.as_slice() else {
        return Err(WeightsError::Serialise(
            "expected MODEL ROWS.jsonl [NAME=ADAPTER ...] [--names ...]".into(),
        )
        .into());
    };
    let adapters: Vec<(&str, &str)> = adapters.iter().filter_map(|adapter| adapter.split_once('=')).collect();
    let mut base = AutoModelForCausalLM::from_pretrained(model, &Device::Cpu)?;
    for (_, folder) in &adapters {
        if let Ok(tokenizer) = AutoTokenizer::from_pretrained(folder) {
            base.resize_token_embeddings(tokenizer.required_rows());
        }
    }
    let mut model = PeftModel::without_adapter(base);
    for (name, folder) in &adapters {
        let result = model.load_adapter(Path::new(folder), name)?;
        if !result.missing_keys.is_empty() || !result.unexpected_keys.is_empty() {
            return Err(WeightsError::Serialise(format!("{folder}: {result:?}")).into());
        }
    }
    if let Some((name, _)) = adapters.first() {
        model.set_adapter(&[name])?;
    }
    let rows = rows(Path::new(data))?;
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let names: Option<Vec<&str>> = names.as_deref().map(|names| names.split(',').collect());
    for logits in model.forward(&rows, names.as_deref())? {
        let lines: Vec<&[f32]> = logits.chunks_exact(model.base().head().rows()).collect();
        println!("{}", serde_json::to_string(&lines).map_err(|e| WeightsError::Serialise(e.to_string()))?);
    }
    Ok(())
}
