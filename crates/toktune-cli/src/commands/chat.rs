//! `toktune chat`.

use super::generate::config;
use crate::args::ChatArgs;
use crate::failure::{Failure, Outcome, usage};
use crate::load::{self, Loaded};
use crate::report;
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Write};
use toktune::config::{CONFIG_FILE, PeftConfig};
use toktune::generate::{FinishReason, Generator};
use toktune::models::ModelKind;
use toktune::text::{AutoTokenizer, ChatOptions};

/// What is typed before a line.
const PROMPT: &str = "> ";

/// Answers lines of the standard input until it ends.
pub fn run(args: &ChatArgs) -> Outcome {
    let machine = load::machine(&args.machine)?;
    let of = crate::args::ModelArgs { model: model_of(args)?, adapter: args.adapter.clone(), resize: None };
    let (model, tokenizer) = Loaded::open(&of, &machine)?;
    let tokenizer =
        tokenizer.map_err(|reason| Failure::Failed(format!("a conversation needs a tokenizer: {reason}")))?;
    if model.base().kind() != ModelKind::Causal {
        return Err(Failure::Failed(format!(
            "{}: expected a causal language model, found {}",
            of.model,
            model.base().kind()
        )));
    }
    if tokenizer.chat_template().is_none() {
        return Err(Failure::Failed(format!(
            "{}: the tokenizer has no chat template, so that it is not known how a conversation is written; `toktune generate` goes on \
             with a text",
            of.model
        )));
    }
    let chat = Chat {
        args,
        config: config(&args.sampling, model.base(), &tokenizer)?,
        model: &model,
        tokenizer: &tokenizer,
    };
    let mut messages = chat.beginning();
    let mut lines = std::io::stdin().lock().split(b'\n');
    loop {
        if std::io::stdin().is_terminal() {
            write!(std::io::stdout(), "{}", report::stdout_style().dim(PROMPT))?;
            std::io::stdout().flush()?;
        }
        let Some(line) = lines.next() else { break };
        let line = line.map_err(|error| Failure::Failed(format!("standard input: {error}")))?;
        match String::from_utf8_lossy(&line).trim() {
            "" => continue,
            "/quit" => break,
            "/reset" => messages = chat.beginning(),
            text => {
                messages.push(json!({"role": "user", "content": text}));
                match chat.answer(&messages) {
                    Ok(answer) => messages.push(json!({"role": "assistant", "content": answer})),
                    // the conversation before it stands
                    Err(Failure::Failed(reason)) => {
                        messages.pop();
                        report::note(&format!("not answered: {reason}; /reset forgets the conversation"));
                    }
                    Err(other) => return Err(other),
                }
            }
        }
    }
    Ok(())
}

/// The model that is named, or the one that the adapter was trained on.
fn model_of(args: &ChatArgs) -> Outcome<String> {
    let (None, Some(folder)) = (&args.model, &args.adapter) else {
        return Ok(args.model.clone().unwrap_or_default());
    };
    match PeftConfig::from_pretrained(folder)?.common().base_model_name_or_path.clone() {
        Some(name) => Ok(name),
        None => usage(format!(
            "--model: {} does not say which model the adapter was trained on",
            folder.join(CONFIG_FILE).display()
        )),
    }
}

/// A conversation that goes on.
struct Chat<'a> {
    args: &'a ChatArgs,
    config: toktune::GenerationConfig,
    model: &'a Loaded,
    tokenizer: &'a AutoTokenizer,
}

impl Chat<'_> {
    /// The messages before the first line.
    fn beginning(&self) -> Vec<Value> {
        self.args.system.iter().map(|text| json!({"role": "system", "content": text})).collect()
    }

    /// Writes the answer to `messages` as it comes; all of it but the token that ended it, for the messages that follow.
    fn answer(&self, messages: &[Value]) -> Outcome<String> {
        let mut options = ChatOptions::default();
        options.add_generation_prompt = true;
        let text = self.tokenizer.apply_chat_template(messages, &options)?;
        let prompt = self.tokenizer.encode(&text, false)?;
        let generator = Generator::new(self.model.base(), self.model.active(), self.config.clone())?;
        let mut tokens = generator.generate(&prompt)?;
        let shows = self.args.show_special_tokens;
        let (mut stream, mut ids) = (self.tokenizer.decode_stream(!shows), Vec::new());
        let (style, trained) = (report::stdout_style(), self.model.tokens());
        let to_terminal = std::io::stdout().is_terminal();
        let mut out = std::io::stdout().lock();
        for id in tokens.by_ref() {
            let id = id?;
            ids.push(id);
            let Some(piece) = stream.push(id)? else { continue };
            let piece = if to_terminal { report::harmless(&piece) } else { piece.as_str().into() };
            let is_marked = shows && (trained.contains(&id) || self.tokenizer.is_special(id));
            let piece = if is_marked { style.yellow(&piece) } else { piece.into_owned() };
            out.write_all(piece.as_bytes())?;
            out.flush()?;
        }
        out.write_all(stream.finish()?.unwrap_or_default().as_bytes())?;
        out.write_all(b"\n")?;
        if tokens.finish_reason() == Some(FinishReason::MaxNewTokens) {
            report::note("--max-new-tokens is reached");
        }
        // special tokens that were written are part of what was said
        ids.truncate(ids.len() - usize::from(tokens.finish_reason() == Some(FinishReason::EndToken)));
        Ok(self.tokenizer.decode(&ids, false)?)
    }
}
