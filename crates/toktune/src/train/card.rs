//! The model card (`README.md`) of a saved adapter.

use super::arguments::{LORA_LEARNING_RATE, TrainingArguments};
use super::run::TrainOutput;
use super::schedule::Schedule;
use crate::config::PeftConfig;
use crate::error::Result;
use crate::peft::PeftModel;
use crate::text::AutoTokenizer;
use crate::weights::WeightsError;
use crate::weights::write_atomically;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

/// Tokens that the card lists by name.
const LISTED: usize = 64;

/// Writes `README.md` into `folder`: what was trained, on what, with which result, and how to load it.
pub(super) fn write(
    folder: &Path,
    model: &PeftModel,
    arguments: &TrainingArguments,
    schedule: &Schedule,
    tokenizer: Option<&AutoTokenizer>,
    output: &TrainOutput,
) -> Result<()> {
    let path = folder.join("README.md");
    let text = card(model, arguments, schedule, tokenizer, output)
        .map_err(|e| WeightsError::Serialise(e.to_string()))?;
    Ok(write_atomically(&path, |file| file.write_all(text.as_bytes()).map_err(WeightsError::io(&path)))?)
}

fn card(
    model: &PeftModel,
    arguments: &TrainingArguments,
    schedule: &Schedule,
    tokenizer: Option<&AutoTokenizer>,
    output: &TrainOutput,
) -> std::result::Result<String, std::fmt::Error> {
    let base = model.active_config().and_then(|config| config.common().base_model_name_or_path.as_deref());
    let base = base.unwrap_or("");
    let mut text = format!(
        "---\nlibrary_name: peft\nbase_model: {base:?}\ntags:\n- trainable-tokens\n{}- toktune\n---\n\n",
        if model.lora_layers().is_empty() { "" } else { "- lora\n" }
    );
    let tokens = model.token_indices();
    writeln!(text, "# Trained tokens for {base}\n")?;
    let method = match model.active_config() {
        Some(PeftConfig::Lora(lora)) => format!(
            "{} token rows of a frozen model and LoRA (r {}, alpha {}) on {} of its linear layers",
            tokens.len(),
            lora.r,
            lora.lora_alpha,
            model.lora_layers().len()
        ),
        _ => format!("{} token rows of a frozen model (PEFT's Trainable Tokens)", tokens.len()),
    };
    writeln!(text, "{method}, trained with toktune.\n")?;
    let meaning = |id: u32| tokenizer.and_then(|tokenizer| tokenizer.description(id));
    let described = tokens.iter().any(|&id| meaning(id).is_some());
    let (heading, line) = if described { (" meaning |", " --- |") } else { ("", "") };
    if !tokens.is_empty() {
        writeln!(text, "| id | token |{heading}\n| --- | --- |{line}")?;
    }
    for &id in tokens.iter().take(LISTED) {
        let name = tokenizer.and_then(|t| t.id_to_token(id)).unwrap_or_default();
        let cell = |text: &str| text.replace('|', "\\|").replace(['\n', '\r'], " ");
        let meaning = match described {
            true => format!(" {} |", cell(meaning(id).unwrap_or_default())),
            false => String::new(),
        };
        writeln!(text, "| {id} | `{}` |{meaning}", cell(&name.replace('`', "'")))?;
    }
    if tokens.len() > LISTED {
        writeln!(text, "| … | {} more |{}", tokens.len() - LISTED, if described { " |" } else { "" })?;
    }
    writeln!(text, "\n| setting | value |\n| --- | --- |")?;
    writeln!(text, "| steps | {} |", output.global_step)?;
    writeln!(
        text,
        "| sequences a step | {} |",
        arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    )?;
    writeln!(
        text,
        "| learning rate | {:.3e}, {}, warm-up {} |",
        schedule.learning_rate,
        schedule.kind.name(),
        schedule.warmup_steps
    )?;
    if !model.lora_layers().is_empty() {
        let rate = arguments.lora_learning_rate.unwrap_or(LORA_LEARNING_RATE);
        writeln!(text, "| learning rate of LoRA | {rate:.3e} |")?;
    }
    writeln!(text, "| seed | {} |", arguments.seed)?;
    if let Some((first, last)) = &output.first_and_last {
        writeln!(text, "| training loss, first and last step | {:.4}, {:.4} |", first.loss, last.loss)?;
    }
    if let (Some(before), Some(after)) = (&output.before, &output.after) {
        writeln!(text, "| held-out loss, before and after | {:.4}, {:.4} |", before.loss, after.loss)?;
    }
    let lost = model.layers_lost_by_resize();
    let resized = tokenizer.is_some() || model.base().vocabulary() > model.base().embedding().frozen().rows();
    if resized && !lost.is_empty() {
        writeln!(
            text,
            "\nPEFT cannot open this adapter: in a model that was resized for added tokens it does not find {}.",
            lost.join(", ")
        )?;
        writeln!(text, "Use it with toktune.")?;
    } else if base.to_lowercase().ends_with(".gguf") {
        writeln!(
            text,
            "\nThe base is a GGUF file, which PEFT cannot load. Use the adapter with toktune, with the folder"
        )?;
        writeln!(text, "that the file was made from, or as a plain model:\n")?;
        writeln!(
            text,
            "```sh\ntoktune merge --model {base} --adapter path/to/this/folder --output merged\n```"
        )?;
    } else {
        writeln!(text, "\n```python")?;
        match model.base().auto_peft_class() {
            Some(class) => {
                writeln!(text, "from peft import {class}\n")?;
                writeln!(text, "model = {class}.from_pretrained(\"path/to/this/folder\")")?;
            }
            None => {
                let class = model.base().auto_class();
                writeln!(text, "from peft import PeftModel\nfrom transformers import {class}\n")?;
                writeln!(text, "base = {class}.from_pretrained({base:?})")?;
                writeln!(text, "model = PeftModel.from_pretrained(base, \"path/to/this/folder\")")?;
            }
        }
        writeln!(text, "```")?;
    }
    Ok(text)
}
