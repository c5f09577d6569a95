//! `toktune inspect`: what a path holds is told by what lies there.

use super::inspect_adapter;
use crate::args::{InspectArgs, LogFormat};
use crate::data::{self, Sources};
use crate::failure::Outcome;
use crate::load;
use crate::report;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use toktune::Device;
use toktune::config::CONFIG_FILE;
use toktune::data::{Collator, DataOptions, DataSource, survey};
use toktune::models::ModelKind;
use toktune::text::AutoTokenizer;

/// What was found: a title, named values for people, and all of it for programs.
pub(super) struct Found {
    pub(super) title: &'static str,
    pub(super) rows: Vec<(String, String)>,
    pub(super) json: Value,
}

/// Looks and tells.
pub fn run(args: &InspectArgs) -> Outcome {
    toktune::runtime::instruction_set()?;
    let path = &args.path;
    // a split may stand behind a folder of data
    let source = DataSource::parse(&path.to_string_lossy()).unwrap_or_else(|_| DataSource::new(path));
    let found = if path.join(CONFIG_FILE).is_file() {
        inspect_adapter::look(path, args.model.as_deref())?
    } else if source.path.exists() && !is_model(&source.path) {
        rows(args, &source)?
    } else {
        model(&path.to_string_lossy())?
    };
    if args.output.log_format == LogFormat::Json {
        return Ok(report::json_line(&found.json)?);
    }
    let style = report::stdout_style();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", style.bold(found.title))?;
    for line in report::pairs(&found.rows, style) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

pub(super) fn row(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_string(), value.into())
}

fn model(name: &str) -> Outcome<Found> {
    let (model, tokenizer) = load::model(name, &Device::Cpu)?;
    let checkpoint = model.checkpoint();
    let (embedding, head) = (model.embedding_name(), model.head_name());
    let rows = model.vocabulary();
    let tokens = tokenizer.as_ref().ok().map(AutoTokenizer::vocab_size);
    let rms = model.embedding().statistics().1 as f64;
    let dtype = model.embedding().frozen().dtype().to_string();
    let sizes = format!(
        "{} layers, width {}, {} heads ({} for keys and values), MLP width {}",
        model.num_hidden_layers(),
        model.hidden_size(),
        model.num_attention_heads(),
        model.num_key_value_heads(),
        model.intermediate_size()
    );
    let count = |n: usize| report::count(n as u64);
    let vocabulary = match (&tokenizer, tokens) {
        (_, Some(tokens)) => format!(
            "{} rows, {} tokens, {}",
            count(rows),
            count(tokens),
            report::plural(rows.saturating_sub(tokens), "unused padding row")
        ),
        (Err(reason), _) => format!("{} rows; no tokenizer: {reason}", count(rows)),
        _ => count(rows),
    };
    let modules: Vec<&str> = model.embedding_modules().collect();
    let embeddings = modules.join(", ");
    let target = match (model.has_head(), model.is_tied()) {
        (false, _) => format!("{embeddings} (no head)"),
        (true, true) => format!("{embeddings} (the head {head} is tied to it)"),
        (true, false) => format!("{embeddings}, {head} (not tied)"),
    };
    let mut table = vec![
        row("family", format!("{} ({})", model.family().name, model.config().model_type())),
        row("kind", format!("{} ({})", model.kind(), model.auto_class())),
        row("parameters", report::count(model.num_parameters())),
        row("on disk", format!("{}, embedding as {dtype}", report::bytes(checkpoint.total_bytes()))),
        row("sizes", sizes),
        row("positions", model.max_positions().map_or("unlimited".into(), count)),
        row("vocabulary", vocabulary),
        row(
            "embedding",
            format!(
                "root mean square {}: default learning rate {}",
                report::number(rms),
                report::number(0.03 * rms)
            ),
        ),
        row("target", target),
        row("constant", model.kind().shortcuts()),
    ];
    let mut json = json!({
        "kind": "model", "family": model.family().name, "model_type": model.config().model_type(),
        "parameters": model.num_parameters(), "bytes": checkpoint.total_bytes(), "dtype": dtype,
        "layers": model.num_hidden_layers(), "hidden_size": model.hidden_size(), "max_positions": model.max_positions(),
        "vocabulary_rows": rows, "tokenizer_size": tokens,
        "unused_rows": tokens.map(|tokens| rows.saturating_sub(tokens)),
        "tied": model.is_tied(), "embedding_rms": rms, "embedding": embedding, "head": head,
        "embedding_modules": modules, "auto_class": model.auto_class(),
    });
    if model.kind() == ModelKind::SentencePairs {
        let sentence = model.sentence();
        let length =
            sentence.max_seq_length.map_or(String::new(), |most| format!(", of {most} tokens at most"));
        table.push(row("pooling", sentence.describe() + &length));
        json["pooling"] = json!({
            "modes": sentence.pooling.iter().map(|mode| mode.name()).collect::<Vec<_>>(),
            "normalise": sentence.normalise, "max_seq_length": sentence.max_seq_length,
        });
    }
    Ok(Found { title: "model", rows: table, json })
}

/// Whether a file or folder holds a model.
fn is_model(path: &Path) -> bool {
    let is_gguf = |path: &Path| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    let holds_gguf =
        || std::fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(|entry| is_gguf(&entry.path())));
    is_gguf(path) || (path.is_dir() && (path.join("config.json").is_file() || holds_gguf()))
}

fn rows(args: &InspectArgs, source: &DataSource) -> Outcome<Found> {
    // the rows are counted for any model
    let any = data::options(&args.options, &Collator::Causal, usize::MAX);
    let found = survey(source, &any)?;
    let kinds: Vec<String> = found
        .kinds
        .iter()
        .map(|(kind, rows)| format!("{} with `{kind}`", report::count(*rows as u64)))
        .collect();
    let mut table = vec![row("rows", report::count(found.rows as u64)), row("kinds", kinds.join(", "))];
    if found.labelled > 0 {
        let apart = match found.labels_apart {
            0 => String::new(),
            rows => format!(
                ", {} of them as many as an encoder-decoder model alone takes",
                report::count(rows as u64)
            ),
        };
        table.push(row("labels", format!("{} with their own{apart}", report::plural(found.labelled, "row"))));
    }
    if found.messages > 0 {
        table.push(row("messages", report::count(found.messages as u64)));
    }
    let mut json = json!({
        "kind": "data", "rows": found.rows, "kinds": found.kinds, "labelled_rows": found.labelled,
        "rows_with_labels_apart": found.labels_apart, "messages": found.messages,
    });
    match &args.model {
        Some(name) => {
            let (mut rows, numbers) = lengths(args, name)?;
            table.append(&mut rows);
            json["tokens"] = numbers;
        }
        None => table.push(row("tokens", "give --model to count them")),
    }
    Ok(Found { title: "data", rows: table, json })
}

fn lengths(args: &InspectArgs, model: &str) -> Outcome<(Vec<(String, String)>, Value)> {
    let (model, tokenizer) = load::model(model, &Device::Cpu)?;
    let collator = Collator::of(&model, tokenizer.as_ref().ok(), 0);
    // longer rows than the model can take are counted, not refused
    let options: DataOptions = data::options(&args.options, &collator, model.vocabulary());
    let sources = Sources::find(&[args.path.to_string_lossy().into_owned()], false)?;
    let data = data::read_sources(&sources, &tokenizer, &options)?;
    let mut sequences = Vec::new();
    for example in data.examples() {
        let example = example?;
        sequences.extend([example.input_ids.len(), example.second.len()]);
    }
    let mut lengths: Vec<usize> = sequences.into_iter().filter(|length| *length > 0).collect();
    lengths.sort_unstable();
    let at = |share: usize| lengths[(lengths.len() - 1) * share / 100];
    let (shortest, median, long, longest) = (at(0), at(50), at(95), at(100));
    let too_long = model.max_positions().map_or(0, |most| lengths.iter().filter(|n| **n > most).count());
    let mut rows = vec![
        row(
            "tokens",
            format!(
                "{} ({} learnt)",
                report::count(data.tokens() as u64),
                report::count(data.label_tokens() as u64)
            ),
        ),
        row("lengths", format!("shortest {shortest}, median {median}, 95 % up to {long}, longest {longest}")),
    ];
    if too_long > 0 {
        rows.push(row("too long", format!("{} for the model's positions", report::plural(too_long, "row"))));
    }
    let json = json!({
        "all": data.tokens(), "labels": data.label_tokens(), "shortest": shortest, "median": median,
        "longest": longest, "too_long": too_long,
    });
    Ok((rows, json))
}
