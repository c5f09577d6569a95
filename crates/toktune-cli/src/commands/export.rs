//! `toktune export`.

use crate::args::{ExportArgs, ExportForm};
use crate::failure::Outcome;
use crate::load;
use crate::report;
use std::io::Write;
use std::path::Path;
use toktune::Device;
use toktune::export::{export_gguf, export_gguf_lora, export_lora_onehot, export_peft};
use toktune::peft::PeftModel;
use toktune::text::{AutoTokenizer, PatchedTokens};

/// Writes the adapter in the form that is asked for, and says what it takes to load it.
pub fn run(args: &ExportArgs) -> Outcome {
    toktune::runtime::instruction_set()?;
    let (mut base, tokenizer) = load::model(&args.model, &Device::Cpu)?;
    load::resize(&mut base, args.resize)?;
    let (model, _) = load::with_adapter(base, tokenizer, &args.adapter)?;
    // the base's own tokenizer is the base's to keep: only one with added tokens goes along
    let tokenizer = load::adapter_tokenizer(&args.adapter)?;
    match args.to {
        ExportForm::Peft => peft(args, &model, tokenizer.as_ref()),
        ExportForm::LoraOnehot => lora_onehot(args, &model, tokenizer.as_ref()),
        ExportForm::Gguf => gguf(args, &model, tokenizer.as_ref()),
        ExportForm::GgufLora => gguf_lora(args, &model),
    }
}

fn peft(args: &ExportArgs, model: &PeftModel, tokenizer: Option<&AutoTokenizer>) -> Outcome {
    let folder = export_peft(model, tokenizer, args.save_embedding_layers, &args.output)?;
    if folder.rows > folder.base_rows {
        resize_note(folder.rows, folder.base_rows, tokenizer);
    }
    done(&args.output, "as PEFT's files", folder.tokens)
}

fn lora_onehot(args: &ExportArgs, model: &PeftModel, tokenizer: Option<&AutoTokenizer>) -> Outcome {
    let lora = export_lora_onehot(model, tokenizer, &args.output)?;
    report::note(&format!(
        "rank {}: servers cap the rank of LoRA (vLLM by --max-lora-rank, SGLang by --max-lora-rank)",
        lora.rank
    ));
    if model.base().is_tied() {
        report::note(
            "the embedding and the head are one matrix of the base, and each has an update of its own: PEFT warns of it, \
             computes it right, and cannot merge it",
        );
    }
    if lora.rows > lora.base_rows {
        resize_note(lora.rows, lora.base_rows, tokenizer);
        report::warning(
            "a server that cannot resize its base (vLLM, SGLang) has no rows for the added tokens: give it the merged model",
        );
    }
    done(&args.output, &format!("as LoRA of rank {}", lora.rank), lora.tokens)
}

fn gguf(args: &ExportArgs, model: &PeftModel, tokenizer: Option<&AutoTokenizer>) -> Outcome {
    let file = export_gguf(model, tokenizer, &args.output)?;
    let matrices: Vec<String> =
        file.matrices.iter().map(|(name, dtype)| format!("{name} ({dtype})")).collect();
    report::note(&format!("rows written into {}; everything else is as it was", matrices.join(" and ")));
    let PatchedTokens { added, changed, single_word, end_of_turn, chat_template, .. } = &file.vocabulary;
    if let Some(end) = end_of_turn {
        report::note(&format!("a turn ends with {end} (tokenizer.ggml.eot_token_id)"));
    }
    if *chat_template {
        report::note("the adapter's chat template is in the file (tokenizer.chat_template)");
    }
    for (what, tokens) in [("added to the file's tokens", added), ("named anew in the file", changed)] {
        if !tokens.is_empty() {
            report::note(&format!("{what}: {}", tokens.join(" ")));
        }
    }
    if !single_word.is_empty() {
        report::warning(&format!(
            "llama.cpp has no rule for whole words: it takes {} in the middle of words too",
            single_word.join(" ")
        ));
    }
    let unnamed = file.rows.saturating_sub(file.base_rows) > added.len();
    if unnamed && tokenizer.is_none() {
        report::warning(
            "no tokenizer is in the adapter's folder: no text is cut into the tokens of the new rows",
        );
    }
    done(&args.output, "in a copy of the model", file.tokens)
}

fn gguf_lora(args: &ExportArgs, model: &PeftModel) -> Outcome {
    let lora = export_gguf_lora(model, &args.output)?;
    report::note(&format!("updates {} of {}", report::plural(lora.tensors.len(), "tensor"), args.model));
    done(&args.output, &format!("as a GGUF adapter of rank {}", lora.rank), lora.tokens)
}

/// Says how many rows whoever loads the folder needs.
fn resize_note(rows: usize, base_rows: usize, tokenizer: Option<&AutoTokenizer>) {
    // transformers counts tokens where ids may have holes
    let by_itself = match tokenizer.is_some_and(|tokenizer| tokenizer.vocab_size() == rows) {
        true => "; AutoPeftModel does it by the tokenizer in the folder",
        false => "",
    };
    report::note(&format!(
        "the base has {base_rows} rows, and the adapter needs `resize_token_embeddings({rows})`{by_itself}"
    ));
}

/// The line that says what there is now.
fn done(output: &Path, form: &str, tokens: usize) -> Outcome {
    let size = load::size_on_disk(output);
    let tokens = report::plural(tokens, "token");
    let mut out = std::io::stdout().lock();
    writeln!(out, "{tokens} {form} in {} ({})", output.display(), report::bytes(size))?;
    Ok(())
}
