//! `toktune generate`.

use crate::args::{GenerateArgs, SamplingArgs};
use crate::failure::{Failure, Outcome};
use crate::load::{self, Loaded, set_languages};
use crate::report;
use crate::report::spelling;
use serde_json::Value;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Instant;
use toktune::generate::{FinishReason, GenerationConfig, Generator};
use toktune::models::{ModelKind, PretrainedModel};
use toktune::text::{AutoTokenizer, ChatOptions};

/// Streams the generated text to the standard output.
pub fn run(args: &GenerateArgs) -> Outcome {
    let machine = load::machine(&args.machine)?;
    let (model, mut tokenizer) = Loaded::open(&args.model, &machine)?;
    set_languages(&mut tokenizer, &args.languages)?;
    let tokenizer =
        tokenizer.map_err(|reason| Failure::Failed(format!("generating needs a tokenizer: {reason}")))?;
    let config = config(&args.sampling, model.base(), &tokenizer)?;
    let prompt = prompt(args, &tokenizer, model.base().kind() == ModelKind::Seq2Seq)?;
    let generator = Generator::new(model.base(), model.active(), config)?;
    let mut tokens = generator.generate(&prompt)?;
    let mut stream = tokenizer.decode_stream(!args.show_special_tokens);
    let mut out = std::io::stdout().lock();
    // a file gets the text as it is, and a terminal nothing that it would act on
    let to_terminal = std::io::stdout().is_terminal();
    let mut write = |piece: Option<String>| match piece {
        Some(piece) if to_terminal => {
            out.write_all(report::harmless(&piece).as_bytes()).and_then(|()| out.flush())
        }
        Some(piece) => out.write_all(piece.as_bytes()).and_then(|()| out.flush()),
        None => Ok(()),
    };
    let (start, mut count, mut hidden) = (Instant::now(), 0usize, Vec::new());
    for id in tokens.by_ref() {
        let id = id?;
        count += 1;
        if !args.show_special_tokens && tokenizer.is_special(id) && model.tokens().contains(&id) {
            hidden.push(id);
        }
        write(stream.push(id)?)?;
    }
    write(stream.finish()?)?;
    write(Some("\n".into()))?;
    tell_hidden(&hidden, &tokenizer);
    if std::io::stderr().is_terminal() {
        let seconds = start.elapsed().as_secs_f64();
        let reason = match tokens.finish_reason() {
            Some(FinishReason::EndToken) => "the model ended the text",
            Some(FinishReason::MaxNewTokens) => "--max-new-tokens is reached",
            Some(FinishReason::MaxPositions) => "the model has no more positions",
            Some(FinishReason::StopString) => "--stop was found",
            Some(_) | None => "stopped",
        };
        let tokens = report::plural(count, "token");
        report::note(&format!("{tokens}, {:.1} tokens/s; {reason}", count as f64 / seconds));
    }
    Ok(())
}

/// The model's own settings with the flags over them. Greedy whatever the model's folder says, unless a flag
/// asks for sampling: what was trained shows best without chance.
pub(super) fn config(
    args: &SamplingArgs,
    model: &PretrainedModel,
    tokenizer: &AutoTokenizer,
) -> Outcome<GenerationConfig> {
    let mut config = GenerationConfig::of_model(model)?.with_ends_of(tokenizer);
    let sampling = args.temperature.is_some() || args.top_p.is_some() || args.top_k.is_some();
    config.do_sample = args.do_sample || sampling;
    config.max_new_tokens = args.max_new_tokens;
    config.seed = args.seed;
    config.temperature = args.temperature.unwrap_or(config.temperature);
    config.top_p = args.top_p.unwrap_or(config.top_p);
    config.top_k = args.top_k.unwrap_or(config.top_k);
    config.repetition_penalty = args.repetition_penalty.unwrap_or(config.repetition_penalty);
    config.forced_bos_token_id = tokenizer.forced_bos_token_id().or(config.forced_bos_token_id);
    config.decoder_start_token_id = tokenizer.decoder_start_token_id();
    Ok(config)
}

fn prompt(args: &GenerateArgs, tokenizer: &AutoTokenizer, is_encoder: bool) -> Outcome<Vec<u32>> {
    match (&args.prompt, &args.messages) {
        (_, Some(path)) => conversation(path, tokenizer),
        // an encoder reads a text in its whole frame
        (prompt, None) if is_encoder => Ok(tokenizer.encode(prompt.as_deref().unwrap_or_default(), true)?),
        (prompt, None) => Ok(tokenizer.encode_prompt(prompt.as_deref().unwrap_or_default())?),
    }
}

fn conversation(path: &Path, tokenizer: &AutoTokenizer) -> Outcome<Vec<u32>> {
    let fault = |problem: String| Failure::Failed(format!("{}: {problem}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| fault(e.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| fault(format!("not JSON: {e}")))?;
    let (messages, tools) = match value {
        Value::Array(messages) => (messages, None),
        Value::Object(mut object) => match object.remove("messages") {
            Some(Value::Array(messages)) => {
                (messages, object.remove("tools").filter(|tools| !tools.is_null()))
            }
            _ => return Err(fault("expected a list of messages under `messages`".into())),
        },
        _ => return Err(fault("expected a list of messages, or an object with `messages`".into())),
    };
    if messages.is_empty() {
        return Err(fault("no messages".into()));
    }
    let mut options = ChatOptions::default();
    (options.add_generation_prompt, options.tools) = (true, tools);
    let text = tokenizer.apply_chat_template(&messages, &options).map_err(|e| fault(e.to_string()))?;
    Ok(tokenizer.encode(&text, false)?)
}

/// A trained token that is generated and not seen looks like one that was not learnt.
fn tell_hidden(hidden: &[u32], tokenizer: &AutoTokenizer) {
    if hidden.is_empty() {
        return;
    }
    let mut ids = hidden.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let names: Vec<String> =
        ids.iter().map(|id| spelling(Some(tokenizer), *id).unwrap_or_default()).collect();
    report::note(&format!(
        "{} generated and hidden: {}; --show-special-tokens shows them",
        report::plural(hidden.len(), "trained special token"),
        names.join(", ")
    ));
}
