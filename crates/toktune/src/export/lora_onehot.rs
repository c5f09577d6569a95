//! Trained rows as LoRA in PEFT's files, for programs that load LoRA and no trainable tokens.

use super::base_rows::BaseRows;
use super::error::{ExportError, Result};
use super::low_rank::{Layout, LowRank, Update};
use super::peft_folder::write_folder;
use super::write_file;
use crate::config::{CONFIG_FILE, LoraConfig, PeftConfig, TargetModules};
use crate::models::PretrainedModel;
use crate::peft::{ADAPTER_FILE, BaseModel, PeftModel};
use crate::text::AutoTokenizer;
use crate::weights::{WeightType, write_safetensors};
use serde_json::Map;
use std::path::Path;

/// What a folder of one-hot LoRA asks of whoever loads it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OneHotLora {
    /// The rank of every update: the number of trained tokens, or that of the LoRA beside them where it is larger. Servers cap
    /// ranks.
    pub rank: usize,
    /// The tokens whose rows it replaces.
    pub tokens: usize,
    /// Rows that the base's token matrices must have, neither more nor fewer.
    pub rows: usize,
    /// Rows that they have in its files.
    pub base_rows: usize,
}

/// Writes the active adapter as a folder of PEFT's with LoRA alone: each trained row is a one-hot update of rank 1 of the
/// embedding, the head, or both, and gives the same logits as the row does; LoRA beside the rows is in it too. In a tied model
/// both modules are updated, each on its own, so it is to be used as it is and not merged by PEFT.
///
/// Rows of added tokens are differences to the mean of the base's rows, from which transformers starts the rows of a resize
/// (to within its noise). `tokenizer` is written into the folder: the one that has the added tokens.
///
/// # Errors
/// `folder` is in use; not exactly one adapter is active, or it brings biases or whole modules, or whole matrices with other
/// rows; the base's rows are rounded to blocks; the model reads its matrix through several modules; a file cannot be written.
pub fn export_lora_onehot(
    model: &PeftModel,
    tokenizer: Option<&AutoTokenizer>,
    folder: &Path,
) -> Result<OneHotLora> {
    let low_rank = LowRank::of(model)?;
    if !model.layers().is_empty() {
        check_plain(model)?;
    }
    let config = PeftConfig::Lora(config(model, &low_rank)?);
    write_folder(folder, tokenizer, |output| {
        write_tensors(&low_rank, &output.join(ADAPTER_FILE))?;
        Ok(write_file(&output.join(CONFIG_FILE), config.to_json()?.as_bytes())?)
    })?;
    let base = model.base();
    let base_rows = BaseRows::of(base, base.embedding())?.matrix().rows();
    Ok(OneHotLora {
        rank: low_rank.rank,
        tokens: model.token_indices().len(),
        rows: base.vocabulary(),
        base_rows,
    })
}

/// Refuses matrices whose rows no other file of the model has.
fn check_plain(model: &PeftModel) -> Result<()> {
    let base = model.base();
    for matrix in [base.embedding(), base.head()] {
        let stored = BaseRows::of(base, matrix)?;
        let (tensor, dtype) = (stored.matrix().name().to_owned(), stored.matrix().dtype());
        if !matches!(dtype, WeightType::F32 | WeightType::F16 | WeightType::BF16) {
            return Err(ExportError::RoundedRows { tensor, dtype });
        }
    }
    Ok(())
}

fn config(model: &PeftModel, low_rank: &LowRank<'_>) -> Result<LoraConfig> {
    let adapter = model.trained_adapter()?;
    let modules: Vec<&str> = low_rank.updates.iter().map(Update::module).collect();
    let mut common = adapter.config().common().clone();
    // what else its file says is of the method that it no longer is
    common.other.clear();
    common.inference_mode = true;
    let fan_in_fan_out = match adapter.config() {
        PeftConfig::Lora(config) => config.fan_in_fan_out,
        PeftConfig::TrainableTokens(_) => false,
    };
    Ok(LoraConfig {
        r: low_rank.rank,
        lora_alpha: low_rank.rank as f64,
        target_modules: Some(TargetModules::Names(targets(model.base(), &modules))),
        fan_in_fan_out,
        common,
        ..LoraConfig::default()
    })
}

/// Names that mean these modules and no other: the last part of a name where it is enough, as servers expect it.
fn targets(base: &PretrainedModel, modules: &[&str]) -> Vec<String> {
    let all = base.named_layers();
    let fixed = base.fixed_linears();
    let names: Vec<&str> =
        all.iter().map(|layer| layer.name.as_str()).chain(fixed.iter().map(String::as_str)).collect();
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let mut targets: Vec<String> = Vec::new();
    for module in modules {
        let ending = last(module);
        // PEFT also looks at modules that hold others, as `model.decoder`
        let within = |name: &str| name.split('.').rev().skip(1).any(|part| part == ending);
        let alone = |name: &&str| !within(name) && (last(name) != ending || modules.contains(name));
        let target = match !base.has_other_linears() && names.iter().all(alone) {
            true => ending,
            false => (*module).to_owned(),
        };
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    targets
}

/// PEFT's names of a module's two factors.
fn keys(update: &Update<'_>) -> [String; 2] {
    let module = update.module();
    let (infix, ending) = match update {
        Update::Embedding(_) => ("lora_embedding", ""),
        Update::Head(_) | Update::Linear(..) => ("lora", ".weight"),
    };
    ["A", "B"].map(|factor| format!("base_model.model.{module}.{infix}_{factor}{ending}"))
}

fn write_tensors(low_rank: &LowRank<'_>, path: &Path) -> Result<()> {
    let headers = low_rank.headers(Layout::Peft, keys);
    let metadata = Map::from_iter([("format".to_owned(), "pt".into())]);
    write_safetensors(path, &metadata, &headers, |number, out| low_rank.write(Layout::Peft, number, out))
}
